"""`shadowmmu kernels`: the kernels that the model knows, and in what two of them differ."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.manual import Manual

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shadowmmu.kvm.design.switches import Profile, Switch

__all__ = ["kernels"]

_INDENT = 6
_WIDEST = 100
_SCENARIOS = Path(__file__).parents[3] / "scenarios" / "kernels"
"""NAME.txt shows what the switch NAME does; only in a clone of the repository."""


@click.command(
    cls=Manual,
    short_help="List the kernels, or in what two of them differ.",
    statuses={"0": "The kernels, or the differences, were printed."},
    examples={
        "shadowmmu kernels": "Whose KVM the model can be",
        "shadowmmu kernels 6.12.111 7.3.4": "What a patch meets that is ported from one to the other",
    },
)
@click.argument("releases", nargs=-1, metavar="[RELEASE [RELEASE]]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def kernels(*, releases: tuple[str, ...], as_json: bool) -> None:
    """List the kernels that --kernel takes; with one RELEASE how it differs from the default, with two
    in what they differ.

    Each difference is a switch (`shadowmmu designs`): `run --kernel A --design SWITCH=VALUE` shows what
    it does by itself. Where a scenario is named, its two runs differ by it.
    """
    from shadowmmu.kvm.design.switches import DEFAULT_KERNEL, PROFILES, DesignError, profile_of

    if len(releases) > 2:
        raise click.UsageError("Give at most two releases.")
    try:
        chosen = [profile_of(release) for release in releases]
    except DesignError as error:
        raise click.ClickException(str(error)) from None
    if not chosen:
        _print_all(PROFILES, as_json=as_json)
        return
    before, after = chosen if len(chosen) > 1 else (profile_of(DEFAULT_KERNEL), chosen[0])
    if as_json:
        rows = {switch.name: _described(switch, before, after) for switch in _differing(before, after)}
        click.echo(json.dumps({"kernels": [before.kernel, after.kernel], "switches": rows}, indent=1))
        return
    width = min(get_terminal_size().columns, _WIDEST)
    for switch in _differing(before, after):
        click.echo("\n".join(_lines(switch, before, after, width)))
    click.echo(f"{before.kernel} and {after.kernel}: {len(_differing(before, after))} switches differ")


def _print_all(profiles: tuple[Profile, ...], *, as_json: bool) -> None:
    found = {
        profile.kernel: {"series": profile.series, "switches": dict(profile.values)} for profile in profiles
    }
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for profile in profiles:
        count = len(profile.values)
        other = f"{count} switches other than there" if count else "the default"
        click.echo(f"{click.style(profile.kernel, fg='cyan'):<20} for releases {profile.series}*: {other}")


def _differing(before: Profile, after: Profile) -> list[Switch]:
    from shadowmmu.kvm.design.switches import SWITCHES

    return [switch for switch in SWITCHES if _value(switch, before) != _value(switch, after)]


def _value(switch: Switch, profile: Profile) -> str:
    return profile.values.get(switch.name, switch.default)


def _described(switch: Switch, before: Profile, after: Profile) -> dict[str, str | None]:
    return {
        before.kernel: _value(switch, before),
        after.kernel: _value(switch, after),
        "effect": switch.effect,
        "origin": switch.origin,
        "scenario": _scenario(switch),
    }


def _scenario(switch: Switch) -> str | None:
    """Return the path of the scenario that shows a switch, from the top of the
    repository; None if there is none.
    """
    path = _SCENARIOS / f"{switch.name}.txt"
    return str(path.relative_to(_SCENARIOS.parents[1])) if path.is_file() else None


def _lines(switch: Switch, before: Profile, after: Profile, width: int) -> Iterator[str]:
    values = f"{_value(switch, before)} -> {_value(switch, after)}"
    yield f"  {click.style(switch.name, fg='cyan')}: {values}"
    scenario = _scenario(switch)
    for text in (switch.effect, f"[{switch.origin}]", *([scenario] if scenario else [])):
        indent = " " * _INDENT
        yield from wrap(text, width, initial_indent=indent, subsequent_indent=indent)
