"""Reads of a guest that saw a translation which its page tables have no more.

A processor may use a translation until the guest flushes it, and a shadow page that is out of sync until it
is synced: such a read is the guest's doing, and not an error of the MMU. The tables are walked as they are,
by the same specification as in `coherence`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...guest.play.player import Player
from ...guest.play.user_space import MMIO_ANSWER
from ...guest.scenario import ops as kinds
from ...guest.scenario.ops import Op
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA, EFER_NX, MASK64
from .guest_tables import GuestMemory, Registers, permits

__all__ = ["StaleReads"]


class StaleReads:
    """Tells of each read whether the guest's tables, as they are, lead to what it returned."""

    def __init__(self, player: Player) -> None:
        self._vcpus = [cpu.vcpu for cpu in player.cpus]
        self._memory = GuestMemory(player.kvm)

    def note(self, op: Op, result: Mapping[str, Any]) -> str | None:
        """Return what the tables say if a read returned something else, or None.

        Reads that cross a page, of L2, or with ops in their middle are not looked at.
        """
        if not isinstance(op, kinds.Access) or op.kind != "read" or op.l2 or "meanwhile" in result:
            return None
        if result.get("outcome") != "ok" or (op.gva & 0xFFF) + op.size > 0x1000:
            return None
        regs = _registers(self._vcpus[op.vcpu])
        ways = self._memory.walk(regs, op.gva, (1 << 62) - 1, [])
        if not ways:
            return "the guest's tables map nothing there by now"
        gpa, rights = ways[0]
        if not permits(regs, rights, int(op.user), 0):
            return "the guest's tables forbid it by now"
        value = self._value(gpa, op.size)
        if value == int(result["value"], 16):
            return None
        return f"the guest's tables lead to gpa {gpa:#x} by now, which has {value:#x}"

    def _value(self, gpa: int, size: int) -> int:
        hpa = self._memory.page(gpa >> 12, 0)
        if hpa != MASK64:
            return self._memory.arena.load(hpa | gpa & 0xFFF, size)
        return (MMIO_ANSWER if self._memory.slot_at(gpa >> 12) is None else 0) & (1 << 8 * size) - 1


def _registers(vcpu: Vcpu) -> Registers:
    """Return how the vCPU would walk its tables now."""
    regs = Registers()
    levels = 0
    if vcpu.cr0 & CR0_PG:
        long_mode = 5 if vcpu.cr4 & CR4_LA57 else 4
        levels = long_mode if vcpu.efer & EFER_LMA else 3 if vcpu.cr4 & CR4_PAE else 2
    regs.set_levels(levels)
    regs.root = vcpu.cr3
    regs.wp = bool(vcpu.cr0 & CR0_WP)
    regs.nx = bool(vcpu.efer & EFER_NX) and levels > 2
    regs.pse = bool(vcpu.cr4 & CR4_PSE)
    regs.pa_bits = vcpu.maxphyaddr
    return regs
