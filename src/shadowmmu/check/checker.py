"""What all checks have in common: a `Checker` examines a machine after every op and reports `Violation`s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from ..guest.play.player import OpResult, Player
from ..guest.scenario.ops import Op
from ..kvm.state.oops import KernelOops

__all__ = ["CORRUPT", "Checker", "Violation", "play_checked"]

CORRUPT = (LookupError, AttributeError, KernelOops, RecursionError, RuntimeError)
"""Exceptions of the MMU when it meets corrupt structures: where KVM has BUG() or WARN()."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be, found after an op.

    check       which checker found it: audit, coherence
    predicate   the name of what does not hold
    says        what is wrong, with the names of recordings (S7[3], gpa:800000)
    op, do      number and text of the op that broke it
    step        what the vCPU did last, if the check looks inside ops; else empty
    shows       lines with the part of the tables that explains it
    """

    check: str
    predicate: str
    says: str
    op: int
    do: str
    step: str = ""
    shows: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the violation as plain data."""
        return {**asdict(self), "shows": list(self.shows)}

    def text(self) -> str:
        """Return the violation for a reader, on several lines."""
        step = f", {self.step}" if self.step else ""
        head = [f"{self.predicate}: {self.says}", f"  broken by op {self.op}: {self.do.strip()}{step}"]
        return "\n".join([*head, *(f"    {line}" for line in self.shows)])


class Checker(ABC):
    """Checks one machine. It is made before the first op; every op is announced, then reported.

    `checks` counts how often it looked.
    """

    name: ClassVar[str]
    checks: int = 0

    def __init__(self, player: Player) -> None:
        self.player = player

    def before_op(self, op: Op) -> None:  # noqa: B027  (not every checker needs it)
        """Prepare for `op`, which is played next."""

    @abstractmethod
    def after_op(self, op: Op, played: OpResult | None) -> list[Violation]:
        """Return what does not hold any more. `played` is None if the op has no result for the machine."""

    def finish(self) -> list[Violation]:
        """Return what checks too expensive to run after every op find after the last."""
        return []


def play_checked(
    player: Player, ops: Iterable[Op], checkers: Sequence[Checker]
) -> Iterator[tuple[Op, OpResult | None, list[Violation]]]:
    """Play ops one by one; yield each with its result and what the checkers found. Stops after an op that
    ends the machine.

    Corrupt structures that make the MMU fail are a violation too.
    """
    for op in ops:
        for checker in checkers:
            checker.before_op(op)
        try:
            played = next(player.play([op]), None)
        except NotImplementedError:
            raise
        except CORRUPT as error:
            yield op, None, [_stumbled(player.op_number, op, error)]
            return
        if player.oops is not None:
            yield op, None, [_stumbled(player.op_number - 1, op, KernelOops(player.oops))]
            return
        found: list[Violation] = []
        for checker in checkers:
            found += checker.after_op(op, played)
        yield op, played, found


def _stumbled(number: int, op: Op, error: Exception) -> Violation:
    says = f"the MMU's structures are corrupt: {type(error).__name__}: {error}"
    return Violation("audit", "no-bug", says, number, op.text)
