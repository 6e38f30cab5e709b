"""Lanes of a race: a lane for each thread, a run with all protections and one without each."""

from __future__ import annotations

from shadowmmu.check.race.case import Case
from shadowmmu.check.race.explore import Plan, Result, Schedule, explore, replay

from .lanes import Lanes, Run, Step

__all__ = ["lanes_of_case", "lanes_of_schedule"]


def lanes_of_case(case: type[Case]) -> Lanes:
    """Search the orders of a case, with its protections and without each, and return the schedules found."""
    taken = ((), *((name,) for name in case.protections))
    return _lanes(case, [_run(explore(case, without, Plan())) for without in taken])


def lanes_of_schedule(schedule: Schedule) -> Lanes:
    """Run a schedule that was kept and return it. Raises CaseError."""
    result = replay(schedule)
    return _lanes(result.case, [_run(result)])


def _lanes(case: type[Case], runs: list[Run]) -> Lanes:
    about = [
        (name, text + (" (KVM 6.12 does not have it)" if name in case.missing else ""))
        for name, text in case.protections.items()
    ]
    return Lanes(
        case.name, case.title, [*about, *([("verdict", case.verdict)] if case.verdict else [])], runs
    )


def _run(result: Result) -> Run:
    found = result.bad or (result.witness if result.case.reachable else None)
    without = f"without {', '.join(result.without)}"
    name = without if result.without else "all protections" if result.case.protections else "as it is"
    orders = f"{result.schedules:,} schedules, {result.states:,} states"
    if result.bad is not None:
        verdict = f"bad: {result.bad.outcome} ({orders})"
    else:
        verdict = f"no bad outcome ({orders})" + (f"; it happens: {found.outcome}" if found else "")
    steps = [] if found is None else _steps(found, bad=result.bad is not None)
    threads = found.threads if found else ()
    lanes = [f"CPU {number}: {thread}" for number, thread in enumerate(threads, 1)]
    return Run(name, verdict, result.bad is None, lanes, steps)


def _steps(schedule: Schedule, *, bad: bool) -> list[Step]:
    last = len(schedule.events) - 1
    return [
        Step(lane, text, (), (schedule.outcome,) if bad and number == last else ())
        for number, (lane, text) in enumerate(schedule.events)
    ]
