"""What commands that play scenarios have in common: which scenarios, and on which machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shadowmmu.guest.scenario import Scenario

__all__ = ["Changes", "embedded", "load", "machine_options", "settings"]

_EMBEDDED = ("default.txt", "quadrants.txt", "nested.txt")


@dataclass(frozen=True, slots=True)
class Changes:
    """What the options of the command line change in every scenario."""

    kernel: str | None
    vendor: str | None
    params: Mapping[str, str]
    designs: Mapping[str, str]


def settings(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    """The `KEY=VALUE`s of an option. Raises BadParameter for what is none."""
    found = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals:
            raise click.BadParameter(f"{word!r} is no setting; write KEY=VALUE")
        found[name] = value
    return found


_OPTIONS = (
    click.option("--kernel", metavar="RELEASE", help="Whose KVM: 6.12.111 (default) or 6.1.176."),
    click.option(
        "--vendor",
        type=click.Choice(["amd", "intel"]),
        help="Whose processor, if another than the scenario's; nested paging stays on or off.",
    ),
    click.option(
        "--param",
        "params",
        metavar="KEY=VALUE",
        multiple=True,
        callback=settings,
        help="Set a module parameter, kvm.tdp_mmu=0 or kvm_intel.eptad=0. Repeatable.",
    ),
    click.option(
        "--design",
        "designs",
        metavar="KEY=VALUE",
        multiple=True,
        callback=settings,
        help="Set a switch of the MMU's design; `shadowmmu designs` lists them. Repeatable.",
    ),
)


def machine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that change the machine; it gets them as `changes`."""

    @wraps(command)
    def with_changes(
        *,
        kernel: str | None,
        vendor: str | None,
        params: dict[str, str],
        designs: dict[str, str],
        **rest: object,
    ) -> None:
        command(changes=Changes(kernel, vendor, params, designs), **rest)

    for option in reversed(_OPTIONS):
        with_changes = option(with_changes)
    return with_changes


@contextmanager
def embedded(name: str) -> Iterator[Path]:
    """A program that comes with this one."""
    from importlib.resources import as_file, files

    with as_file(files("shadowmmu.guest.pc") / "programs" / name) as path:
        yield path


def load(paths: Sequence[Path], changes: Changes) -> list[Scenario]:
    """The scenarios of files, changed; without files those that come with the program.

    Raises ScenarioError, DesignError, OSError.
    """
    from importlib.resources import as_file, files

    from shadowmmu.guest.scenario import Scenario

    with as_file(files("shadowmmu.guest") / "scenarios") as folder:
        loaded = [Scenario.load(path) for path in paths or [folder / name for name in _EMBEDDED]]
    if changes.kernel is not None:
        loaded = [scenario.with_kernel(changes.kernel) for scenario in loaded]
    if changes.vendor is not None:
        loaded = [scenario.with_vendor(changes.vendor) for scenario in loaded]
    loaded = [scenario.with_params(changes.params) for scenario in loaded]
    return [scenario.with_design(changes.designs) for scenario in loaded]
