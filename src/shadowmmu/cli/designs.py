"""`shadowmmu designs`: the switches of the MMU's design, what each changes and where it comes from."""

from __future__ import annotations

import json
from itertools import groupby
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.manual import Manual

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shadowmmu.kvm.design.switches import Switch

__all__ = ["designs"]

_INDENT = 6
_WIDEST = 100
_MOST = 10
"""Values of a switch that are listed; of more only the default (--json has them all)."""


@click.command(
    cls=Manual,
    short_help="List the switches: values, default, origin, effect.",
    statuses={"0": "The switches were printed."},
    examples={
        "shadowmmu designs split_flush": "What one switch does, and which kernels have which value",
        "shadowmmu designs --json": "All of them for a program",
    },
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with a member for each switch.")
def designs(*, names: tuple[str, ...], as_json: bool) -> None:
    """List the switches that --design KEY=VALUE sets, with their values; with NAMEs only those.

    A switch is one thing in which kernels differ, or one choice that a kernel mail argues about. The default,
    that of Linux 6.12.111, is marked by *, a value that is known to be wrong by !. A kernel (--kernel) is a
    set of values.
    """
    from shadowmmu.kvm.design.switches import SWITCHES, DesignError, switch_named

    try:
        chosen = [switch_named(name) for name in names] or list(SWITCHES)
    except DesignError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps({switch.name: _described(switch) for switch in chosen}, indent=1))
        return
    width = min(get_terminal_size().columns, _WIDEST)
    for mail, group in groupby(sorted(chosen, key=lambda switch: switch.mail), key=lambda s: s.mail):
        click.secho(f"mail {mail}" if mail else "kernels", bold=True)
        for switch in group:
            click.echo("\n".join(_lines(switch, width)))
        click.echo()


def _described(switch: Switch) -> dict[str, object]:
    from shadowmmu.kvm.design.switches import PROFILES, values_named

    return {
        "values": values_named(switch),
        "default": switch.default,
        "unsafe": list(switch.unsafe),
        "kernels": {profile.kernel: profile.values.get(switch.name, switch.default) for profile in PROFILES},
        "mail": switch.mail,
        "origin": switch.origin,
        "effect": switch.effect,
    }


def _lines(switch: Switch, width: int) -> Iterator[str]:
    from shadowmmu.kvm.design.switches import values_named

    values = values_named(switch)
    marked = [_marked(switch, value) for value in values[:_MOST]]
    if len(values) > _MOST:
        marked = [_marked(switch, switch.default), f"{len(values) - 1} others!"]
    yield f"  {click.style(switch.name, fg='cyan')} = {' | '.join(marked)}"
    yield from _paragraph(switch.effect, width)
    yield from _paragraph(f"[{switch.origin}]", width)


def _marked(switch: Switch, value: str) -> str:
    if value == switch.default:
        return f"{value}*"
    return f"{value}!" if value in switch.unsafe else value


def _paragraph(text: str, width: int) -> Sequence[str]:
    indent = " " * (_INDENT)
    return wrap(text, width, initial_indent=indent, subsequent_indent=indent)
