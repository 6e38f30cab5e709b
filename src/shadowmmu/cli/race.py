"""`shadowmmu race`: the races of the MMU as small programs, run in all orders."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from shadowmmu.cli.inputs import refuse_ignored
from shadowmmu.cli.manual import Manual
from shadowmmu.cli.outputs import is_stdout, output, refuse_overwriting

if TYPE_CHECKING:
    from shadowmmu.check.race.case import Case
    from shadowmmu.check.race.explore import Plan, Result, Schedule

__all__ = ["interpreted_with_greenlet", "race"]

_WIDEST = 110
_FOUND = 1
"""Exit status if a case did not end as it must."""


@click.command(
    cls=Manual,
    short_help="Search the orders of memory accesses for races.",
    statuses={
        "0": "Every case ended as it must.",
        "1": "An order ended badly with all protections, or the bad outcome was not found without one.",
    },
    examples={
        "shadowmmu race": "List the cases",
        "shadowmmu race R37b": "Run one, with its protections and without each",
        "shadowmmu race R37b --without clear_spte_count --save s.txt": "Keep the schedule of a bad outcome",
        "shadowmmu race --replay s.txt": "Run that schedule again",
    },
)
@click.argument("names", nargs=-1, metavar="[CASE]...")
@click.option("--all", "everything", is_flag=True, help="Run all cases.")
@click.option(
    "--without",
    metavar="PROTECTION",
    multiple=True,
    help="Take away this protection only. Repeatable: all of these together.",
)
@click.option(
    "--bound", type=click.IntRange(0), metavar="N", help="Search only orders with at most N preemptions."
)
@click.option(
    "--tso/--no-tso", default=None, help="With or without store buffers (default: where a case needs them)."
)
@click.option(
    "--random", "randomly", type=click.IntRange(1), metavar="N", help="Run N random orders instead of all."
)
@click.option(
    "--pct", type=click.IntRange(1), metavar="N", help="Run N orders by random priorities that change (PCT)."
)
@click.option(
    "--seed", type=int, default=1, metavar="S", show_default=True, help="Seed of --random and --pct."
)
@click.option(
    "--save", type=click.Path(path_type=Path, dir_okay=False), help="Write the last schedule found to a file."
)
@click.option(
    "--replay", "played", type=click.Path(path_type=Path), help="Run the schedule that a file holds."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def race(
    *,
    names: tuple[str, ...],
    everything: bool,
    without: tuple[str, ...],
    bound: int | None,
    tso: bool | None,
    randomly: int | None,
    pct: int | None,
    seed: int,
    save: Path | None,
    played: Path | None,
    as_json: bool,
) -> None:
    """Run small programs of concurrent threads, as KVM's MMU has them, in all orders of their accesses.

    Without CASEs they are listed. A case (R18a; R18 means R18a and R18b) runs with all its protections, where
    no order may end badly, and without each, where the bad outcome must be found. The schedule that leads to
    it is printed as a diagram, a column for each thread.

    The order of memory accesses is that of the program, or with store buffers that of x86 (TSO). With
    --bound orders are searched by Coons's reduction, which may leave out some with just N preemptions.
    """
    _check_options(names, everything=everything, randomly=randomly, pct=pct, played=played)
    refuse_overwriting({"--save": save})
    if as_json and is_stdout(save):
        raise click.UsageError("--json prints on standard output, too; write the schedule to a file")
    if played is None and not names and not everything:
        _list(as_json=as_json)
        return
    interpreted_with_greenlet()
    from shadowmmu.check.race.case import CaseError
    from shadowmmu.check.race.catalogue import cases, find
    from shadowmmu.check.race.explore import Plan

    plan = Plan(bound, tso, "pct" if pct else "random" if randomly else "", randomly or pct or 0, seed)
    try:
        if played is not None:
            _replay(played, as_json=as_json)
            return
        chosen = list(cases().values()) if everything else find(names)
        runs = _runs(chosen, without)
        results = _run(runs, plan, quiet=as_json or is_stdout(save))
    except CaseError as error:
        raise click.ClickException(str(error)) from None
    missing = runs[len(results) :]
    if as_json:
        rows = {
            "interrupted": bool(missing),
            "missing": [{"case": case.name, "without": list(taken)} for case, taken in missing],
            "results": [_described(result, expected=_expected(result)) for result in results],
        }
        click.echo(json.dumps(rows, indent=1))
    elif missing:
        names_left = dict.fromkeys(case.name for case, _ in missing)
        click.echo(f"not run to the end: {', '.join(names_left)}", err=True)
    if missing:
        raise click.Abort
    if save is not None:
        _save(results, save)
    if not without and not plan.sample and not all(_as_expected(result) for result in results):
        click.get_current_context().exit(_FOUND)


def _check_options(
    names: tuple[str, ...], *, everything: bool, randomly: int | None, pct: int | None, played: Path | None
) -> None:
    if randomly and pct:
        raise click.UsageError("--random and --pct exclude each other")
    if names and everything:
        raise click.UsageError("--all and names of cases exclude each other")
    if played is not None and (names or everything):
        raise click.UsageError("--replay runs the case that its file names")
    searching = {
        "without": "--without", "bound": "--bound", "tso": "--tso", "randomly": "--random", "pct": "--pct",
        "seed": "--seed", "save": "--save",
    }  # fmt: skip
    if played is not None:
        refuse_ignored(searching, "--replay runs one schedule, as its file has it")
    if not names and not everything:
        refuse_ignored(searching, "this needs a CASE, or --all")
    if not randomly and not pct:
        refuse_ignored({"seed": "--seed"}, "only --random and --pct have a seed")
    else:
        refuse_ignored({"bound": "--bound"}, "--random and --pct have no bound")


def interpreted_with_greenlet() -> None:
    """Make sure that greenlet is there, and that the model's code is interpreted: it must be able to stop."""
    import shadowmmu

    try:
        import greenlet  # noqa: F401
    except ImportError:
        raise click.ClickException(
            "races need the package greenlet: pip install 'shadowmmu[race]', or pip install greenlet"
        ) from None
    if shadowmmu.native and not os.environ.get("SHADOWMMU_INTERPRETED"):
        sys.stdout.flush()
        code = "from shadowmmu.cli.main import main; main()"
        environment = {
            **os.environ,
            "SHADOWMMU_INTERPRETED": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        environment.pop("SHADOWMMU_REQUIRE_NATIVE", None)
        os.execve(sys.executable, [sys.executable, "-c", code, *sys.argv[1:]], environment)


def _width() -> int:
    return min(get_terminal_size().columns, _WIDEST)


def _list(*, as_json: bool) -> None:
    try:
        from shadowmmu.check.race.catalogue import cases
    except ImportError:
        interpreted_with_greenlet()
        raise
    if as_json:
        described = {
            case.name: {"title": case.title, "protections": case.protections} for case in cases().values()
        }
        click.echo(json.dumps(described, indent=1))
        return
    for case in cases().values():
        click.echo(f"{click.style(f'{case.name:6}', fg='cyan')} {case.title}")


def _runs(chosen: Sequence[type[Case]], without: tuple[str, ...]) -> list[tuple[type[Case], tuple[str, ...]]]:
    """Return what is to be run: each case with all protections and without each, or without those named."""
    if not without:
        return [(case, taken) for case in chosen for taken in ((), *((name,) for name in case.protections))]
    if len(chosen) != 1:
        raise click.UsageError("--without is for one case")
    return [(chosen[0], without)]


def _run(runs: Sequence[tuple[type[Case], tuple[str, ...]]], plan: Plan, *, quiet: bool) -> list[Result]:
    """Return the results; fewer than all if the user interrupted."""
    from shadowmmu.check.race.explore import explore

    results: list[Result] = []
    try:
        for number, (case, taken) in enumerate(runs):
            if not quiet and (not number or runs[number - 1][0] is not case):
                _head(case)
            result = explore(case, taken, plan)
            results.append(result)
            if not quiet:
                _show(result)
                if number + 1 == len(runs) or runs[number + 1][0] is not case:
                    _verdict(case)
    except KeyboardInterrupt:
        pass
    return results


def _verdict(case: type[Case]) -> None:
    if case.verdict:
        click.echo("\n".join(wrap(f"verdict: {case.verdict}", _width(), subsequent_indent="  ")))
    click.echo()


def _head(case: type[Case]) -> None:
    click.secho(f"{case.name}  {case.title}", bold=True)
    for name, text in case.protections.items():
        lacking = " (KVM 6.12 has it not)" if name in case.missing else ""
        click.echo(
            "\n".join(
                wrap(f"{name}: {text}{lacking}", _width(), initial_indent="  ", subsequent_indent="    ")
            )
        )
    click.echo()


def _show(result: Result) -> None:
    from shadowmmu.check.race.diagram import diagram

    taken = f"without {', '.join(result.without)}" if result.without else "all protections"
    if not result.case.protections:
        taken = "as it is"
    elif result.without and set(result.without) == result.case.missing:
        taken += ", as KVM 6.12 is"
    if result.bad is not None:
        ended = click.style(f"bad: {result.bad.outcome}", fg="red" if not _as_expected(result) else None)
    elif _as_expected(result):
        ended = click.style("no bad outcome", fg="green")
    else:
        ended = click.style("the bad outcome was not found", fg="red")
    click.echo(f"{taken}: {ended}")
    click.echo(f"  {_size(result)}")
    found = result.bad or (result.witness if result.case.reachable else None)
    if found is not None:
        if result.bad is None:
            click.echo(f"  it happens: {found.outcome}")
        click.echo()
        click.echo(diagram(found, _width()))
        click.echo()


def _size(result: Result) -> str:
    orders = "all orders" if result.complete else "stopped at the first" if result.bad else "sampled"
    if result.complete and result.bound is not None:
        orders = f"orders with at most {result.bound} preemptions"
    buffers = ", store buffers" if result.tso else ""
    return f"{result.schedules} schedules, {result.states} states, {result.seconds:.3f} s ({orders}{buffers})"


def _expected(result: Result) -> str:
    """Return how the case must end: "bad", "good", or "reachable"."""
    if result.without:
        return "bad"
    return "reachable" if result.case.reachable else "good"


def _as_expected(result: Result) -> bool:
    wanted = _expected(result)
    if wanted == "bad":
        return result.bad is not None
    return result.bad is None and (wanted == "good" or result.witness is not None)


def _described(result: Result, *, expected: str) -> dict[str, Any]:
    return {
        "case": result.case.name,
        "title": result.case.title,
        "without": list(result.without),
        "expected": expected,
        "as_expected": _as_expected(result),
        "schedules": result.schedules,
        "states": result.states,
        "seconds": round(result.seconds, 6),
        "all_orders": result.complete and result.bound is None,
        "bound": result.bound,
        "tso": result.tso,
        "bad": _schedule(result.bad),
        "witness": _schedule(result.witness),
        "verdict": result.case.verdict,
    }


def _schedule(schedule: Schedule | None) -> dict[str, Any] | None:
    if schedule is None:
        return None
    return {
        "outcome": schedule.outcome,
        "steps": [[schedule.threads[number], text] for number, text in schedule.events],
    }


def _save(results: list[Result], path: Path) -> None:
    found = [
        schedule for result in results for schedule in (result.witness, result.bad) if schedule is not None
    ]
    if not found:
        raise click.ClickException("nothing to save: no schedule with a bad outcome was found")
    with output(path) as file:
        file.write(found[-1].text())


def _replay(path: Path, *, as_json: bool) -> None:
    from shadowmmu.check.race.diagram import diagram
    from shadowmmu.check.race.explore import read_schedule, replay

    schedule = read_schedule(path)
    result = replay(schedule)
    if as_json:
        click.echo(json.dumps(_described(result, expected=schedule.outcome), indent=1))
        return
    taken = f" without {', '.join(result.without)}" if result.without else ""
    click.secho(f"{result.case.name}{taken}: {result.case.title}", bold=True)
    ended = result.bad or result.witness
    click.echo(diagram(ended, _width()) if ended else "")
    click.echo(f"\n{ended.outcome if ended else 'no bad outcome'}")
