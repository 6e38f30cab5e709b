"""Looking for a historic defect with random guests and all checks, and making small what shows it.

The search knows nothing of the defect but its switches: it tries every mode, MMU and profile of guests
in turn, each time with another seed: one checked after every op, then a storm (fuzz). What the checks find
counts only if the same guest is found sound without the defect.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...guest.play.player import Player
from ...guest.scenario.parser import parse_scenario
from ...guest.scenario.setup import ScenarioError, resolve
from ..audit.audit import Level
from ..checker import Violation, play_checked
from ..checks import checks_of
from ..coherence import Coherence
from ..random.fuzz import episode
from ..random.shrink import lines_up_to, shrink, simpler_lines
from ..random.visitors import Visitor, visitors
from .results import Exhibit

__all__ = ["Progress", "Sighting", "check_scenario", "search"]

OPS, EVERY, STORM = 400, 8, 20
"""Ops of one guest, and between two looks of coherence at everything; so many times as many has a storm."""
FEW, LOOKS = 500, 50
"""So few lines are shrunk with a look at everything after each, of more they have so many."""
SHRINK_SECONDS = 150.0

Progress = Callable[[int, int, float], None]
"""Guests and ops so far, and seconds."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What came out of a search: `violation` is None if nothing was found; `ops` were played until then.

    seconds    until it was found, without making it small
    guest      which guest showed it
    scenario   the smallest scenario that shows it, with the switches of the defect
    """

    name: str
    ops: int
    guests: int
    seconds: float
    guest: str = ""
    violation: Violation | None = None
    scenario: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return what is saved of the result."""
        found = self.violation
        return {
            "name": self.name,
            "found": found is not None,
            "check": found.check if found else None,
            "predicate": found.predicate if found else None,
            "says": found.says if found else None,
            "ops": self.ops,
            "guests": self.guests,
            "seconds": round(self.seconds, 1),
            "guest": self.guest,
            "lines": len(self.scenario.splitlines()),
        }


def check_scenario(
    lines: Sequence[str],
    design: Mapping[str, str] | None = None,
    *,
    kernel: str | None = None,
    every: int = 1,
    deadline: float = math.inf,
) -> tuple[int, Violation | None]:
    """Play the lines of a scenario, with these switches too: how many ops, and the first thing wrong.

    `kernel`: on that release instead of the scenario's.
    `every`: after so many ops coherence looks at everything, after others at what they touched. Raises
    ScenarioError for a text that is not a scenario, TimeoutError at the deadline (time.monotonic).
    """
    scenario = parse_scenario("\n".join(lines) + "\n").with_design(design or {})
    scenario = scenario if kernel is None else scenario.with_kernel(kernel)
    player = Player(resolve(scenario), None, lambda machine: {}, tlb=True)
    player.dump = False
    checks = checks_of(player, Level.OP)
    for checker in checks:
        if isinstance(checker, Coherence):
            checker.every = every
    ops = 0
    for _, _, found in play_checked(player, scenario.ops, checks):
        ops += 1
        if found:
            return ops, found[0]
        if time.monotonic() > deadline:
            raise TimeoutError
    return ops, next((violation for checker in checks for violation in checker.finish()), None)


def search(
    exhibit: Exhibit,
    *,
    seed: int = 0,
    seconds: float,
    ops: int = OPS,
    on_progress: Progress = lambda guests, ops, seconds: None,
) -> Sighting:
    """Let guests run until one shows the defect, then make it small."""
    start = time.monotonic()
    played = guests = 0
    for visitor in visitors(seed):
        for guest in (_visitor, _stormy):
            guests += 1
            done, found = guest(visitor, exhibit, ops)
            played += done
            spent = time.monotonic() - start
            on_progress(guests, played, spent)
            smallest = _smallest(found, exhibit) if found is not None else None
            if found is not None and smallest is not None:
                lines, violation = smallest
                text = "\n".join(lines) + "\n"
                return Sighting(exhibit.name, played, guests, spent, found.name, violation, text)
        if spent >= seconds:
            break
    return Sighting(exhibit.name, played, guests, time.monotonic() - start)


@dataclass(frozen=True, slots=True)
class _Guest:
    """A guest that shows the defect: lines of its machine and of what it did until then."""

    name: str
    setup: list[str]
    lines: list[str]


def _visitor(visitor: Visitor, exhibit: Exhibit, ops: int) -> tuple[int, _Guest | None]:
    """Let a guest act, checked after every op: how many ops, and the guest if it shows the defect."""
    return _shown(visitor.name, visitor.setup, visitor.lines(ops), exhibit, EVERY)


def _stormy(visitor: Visitor, exhibit: Exhibit, ops: int) -> tuple[int, _Guest | None]:
    """Let a storm of accesses pass, checked now and then; the guest if what it did shows the defect."""
    ground = visitor.stormy(exhibit.switches)
    try:
        done, failure = episode(ground, STORM * ops)
    except (ScenarioError, KeyError):
        return 0, None
    if failure is None:
        return done, None
    setup = [line for line in ground.setup if not line.startswith("design ")]
    lines = failure.lines
    return done, _shown(f"storm of {visitor.name}", setup, lines, exhibit, _every(lines))[1]


def _every(lines: Sequence[str]) -> int:
    """Return after how many lines coherence checks everything, by the number of lines; 1 for few."""
    return 1 if len(lines) <= FEW else len(lines) // LOOKS


def _shown(
    name: str, setup: list[str], lines: list[str], exhibit: Exhibit, every: int
) -> tuple[int, _Guest | None]:
    """Play lines: how many ops, and the guest if something is wrong, and nothing without the defect."""
    done = 0
    try:
        done, violation = check_scenario([*setup, *lines], exhibit.switches, every=every)
        if violation is None:
            return done, None
        lines = lines_up_to(lines, violation.op + 1)
        if check_scenario([*setup, *lines], exhibit.fixed, every=every)[1] is not None:
            return done, None
    except (ScenarioError, KeyError):
        return done, None
    return done, _Guest(name, setup, lines)


def _smallest(guest: _Guest, exhibit: Exhibit) -> tuple[list[str], Violation] | None:
    """Return the smallest scenario that shows it, and nothing without the defect; None if that is so only
    while nobody looks often.
    """
    deadline = time.monotonic() + SHRINK_SECONDS
    switches = [f"design {name}={value}" for name, value in exhibit.switches.items()]
    setup, lines = [line for line in guest.setup if not line.startswith("title ")], guest.lines

    def shows(candidate: Sequence[str]) -> bool:
        every = _every(candidate)
        try:
            found = check_scenario(candidate, exhibit.switches, every=every, deadline=deadline)[1]
            if found is None:
                return False
            return check_scenario(candidate, exhibit.fixed, every=every, deadline=deadline)[1] is None
        except (ScenarioError, KeyError, MemoryError, TimeoutError):
            return False

    lines = shrink(lines, lambda kept: shows([*setup, *kept]), deadline)
    setup = shrink(setup, lambda kept: shows([*kept, *lines]), deadline)
    lines = simpler_lines(lines, lambda kept: shows([*setup, *kept]), deadline)
    lines = shrink(lines, lambda kept: shows([*setup, *kept]), deadline)
    text = [f"title {exhibit.title}", *switches, *setup, *lines]
    violation = check_scenario(text)[1]
    if violation is None or check_scenario(text, exhibit.fixed)[1] is not None:
        return None
    return text, violation
