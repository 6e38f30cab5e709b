"""`shadowmmu check`: play scenarios with all checks on and tell what does not hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.inputs import Changes, load, machine_options, refuse_ignored
from shadowmmu.cli.manual import Manual
from shadowmmu.cli.program import check_program, is_program
from shadowmmu.cli.program_options import ProgramOptions, program_options
from shadowmmu.cli.progress import progress

if TYPE_CHECKING:
    from shadowmmu.check.audit.audit import Level
    from shadowmmu.check.scenario import Outcome
    from shadowmmu.guest.scenario.scenario import Scenario

__all__ = ["check"]

_UNUSABLE = 2
_LONGEST = 480
_OF_SCENARIOS = {"level": "--audit", "no_tlb": "--no-tlb"}

_LEVELS = ("off", "op", "step")
_EVERY = 100
"""Ops between two updates of the progress line."""


@click.command(
    cls=Manual,
    short_help="Play scenarios, or run a program, with all checks on.",
    statuses={
        "0": "Everything held.",
        "1": "Something did not hold; it is printed with the op that broke it.",
        "2": "An input cannot be used; the others are checked.",
    },
    examples={
        "shadowmmu check scenarios/ept": "Check all scenarios of a folder",
        "shadowmmu check scenarios/museum/rmap_left.txt": "Let the audit find a historic "
        "defect, which this scenario brings back",
        "shadowmmu check --list": "Which predicates the audit asks",
    },
)
@click.argument("inputs", metavar="[INPUT]... | PROGRAM [-- ARGUMENT...]", nargs=-1)
@click.option("--list", "list_them", is_flag=True, help="List the predicates of the audit and exit.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object for each scenario, on a line of its own."
)
@click.option(
    "--audit",
    "level",
    type=click.Choice(_LEVELS),
    default="op",
    show_default=True,
    help="When to audit the MMU's structures: never, after each op, or also at each exit of a guest.",
)
@click.option(
    "--every",
    metavar="N",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Programs: exits between two complete checks.",
)
@machine_options
@program_options
@click.option(
    "--no-tlb",
    is_flag=True,
    help="Scenarios: let every access walk the tables; stale translations are then not found.",
)
def check(
    *,
    inputs: tuple[str, ...],
    list_them: bool,
    as_json: bool,
    level: str,
    every: int,
    changes: Changes,
    program: ProgramOptions,
    no_tlb: bool,
) -> None:
    """Play INPUTs (scenarios, or folders of them) and check the MMU after each operation.

    Two judges look on. The audit asks predicates of the MMU's structures: rmaps, parents, counters, roles.
    Coherence compares what the processors could use with what they may use by the guest's tables, the
    memory slots and the host's mappings, according to a specification that shares no code with the MMU.
    Translations that a TLB keeps are part of it, unless --no-tlb.

    PROGRAM is machine code, as for `run`. It is checked after exits, and whenever it gets a page fault.
    Without any input the scenarios that come with this are checked.
    """
    if list_them:
        _refuse_with_list(inputs)
        _list(as_json=as_json)
        return
    paths = [Path(name) for name in inputs]
    if paths and is_program(paths[0]):
        refuse_ignored(_OF_SCENARIOS, "only scenarios have this")
        status = check_program(paths[0], inputs[1:], changes, program, every=every, as_json=as_json)
        click.get_current_context().exit(status)
    if program.given:
        raise click.UsageError(f"{', '.join(program.given)}: only programs have such a machine")
    refuse_ignored({"every": "--every"}, "only programs have this")
    statuses = {
        _check_file(files, changes, level, tlb=not no_tlb, as_json=as_json) for files in _files(paths)
    }
    click.get_current_context().exit(max(statuses))


def _refuse_with_list(inputs: tuple[str, ...]) -> None:
    known = {option.name: option.opts[0] for option in click.get_current_context().command.params}
    options = {name: option for name, option in known.items() if name and option.startswith("--")}
    for name in ("list_them", "as_json"):
        del options[name]
    refuse_ignored(options, "--list only lists")
    if inputs:
        raise click.UsageError("--list plays nothing; leave the scenarios out")


def _files(inputs: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield the files themselves, and the scenarios in folders, one at a time; an empty list without any."""
    if not inputs:
        yield []
    for path in inputs:
        inside = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        yield from ([file] for file in inside)
        if not inside:
            yield [path]


def _check_file(files: list[Path], changes: Changes, level: str, *, tlb: bool, as_json: bool) -> int:
    """Play what is in a file and print what came out; 1 if something did not hold, 2 if it cannot be played.

    Raises Abort if the user interrupted it.
    """
    from shadowmmu.check.audit.audit import Level
    from shadowmmu.guest.scenario.setup import ScenarioError
    from shadowmmu.guest.scenario.text import shown
    from shadowmmu.kvm.design.switches import DesignError

    status = 0
    try:
        if files and files[0].is_dir():
            raise ScenarioError(f"{files[0]}: no scenario (*.txt) is in this folder")
        for scenario in load(files, changes):
            outcome = _check(scenario, Level(level), tlb=tlb)
            click.echo(json.dumps(outcome.as_dict()) if as_json else _text(outcome))
            status |= bool(outcome.violations)
            if outcome.interrupted:
                raise click.Abort
    except (ScenarioError, DesignError, OSError) as error:
        said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        if as_json:
            click.echo(json.dumps({"scenario": files[0].stem, "error": said}))
        click.echo(f"shadowmmu: {shown(said, _LONGEST)}", err=True)
        return _UNUSABLE
    return status


def _check(scenario: Scenario, level: Level, *, tlb: bool) -> Outcome:
    """Check a scenario; a line on stderr says how far it is."""
    from shadowmmu.check.scenario import check_scenario, known_value

    def tell(outcome: Outcome) -> None:
        if outcome.ops % _EVERY == 0:
            progress(f"{scenario.name}: {outcome.ops} of {len(scenario.ops)} ops")

    outcome = check_scenario(scenario, level, tlb=tlb, on_op=tell)
    progress("")
    if outcome.violations and not outcome.interrupted:
        outcome.known = known_value(scenario, level, tlb=tlb)
    return outcome


def _text(outcome: Outcome) -> str:
    verdict = click.style(outcome.verdict, fg="red") if outcome.violations else outcome.verdict
    head = outcome.head + verdict + (" before the interruption" if outcome.interrupted else "")
    return "\n".join([head, *outcome.lines()])


def _list(*, as_json: bool) -> None:
    from shadowmmu.check.audit.audit import PREDICATES

    if as_json:
        rows = {
            p.name: {"means": p.means, "symbols": p.symbols, "of": p.scope.value} for p in PREDICATES.values()
        }
        click.echo(json.dumps(rows, indent=1))
        return
    width = min(get_terminal_size().columns, 100)
    for predicate in PREDICATES.values():
        click.secho(predicate.name, fg="cyan")
        for text in (predicate.means, f"[{', '.join(predicate.symbols)}]"):
            click.echo("\n".join(wrap(text, width, initial_indent="    ", subsequent_indent="    ")))
