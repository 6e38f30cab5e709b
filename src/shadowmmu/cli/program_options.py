"""The options of machine code: what the command line says about its machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path

import click

__all__ = ["ProgramOptions", "program_options"]

LEAST_MEMORY, MOST_MEMORY = 1 << 20, 64 << 30
_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "exits": "exits", "instructions": "instructions"}


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """What the command line says about the machine for a program."""

    memory: int = 128 << 20
    npt: bool | None = None
    la57: bool = True
    limits: Mapping[str, float] = field(default_factory=dict)
    root: Path | None = None
    initrd: Path | None = None
    deterministic: bool = False
    given: tuple[str, ...] = ()
    """The options that were given: they are of no use for scenarios."""


def _memory(context: click.Context, option: click.Parameter, text: str) -> int:
    from shadowmmu.x86.sizes import size_of

    size = size_of(text)
    if size is None or size % 4096:
        raise click.BadParameter(f"{text!r} must be a size such as 128M or 2G")
    if not LEAST_MEMORY <= size <= MOST_MEMORY:
        raise click.BadParameter(f"{text} is not between 1M and 64G")
    return size


def _limits(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for text in texts:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMG]?)(s|m|h|exits|instructions)", text.strip())
        if match is None:
            raise click.BadParameter(
                f"{text!r} must be a limit such as 60s, 10m, 1Mexits or 500Minstructions"
            )
        amount = float(match[1]) * _MULTIPLES[match[2].lower()]
        unit = _UNITS[match[3]]
        amount *= {"minutes": 60, "hours": 3600}.get(unit, 1)
        if unit in ("minutes", "hours"):
            unit = "seconds"
        if amount <= 0 or (unit != "seconds" and amount < 1):
            raise click.BadParameter(f"{text!r} lets nothing run")
        limits[unit] = amount
    return limits


_OPTIONS = (
    click.option(
        "--npt/--no-npt",
        default=None,
        help="Programs: with nested paging, or with shadow page tables (the default).",
    ),
    click.option(
        "--memory",
        default="128M",
        show_default=True,
        metavar="SIZE",
        callback=_memory,
        help="Programs: memory of the machine, 1M to 64G.",
    ),
    click.option(
        "--cpu",
        type=click.Choice(["la57", "amd"]),
        default="la57",
        show_default=True,
        help="Programs: an AMD EPYC, with five-level paging or without.",
    ),
    click.option(
        "--root",
        metavar="DIRECTORY",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Linux programs: the directory beneath which files may be changed (default: the current one); "
        "not a symbolic link.",
    ),
    click.option(
        "--initrd",
        metavar="FILE",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Multiboot programs: a file that the program gets as its module.",
    ),
    click.option(
        "--deterministic",
        is_flag=True,
        help="Programs: a clock that advances with the code executed, not the host's, and for Linux programs "
        "an environment of PATH alone: two runs are equal.",
    ),
    click.option(
        "--limit",
        "limits",
        metavar="N",
        multiple=True,
        callback=_limits,
        help="Programs: stop after 60s, 10m, 1Mexits or 500Minstructions (default: 1h). Repeatable.",
    ),
)


def program_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options for programs; it gets them as `program`."""

    @wraps(command)
    def with_program(
        *,
        npt: bool | None,
        memory: int,
        cpu: str,
        root: Path | None,
        initrd: Path | None,
        deterministic: bool,
        limits: dict[str, float],
        **rest: object,
    ) -> None:
        source = click.get_current_context().get_parameter_source
        given = tuple(
            f"--{name.replace('limits', 'limit')}"
            for name in ("npt", "memory", "cpu", "root", "initrd", "deterministic", "limits")
            if source(name) is not click.core.ParameterSource.DEFAULT
        )
        options = ProgramOptions(memory, npt, cpu == "la57", limits, root, initrd, deterministic, given)
        command(program=options, **rest)

    for option in reversed(_OPTIONS):
        with_program = option(with_program)
    return with_program
