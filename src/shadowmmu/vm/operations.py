"""A machine that operations are played on: traced, and checked if need be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ..guest.play.machine import Machine
from ..guest.play.player import OpResult, Player
from ..guest.scenario import ops
from ..guest.scenario.ops import Op
from ..kvm.state.vm import Kvm
from .answer import answer
from .slots import Slots
from .stats import Stats
from .trace import Trace
from .vcpu import Vcpu
from .verdict import Checks, Verdict

__all__ = ["Operations"]

Answer = TypeVar("Answer")


class Operations:
    """The machine of a player. Everything that changes it comes through here, to be heard and checked."""

    player: Player

    def _take(self, player: Player, *, checked: bool) -> None:
        """Become the machine of a player."""
        self.player = player
        player.dump = False
        self.history: list[str] = []
        self.stats = Stats(self._totals)
        self.slots = Slots(self)
        self.vcpus = [Vcpu(self, cpu.vcpu.id) for cpu in player.cpus]
        self._checks = Checks(player, followed=True) if checked else None

    def _totals(self) -> dict[str, int]:
        totals = self.kvm.vm_stats()
        for vcpu in self.kvm.vcpus:
            for name, value in vcpu.stat.as_dict().items():
                totals[name] = totals.get(name, 0) + value
        return totals

    @property
    def machine(self) -> Machine:
        """Host memory, the VM and user space's side of its slots."""
        return self.player.machine

    @property
    def kvm(self) -> Kvm:
        """struct kvm."""
        return self.player.machine.kvm

    def play_op(self, op: Op) -> dict[str, Any]:
        """Carry out one operation of the scenario language; return its result as recordings have it."""
        if self._checks is not None:
            self._checks.before_op(op)
        if op.text:
            self.history.append(f"@{op.vcpu} {op.text}" if op.vcpu and op.text[0] != "@" else op.text)
        self.player.refused = None
        played = next(self.player.play([op]), None)
        if self._checks is not None:
            self._checks.after_op(op, played)
        return {} if played is None else played.result

    def host_op(self, op: Op) -> None:
        """Carry out one of the host's operations. Raises OSError if KVM or the host refuses it."""
        answer(self.kvm.vcpus[0], self.play_op(op), self.player.refused)

    def host_call(self, text: str, call: Callable[[], Answer]) -> Answer:
        """Call something that changes the machine without being an operation, named `text` in violations."""
        op = ops.HostRead(line=0, text=text, vcpu=0, gpa=0, size=1)
        self.history.append(text)
        if self._checks is not None:
            self._checks.before_op(op)
        try:
            return call()
        finally:
            if self._checks is not None:
                self._checks.after_op(
                    op, OpResult(self.player.op_number, text, 0, {"outcome": "ok"}, {}, [], [], None)
                )

    def edit(self, change: Callable[[], Answer]) -> Answer:
        """Change guest memory from outside, unseen by KVM."""
        if self._checks is not None:
            self._checks.unseen()
        return change()

    def check(self) -> Verdict:
        """Return whether everything is as it must be.

        The audit looks at all of the MMU's structures. With checked=True every operation since the start was
        also held against what the guest's tables, the slots and the host allow (coherence).
        """
        checks = self._checks or Checks(self.player, followed=False)
        return checks.verdict()

    # -- tracing -------------------------------------------------------------------------------------------

    def trace(self, *patterns: str) -> Trace:
        """Start to listen to the tracepoints whose names match one of the patterns, by default to all.

        Use it with `with`, or call its `stop()`. Any number of traces may listen at a time.
        """
        trace = Trace(patterns, on_stop=self.kvm.tracer.remove)
        self.kvm.tracer.add(trace)
        return trace
