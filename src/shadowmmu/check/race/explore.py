"""Runs a case in many orders: what came of it, how many there were, and the schedule of what was found."""

from __future__ import annotations

import ast
import time
from dataclasses import dataclass, field
from pathlib import Path

from ...guest.scenario.text import read_file
from .case import Case, CaseError
from .catalogue import find
from .engine import Execution, Location
from .search import AllOrders, Pct, Randomly, Replay, Search

__all__ = ["Plan", "Result", "Schedule", "explore", "read_schedule", "replay"]

HEADER = "# shadowmmu race: a schedule"
_LONGEST_LOCATION = 1000
DEEPEST = 4
"""Preemptions up to which the bad outcome is looked for before all orders are: fewer are easier to read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to search.

    bound: preemptions, None: as the case says; tso: with store buffers, None: where a protection needs them.
    sample: "random" or "pct" for `runs` orders from `seed`, "" for all orders.
    """

    bound: int | None = None
    tso: bool | None = None
    sample: str = ""
    runs: int = 1000
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """An order of steps that can be run again.

    steps: (who, what) with who a thread's name, or "NAME's buffer"; conflicts: the words of the model that
    are stops in it. events: the same for people, with what was read. outcome: how it ended.
    """

    case: str
    without: tuple[str, ...]
    tso: bool
    threads: tuple[str, ...]
    steps: tuple[tuple[str, str], ...]
    conflicts: tuple[Location, ...]
    events: tuple[tuple[int, str], ...]
    outcome: str

    def text(self) -> str:
        """Return the text of the file."""
        lines = [
            HEADER,
            f"case: {self.case}",
            f"without: {' '.join(self.without)}",
            f"store buffers: {'yes' if self.tso else 'no'}",
            f"outcome: {self.outcome}",
        ]
        lines += [f"stop: {location!r}" for location in self.conflicts]
        lines += ["steps:"]
        lines += [f"  {who}: {what}" for who, what in self.steps]
        return "\n".join(lines) + "\n"


@dataclass(slots=True)
class Result:
    """What a search found.

    complete: all orders (with at most `bound` preemptions) were run. states: points in them where a thread
    was chosen. bad, witness: the first order that ended so.
    """

    case: type[Case]
    without: tuple[str, ...]
    tso: bool
    bound: int | None
    complete: bool = False
    schedules: int = 0
    states: int = 0
    seconds: float = 0.0
    bad: Schedule | None = None
    witness: Schedule | None = None
    deepest: int = field(default=0)


def explore(case: type[Case], without: tuple[str, ...] = (), plan: Plan = Plan()) -> Result:
    """Search the orders of a case until its bad outcome is found. Raises CaseError.

    Where an outcome is to be found orders with few preemptions come first.
    """
    for name in without:
        if name not in case.protections:
            known = ", ".join(case.protections) or "none"
            raise CaseError(f"{case.name} has no protection {name!r}; it has {known}")
    tso = plan.tso if plan.tso is not None else _needs_tso(case, without)
    bound = case.bound if plan.bound is None else plan.bound
    result = Result(case, without, tso, bound)
    started = time.perf_counter()
    try:
        for search, limit in _searches(case, without, plan, bound):
            result.bound = limit
            result.complete = _run(result, search) and not plan.sample
            if result.bad is not None:
                break
    finally:
        result.seconds = time.perf_counter() - started
    return result


def _needs_tso(case: type[Case], without: tuple[str, ...]) -> bool:
    """Store buffers, if what was taken away matters only with them; with all in place, if anything does."""
    return bool(case.needs_tso if not without else case.needs_tso & set(without))


def _searches(
    case: type[Case], without: tuple[str, ...], plan: Plan, bound: int | None
) -> list[tuple[Search, int | None]]:
    if plan.sample:
        kind = Pct if plan.sample == "pct" else Randomly
        return [(kind(plan.runs, plan.seed), None)]
    deeper: list[int | None] = []
    if without or case.reachable:
        deeper = [depth for depth in range(DEEPEST) if bound is None or depth < bound]
    return [(AllOrders(depth), depth) for depth in [*deeper, bound]]


def _run(result: Result, search: Search) -> bool:
    """Return whether all orders of the search were run."""
    made: list[Case] = []

    def make(conflicts: set[Location]) -> Execution:
        execution = Execution(conflicts, tso=result.tso)
        made[:] = [result.case(execution, frozenset(result.without))]
        return execution

    try:
        with result.case.environment():
            for execution in search.executions(make):
                result.schedules += 1
                _finish(made[0], execution)
                if execution.witness is not None and result.witness is None:
                    result.witness = _schedule(result, execution, execution.witness)
                if execution.bad is not None:
                    result.bad = _schedule(result, execution, execution.bad)
                    return False
    finally:
        result.states += search.states
    return True


def _finish(case: Case, execution: Execution) -> None:
    if execution.bad is None:
        case.check()


def _schedule(result: Result, execution: Execution, outcome: str) -> Schedule:
    names = tuple(actor.name for actor in execution.actors)
    count = len(names)
    return Schedule(
        result.case.name,
        result.without,
        result.tso,
        names,
        tuple(
            (_who(names, number), text) for number, text in zip(execution.steps, execution.texts, strict=True)
        ),
        tuple(sorted((place for place in execution.conflicts), key=repr)),
        tuple(
            (number % count, f"({text})" if number >= count else text) for number, text in execution.events
        ),
        outcome,
    )


def _who(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else f"{names[number - len(names)]}'s buffer"


def read_schedule(path: Path) -> Schedule:
    """Return a schedule from its file, without what was read in it. Raises CaseError, OSError."""
    try:
        lines = read_file(path).decode().splitlines()
    except UnicodeDecodeError:
        raise CaseError(f"{path}: not a schedule") from None
    if not lines or lines[0] != HEADER:
        raise CaseError(f"{path}: not a schedule: its first line is not {HEADER!r}")
    head: dict[str, str] = {}
    conflicts: list[Location] = []
    steps: list[tuple[str, str]] = []
    inside = False
    for number, line in enumerate(lines[1:], 2):
        if not line.strip() or line.startswith("#"):
            continue
        key, colon, value = line.strip().partition(": ") if not line.endswith(":") else (line[:-1], ":", "")
        if not colon:
            raise CaseError(f"{path}, line {number}: no colon in {line!r}")
        if inside:
            steps.append((key, value))
        elif key == "steps":
            inside = True
        elif key == "stop":
            conflicts.append(_location(value, f"{path}, line {number}"))
        else:
            head[key] = value
    if "case" not in head:
        raise CaseError(f"{path}: no line 'case: NAME'")
    (case,) = find([head["case"]])[:1]
    return Schedule(
        case.name,
        tuple(head.get("without", "").split()),
        head.get("store buffers") == "yes",
        (),
        tuple(steps),
        tuple(conflicts),
        (),
        head.get("outcome", ""),
    )


def _location(text: str, where: str) -> Location:
    try:
        if len(text) > _LONGEST_LOCATION:
            raise ValueError
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise CaseError(f"{where}: {text!r} must be a location") from None


def replay(schedule: Schedule) -> Result:
    """Run a schedule again; its threads must do what it says. Raises CaseError."""
    (case,) = find([schedule.case])[:1]
    for name in schedule.without:
        if name not in case.protections:
            raise CaseError(f"{case.name} has no protection {name!r}")
    result = Result(case, schedule.without, schedule.tso, None)
    started = time.perf_counter()
    _run(
        result,
        Replay(_numbers(case, schedule), set(schedule.conflicts), [what for _, what in schedule.steps]),
    )
    result.seconds = time.perf_counter() - started
    return result


def _numbers(case: type[Case], schedule: Schedule) -> list[int]:
    execution = Execution(set(), tso=schedule.tso)
    with case.environment():
        case(execution, frozenset(schedule.without))
    names = tuple(actor.name for actor in execution.actors)
    known = {_who(names, number): number for number in range(2 * len(names))}
    for who, _ in schedule.steps:
        if who not in known:
            raise CaseError(f"{case.name} has no thread {who!r}; it has {', '.join(names)}")
    return [known[who] for who, _ in schedule.steps]
