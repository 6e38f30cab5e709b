"""Whether the MMU's structures hold together, and whether the guest can use only what it may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..guest.play.player import OpResult, Player
from ..guest.scenario.ops import Op

if TYPE_CHECKING:
    from ..check.checker import Violation

__all__ = ["Checks", "Verdict"]


@dataclass(frozen=True, slots=True, repr=False)
class Verdict:
    """What `Vm.check` found; true if nothing is wrong.

    `coherent` says whether the processors' translations were held against the guest's tables too.
    """

    violations: tuple[Violation, ...]
    coherent: bool

    def __bool__(self) -> bool:
        return not self.violations

    def __str__(self) -> str:
        if self.violations:
            return "\n".join(violation.text() for violation in self.violations)
        if self.coherent:
            return "nothing found: the structures hold, and no stale translation can be used"
        return "nothing found: the structures hold (staleness is checked with Vm(checked=True))"

    def __repr__(self) -> str:
        return f"<Verdict {len(self.violations)} violations>" if self.violations else f"<Verdict {self}>"


class Checks:
    """Audit of a machine, from its first op on, and coherence if it is `followed` through each op."""

    def __init__(self, player: Player, *, followed: bool) -> None:
        from ..check.audit.audit import Audit
        from ..check.coherence import Coherence

        self.found: list[Violation] = []
        self._audit = Audit(player)
        self._coherence = Coherence(player) if followed else None

    def before_op(self, op: Op) -> None:
        self._audit.before_op(op)
        if self._coherence is not None:
            self._coherence.before_op(op)

    def after_op(self, op: Op, played: OpResult | None) -> None:
        if self._coherence is not None:
            self.found += self._coherence.after_op(op, played)
        self.found += self._audit.after_op(op, played)

    def unseen(self) -> None:
        """Record that guest memory was changed from outside, which KVM does not see."""
        self._audit.unseen()

    def verdict(self) -> Verdict:
        """Return everything found so far, after one more look at the whole machine."""
        if self._coherence is not None:
            self.found += self._coherence.finish()
        self.found += self._audit.look(again=True)
        return Verdict(tuple(self.found), self._coherence is not None)
