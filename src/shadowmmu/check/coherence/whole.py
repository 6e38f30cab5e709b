"""The checker: all of coherence, op by op."""

from __future__ import annotations

from typing import Any

from ...guest.play.player import OpResult, Player
from ...guest.scenario import ops as kinds
from ...guest.scenario.ops import Op
from ...kvm.state.vcpu import Vcpu
from ..checker import Violation
from .results import Results
from .usable import (
    Use,
    hardware_walk,
)

__all__ = ["Coherence"]


class Coherence(Results):
    """Holds a machine against the specification: after an op where it was touched, every `every` ops all."""

    def __init__(self, player: Player, every: int = 1) -> None:
        super().__init__(player)
        self.every = every
        player.on_meanwhile.append(self._meanwhile)

    def note_walk(self, op: Op, address: int) -> None:
        """Record the present values of the guest's tables for an address that KVM walked."""
        self.clock += 1
        vcpu = self.kvm.vcpus[op.vcpu]
        tables = set(self._tables_on_way(self.guest_registers(vcpu), address, self.clock))
        self._track(self._note_changes(op, tables))

    def note_flush(self, op: Op, played: OpResult) -> None:
        """Record what the op may have flushed: for INVLPG the walk of its address, else everything."""
        if isinstance(op, kinds.Invlpg):
            self.note_walk(op, op.gva)
        else:
            self.clock += 1
            self._track(self._note_changes(op))
        self.clock += 1
        self._note_flushes(op, _outcome(played))

    def check_fault(self, op: Op, played: OpResult) -> list[Violation]:
        """Return whether a #PF that the guest got is one that its tables give; only that is checked."""
        self.checks += 1
        return self._check_result(op, played)

    def after_op(self, op: Op, played: OpResult | None) -> list[Violation]:
        """Check what is usable and may not be, and what was refused and may not be."""
        self.clock += 1
        self.checks += 1
        self._note_flushes(op, _outcome(played))
        self.unlogged.clear()
        changed = self._note_changes(op)
        self._track(changed)
        found = [] if played is None else self._check_result(op, played)
        found += self._check_log(op)
        if self.clock % self.every == 0:
            found += self.check_machine(op)
            self.forget()
        elif isinstance(op, kinds.Access | kinds.Invlpg | kinds.Exec):
            found += self._check_address(op, op.gva)
        return found

    def _meanwhile(self, op: Op, result: dict[str, Any] | None) -> None:
        """Record what the guest does in the middle of an op of the host: its flushes and
        its changes count.
        """
        self.clock += 1
        if result is not None:
            self._note_flushes(op, str(result.get("outcome", "")))
        self._track(self._note_changes(op))
        self.before_op(op)

    def finish(self) -> list[Violation]:
        """Check the whole machine once more."""
        return self.check_machine(None)

    def check_machine(self, op: Op | None) -> list[Violation]:
        found: list[Violation] = []
        for vcpu in self.kvm.vcpus:
            found += self._check_tables(op, vcpu)
            found += self._check_tlb(op, vcpu)
        found += self._check_frames(op)
        return found

    def explain(self, vcpu: Vcpu, address: int) -> list[str]:
        """Return the guest's walk for an address beside the shadow's."""
        lines = self._guest_lines(self.guest_registers(vcpu), self.flushes[vcpu.id], address)
        if self.tdp:
            return lines
        root, levels = self._root(vcpu)
        path, _ = hardware_walk(self.words, root, levels, address, vcpu.host_maxphyaddr)
        return lines + self._shadow_lines(Use(address, 1, 0, 0, tuple(path))) if path else lines


def _outcome(played: OpResult | None) -> str:
    return "" if played is None else str(played.result.get("outcome", ""))
