"""A scenario played with all checks on, and what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..guest.play.player import Player
from ..guest.scenario.scenario import Scenario
from ..guest.scenario.setup import resolve
from ..kvm.tracepoints.tracer import EventLog
from .audit.audit import Level
from .checker import Violation, play_checked
from .checks import checks_of
from .known import explanation, unsafe_values

__all__ = ["Outcome", "check_scenario", "known_value"]

_SHOWN = 10
"""So many violations of a scenario are printed; of more the number."""


@dataclass(slots=True)
class Outcome:
    """What came out of one scenario."""

    scenario: str
    ops: int = 0
    checks: int = 0
    violations: list[Violation] = field(default_factory=list)
    interrupted: bool = False
    known: tuple[str, str, str] | None = None
    """(switch, value, safe value): the kernel's unsafe value without which all holds."""

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain data."""
        return {
            "scenario": self.scenario,
            "ops": self.ops,
            "checks": self.checks,
            "violations": [violation.as_dict() for violation in self.violations],
            "interrupted": self.interrupted,
            "known": None if self.known is None else "=".join(self.known[:2]),
        }

    @property
    def verdict(self) -> str:
        """The number of violations in words."""
        return f"{len(self.violations)} found" if self.violations else "nothing found"

    @property
    def head(self) -> str:
        """What was played and checked, without the verdict."""
        return f"{self.scenario}: {self.ops} ops, {self.checks} checks, "

    def lines(self) -> list[str]:
        """Return the violations for a reader, after the head and the verdict."""
        lines = [f"  {line}" for each in self.violations[:_SHOWN] for line in each.text().splitlines()]
        if len(self.violations) > _SHOWN:
            lines.append(f"  and {len(self.violations) - _SHOWN} more")
        if self.known is not None:
            lines.append(f"  {explanation(*self.known)}")
        return lines


def check_scenario(
    scenario: Scenario,
    level: Level = Level.OP,
    *,
    tlb: bool = True,
    on_op: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Play a scenario and return what did not hold; `level` is the audit's, `on_op` is called after each op.

    Raises ScenarioError for a scenario that cannot be played. An interruption ends it early.
    """
    player = Player(resolve(scenario), EventLog(), lambda machine: {}, tlb=tlb)
    player.start()
    checks = checks_of(player, level)
    outcome = Outcome(scenario.name)
    try:
        for _, played, found in play_checked(player, scenario.ops, checks):
            outcome.ops += played is not None
            outcome.violations += found
            on_op(outcome)
        for checker in checks:
            outcome.violations += checker.finish()
    except KeyboardInterrupt:
        outcome.interrupted = True
    outcome.checks = sum(checker.checks for checker in checks)
    return outcome


def known_value(
    scenario: Scenario, level: Level = Level.OP, *, tlb: bool = True
) -> tuple[str, str, str] | None:
    """Return the unsafe value that the scenario's kernel is known to have which breaks what does not hold."""
    for switch, value, safe in unsafe_values(scenario.kernel, scenario.design):
        if not check_scenario(scenario.with_design({switch: safe}), level, tlb=tlb).violations:
            return switch, value, safe
    return None
