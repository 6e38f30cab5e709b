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
    from shadowmmu.guest.scenario.scenario import Scenario

__all__ = [
    "Changes",
    "checked_designs",
    "checked_kernel",
    "design_option",
    "embedded",
    "given",
    "kernel_option",
    "load",
    "machine_options",
    "refuse_ignored",
    "seconds_option",
    "vendor_option",
]

_MOST_SECONDS = 1e9
_EMBEDDED = ("default.txt", "quadrants.txt", "nested.txt")


@dataclass(frozen=True, slots=True)
class Changes:
    """What the options of the command line change in every scenario."""

    kernel: str | None
    vendor: str | None
    params: Mapping[str, str]
    designs: Mapping[str, str]


def settings(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    """Return the `KEY=VALUE`s of an option. Raises BadParameter for anything else."""
    found = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals:
            raise click.BadParameter(f"{word!r} is not a setting; write KEY=VALUE")
        found[name] = value
    return found


def _designs(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    return checked_designs(settings(context, option, given))


def checked_designs(found: Mapping[str, str]) -> dict[str, str]:
    """Return switches, checked; a defect of the museum brings its own. Raises ClickException."""
    from shadowmmu.kvm.design.switches import DesignError, switch_named, value_of

    found = dict(found)
    defect = found.get("defect")
    if defect is not None and defect not in switch_named("defect").values:
        found = {**_exhibited(defect), **{name: value for name, value in found.items() if name != "defect"}}
    try:
        for name, value in found.items():
            value_of(name, value)
    except DesignError as error:
        raise click.ClickException(str(error)) from None
    return found


def _exhibited(defect: str) -> Mapping[str, str]:
    """Return the switches of a defect that is not a value of the switch `defect`. Raises ClickException."""
    from shadowmmu.check.museum.results import UnknownExhibit, exhibit_named

    try:
        return exhibit_named(defect).switches
    except UnknownExhibit as error:
        raise click.ClickException(error.args[0]) from None


def _kernel(context: click.Context, option: click.Parameter, release: str | None) -> str | None:
    return None if release is None else checked_kernel(release)


def checked_kernel(release: str) -> str:
    """Return a release whose KVM is modelled. Raises ClickException."""
    from shadowmmu.kvm.design.switches import DesignError, profile_of

    try:
        profile_of(release)
    except DesignError as error:
        raise click.ClickException(str(error)) from None
    return release


def seconds_option(default: float, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --seconds: more than none, and not without end."""
    return click.option(
        "--seconds",
        default=default,
        show_default=True,
        metavar="N",
        type=float,
        callback=_seconds,
        help=text,
    )


def _seconds(context: click.Context, option: click.Parameter, seconds: float) -> float:
    if not 0 < seconds <= _MOST_SECONDS:
        raise click.BadParameter(f"{seconds} is not a time; write 0.5, 60, ...")
    return seconds


kernel_option = click.option(
    "--kernel", metavar="RELEASE", callback=_kernel, help="Whose KVM: 6.12.111 (default), 6.1.176 or 7.3.4."
)
design_option = click.option(
    "--design",
    "designs",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_designs,
    help="Set a switch of the MMU's design; `shadowmmu designs` lists them. Repeatable.",
)


def vendor_option(text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --vendor with its help."""
    return click.option("--vendor", type=click.Choice(["amd", "intel"]), help=text)


_OPTIONS = (
    kernel_option,
    vendor_option(
        "Whose processor, if another than the scenario's; nested paging stays as it is, on or off."
    ),
    click.option(
        "--param",
        "params",
        metavar="KEY=VALUE",
        multiple=True,
        callback=settings,
        help="Set a module parameter, for example kvm.tdp_mmu=0 or kvm_intel.eptad=0. Repeatable.",
    ),
    design_option,
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


def given(names: Mapping[str, str]) -> list[str]:
    """Return those options that the command line has, of parameter name -> option as written."""
    source = click.get_current_context().get_parameter_source
    return [
        option for name, option in names.items() if source(name) is not click.core.ParameterSource.DEFAULT
    ]


def refuse_ignored(names: Mapping[str, str], why: str) -> None:
    """Raise UsageError if an option was given that would have no effect, parameter name -> option."""
    ignored = given(names)
    if ignored:
        raise click.UsageError(f"{', '.join(ignored)}: {why}")


@contextmanager
def embedded(name: str) -> Iterator[Path]:
    """Yield a program that comes with this one."""
    from importlib.resources import as_file, files

    with as_file(files("shadowmmu.guest.pc") / "programs" / name) as path:
        yield path


def load(paths: Sequence[Path], changes: Changes) -> list[Scenario]:
    """Return the scenarios of files, changed; without files those that come with the program.

    Raises ScenarioError, DesignError, OSError.
    """
    from importlib.resources import as_file, files

    from shadowmmu.guest.scenario.parser import load_scenario

    with as_file(files("shadowmmu.guest.scenario") / "examples") as folder:
        loaded = [load_scenario(path) for path in paths or [folder / name for name in _EMBEDDED]]
    if changes.kernel is not None:
        loaded = [scenario.with_kernel(changes.kernel) for scenario in loaded]
    if changes.vendor is not None:
        loaded = [scenario.with_vendor(changes.vendor) for scenario in loaded]
    loaded = [scenario.with_params(changes.params) for scenario in loaded]
    return [scenario.with_design(changes.designs) for scenario in loaded]
