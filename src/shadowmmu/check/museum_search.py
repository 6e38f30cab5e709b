"""Looking for a historic defect with random guests and all checks, and making small what shows it.

The search knows nothing of the defect but its switches: it goes through every mode, MMU and profile of guests
in turn, each time with another seed. What the checks find counts only if the same guest is found sound
without the defect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..guest.player import Player
from ..guest.scenario import Scenario
from ..guest.setup import ScenarioError, resolve
from ..trace.events import EventLog
from .audit import Level
from .checker import Violation, play_checked
from .checks import checks_of
from .coherence import Coherence
from .museum import Exhibit
from .shrink import shrink, simpler_lines
from .visitors import Visitor, visitors

__all__ = ["Progress", "Sighting", "check_scenario", "search"]

OPS, EVERY = 400, 16
"""Ops of one guest, and between two looks of coherence at everything."""
SHRINK_SECONDS = 120.0

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
        """What is kept of it."""
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
    lines: Sequence[str], design: Mapping[str, str] | None = None, *, every: int = 1
) -> tuple[int, Violation | None]:
    """Play the lines of a scenario, with these switches too: how many ops, and the first thing wrong.

    `every`: after so many ops coherence looks at everything, after others at what they touched. Raises
    ScenarioError for a text that is no scenario.
    """
    scenario = Scenario.parse("\n".join(lines) + "\n").with_design(design or {})
    player = Player(resolve(scenario), EventLog(), lambda machine: {}, tlb=True)
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
        guests += 1
        done, violation = _visit(visitor, exhibit, ops)
        played += done
        spent = time.monotonic() - start
        on_progress(guests, played, spent)
        if violation is not None:
            lines, violation = _smallest(visitor, exhibit, ops, violation)
            text = "\n".join(lines) + "\n"
            return Sighting(exhibit.name, played, guests, spent, visitor.name, violation, text)
        if spent >= seconds:
            break
    return Sighting(exhibit.name, played, guests, time.monotonic() - start)


def _visit(visitor: Visitor, exhibit: Exhibit, ops: int) -> tuple[int, Violation | None]:
    """How many ops one guest played, and what it shows of the defect, if anything."""
    lines = [*visitor.setup, *visitor.lines(ops)]
    try:
        done, violation = check_scenario(lines, exhibit.switches, every=EVERY)
        if violation is None or check_scenario(lines, exhibit.mended, every=EVERY)[1] is not None:
            return done, None
        return check_scenario(lines, exhibit.switches)
    except ScenarioError:
        return 0, None


def _smallest(
    visitor: Visitor, exhibit: Exhibit, ops: int, violation: Violation
) -> tuple[list[str], Violation]:
    """The smallest scenario that shows the same predicate, and nothing without the defect."""
    deadline = time.monotonic() + SHRINK_SECONDS
    switches = [f"design {name}={value}" for name, value in exhibit.switches.items()]
    setup, lines = visitor.setup, visitor.lines(ops)[: violation.op + 2]

    def shows(candidate: Sequence[str]) -> bool:
        try:
            found = check_scenario(candidate, exhibit.switches)[1]
            if found is None or found.predicate != violation.predicate:
                return False
            return check_scenario(candidate, exhibit.mended)[1] is None
        except (ScenarioError, MemoryError):
            return False

    lines = shrink(lines, lambda kept: shows([*setup, *kept]), deadline)
    setup = shrink(setup, lambda kept: shows([*kept, *lines]), deadline)
    lines = simpler_lines(lines, lambda kept: shows([*setup, *kept]), deadline)
    lines = shrink(lines, lambda kept: shows([*setup, *kept]), deadline)
    title = f"title {exhibit.title}"
    setup = [line for line in setup if not line.startswith("title ")]
    text = [title, *switches, *setup, *lines]
    final = check_scenario(text)[1]
    return text, violation if final is None else final
