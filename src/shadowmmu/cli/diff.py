"""`shadowmmu diff`: a scenario on two machines, side by side."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.inputs import Changes, checked_designs, checked_kernel
from shadowmmu.cli.manual import Manual
from shadowmmu.cli.show import history_of

if TYPE_CHECKING:
    from shadowmmu.show.diff.difference import Difference

__all__ = ["diff"]

_SIDES = 2
_NARROWEST = 80


@click.command(
    cls=Manual,
    short_help="Play a scenario on two machines and show what differs.",
    statuses={"0": "Both sides were played, whether or not they differ."},
    examples={
        "shadowmmu diff scenarios/mails/001-split-flush.txt --design split_flush=never": "What one switch "
        "changes",
        "shadowmmu diff scenarios/mails/003-prefetch-window.txt --design prefetch_window=off "
        "--design prefetch_window=16_aligned": "Two values of a switch",
        "shadowmmu diff tests/conformance/scenarios/c-flood.txt --kernel 6.1": "Two kernels",
    },
)
@click.argument("files", metavar="FILE [OTHER]", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--kernel",
    "kernels",
    metavar="RELEASE",
    multiple=True,
    help="Whose KVM: 6.12.111 (default) or 6.1.176. Repeatable.",
)
@click.option(
    "--vendor",
    "vendors",
    type=click.Choice(["amd", "intel"]),
    multiple=True,
    help="Whose processor. Repeatable.",
)
@click.option(
    "--param", "params", metavar="KEY=VALUE", multiple=True, help="Set a module parameter. Repeatable."
)
@click.option(
    "--design",
    "designs",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set a switch of the MMU's design. Repeatable.",
)
@click.option("--tlb", is_flag=True, help="Keep TLB entries between ops, on both sides.")
@click.option("--all", "show_equal", is_flag=True, help="Show the ops that are equal, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diff(
    *,
    files: tuple[Path, ...],
    kernels: tuple[str, ...],
    vendors: tuple[str, ...],
    params: tuple[str, ...],
    designs: tuple[str, ...],
    tlb: bool,
    show_equal: bool,
    as_json: bool,
) -> None:
    """Play FILE on two machines, or compare it with OTHER, and show in two columns what differs.

    A setting that is given once is of the right side only; the left side is the scenario as it is. Given
    twice, the first value is the left side's: --design split_flush=always --design split_flush=never.
    FILE and OTHER may be recordings of real KVM, too.

    Shadow pages are matched by what they are, and have the left side's names; one that the left side does not
    have is S9'.
    """
    from shadowmmu.show.diff.difference import as_json as as_data, compare_timelines
    from shadowmmu.show.diff.verdict import verdict

    if len(files) > _SIDES:
        raise click.UsageError(f"{len(files)} files are given; give one, or two to compare")
    sides = _sides(kernels, vendors, params, designs)
    names = _names(sides) if len(files) == 1 else (str(files[0]), str(files[1]))
    if len(files) == 1 and sides[0] == sides[1]:
        raise click.UsageError(
            "both sides are the same; give a --design, --kernel, --vendor or --param, or OTHER"
        )
    left, right = (
        history_of(file, changes, tlb=tlb) for file, changes in zip((files[0], files[-1]), sides, strict=True)
    )
    found = compare_timelines(left, right, names)
    sentence = verdict(found, dict.fromkeys([*_unsafe(sides[0].designs), *_unsafe(sides[1].designs)]))
    if as_json:
        click.echo(json.dumps(as_data(found, sentence)))
    else:
        click.echo(_text(found, sentence, show_equal=show_equal), nl=False)


def _text(found: Difference, sentence: str, *, show_equal: bool) -> str:
    """Return the difference as wide as the terminal, with colours if it is one."""
    from rich.console import Console

    from shadowmmu.show.diff.render import print_difference

    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    written = io.StringIO()
    console = Console(
        file=written,
        width=max(get_terminal_size((_NARROWEST, 24)).columns, _NARROWEST),
        force_terminal=coloured,
        no_color=not coloured,
        color_system="standard" if coloured else None,
        highlight=False,
        legacy_windows=False,
    )
    print_difference(console, found, sentence, show_equal=show_equal)
    return "\n".join(line.rstrip() for line in written.getvalue().split("\n"))


def _sides(
    kernels: Sequence[str], vendors: Sequence[str], params: Sequence[str], designs: Sequence[str]
) -> tuple[Changes, Changes]:
    """Return what changes on either side. Raises ClickException for what cannot be set."""
    kernel = _both("--kernel", [checked_kernel(release) for release in kernels])
    vendor = _both("--vendor", vendors)
    param, design = _settings("--param", params), _settings("--design", designs)
    left, right = (
        Changes(
            kernel[side],
            vendor[side],
            {name: value for name, values in param.items() if (value := values[side]) is not None},
            checked_designs(
                {n: value for n, values in design.items() if (value := values[side]) is not None}
            ),
        )
        for side in range(_SIDES)
    )
    return left, right


def _both(option: str, values: Sequence[str]) -> tuple[str | None, str | None]:
    """Return the values of the sides, of one or two that were given. Raises UsageError for more."""
    if len(values) > _SIDES:
        raise click.UsageError(f"{option}: {', '.join(values)}: there are two sides; give two values at most")
    if not values:
        return None, None
    return (values[0], values[1]) if len(values) == _SIDES else (None, values[0])


def _settings(option: str, given: Sequence[str]) -> Mapping[str, tuple[str | None, str | None]]:
    found: dict[str, list[str]] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals:
            raise click.UsageError(f"{option}: {word!r} must be a setting, KEY=VALUE")
        found.setdefault(name, []).append(value)
    return {name: _both(f"{option} {name}", values) for name, values in found.items()}


def _names(sides: tuple[Changes, Changes]) -> tuple[str, str]:
    """Return what the sides are called: the settings in which they differ."""

    def settings(side: Changes) -> dict[str, str]:
        own = {**side.params, **side.designs}
        own |= {"kernel": side.kernel} if side.kernel else {}
        return own | ({"vendor": side.vendor} if side.vendor else {})

    left, right = (settings(side) for side in sides)

    def name(own: dict[str, str], other: dict[str, str]) -> str:
        return " ".join(f"{n}={v}" for n, v in own.items() if other.get(n) != v) or "as it is"

    return name(left, right), name(right, left)


def _unsafe(designs: Mapping[str, str]) -> list[str]:
    from shadowmmu.kvm.design.switches import switch_named

    return [f"{name}={value}" for name, value in designs.items() if value in switch_named(name).unsafe]
