"""All checks that a machine can be played with."""

from __future__ import annotations

from ..guest.play.player import Player
from .audit.audit import Audit, Level
from .checker import Checker
from .coherence import Coherence

__all__ = ["checks_of"]


def checks_of(player: Player, level: Level) -> list[Checker]:
    """Return every check, for a machine that has played nothing yet; `level` is the audit's."""
    checks: list[Checker] = [Coherence(player)]
    if level is not Level.OFF:
        checks.append(Audit(player, level=level))
    return checks
