"""A walk of the guest's tables, as far as they are there; nothing is changed by it."""

from __future__ import annotations

from dataclasses import dataclass

from ...host.backing import HostError
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import ADDR, CR0_PG, CR4_LA57, CR4_PAE, EFER_LMA, PS, P
from ...x86.paging import paging_format
from .machine import Machine

__all__ = ["GuestEntry", "guest_walk", "levels_of"]


@dataclass(frozen=True, slots=True)
class GuestEntry:
    """An entry of a guest's table: where its table begins (gpa), its index, value, level and bytes."""

    table: int
    index: int
    value: int
    level: int
    size: int

    @property
    def gpa(self) -> int:
        """Where the entry is."""
        return self.table + self.index * self.size


def levels_of(vcpu: Vcpu) -> int:
    """Return the levels of the guest's tables: 0 without paging."""
    if not vcpu.cr0 & CR0_PG:
        return 0
    if vcpu.efer & EFER_LMA:
        return 5 if vcpu.cr4 & CR4_LA57 else 4
    return 3 if vcpu.cr4 & CR4_PAE else 2


def guest_walk(machine: Machine, vcpu: Vcpu, gva: int) -> tuple[list[GuestEntry], int | None]:
    """Return the entries on the way of an address, and the gpa it leads to; None if it leads nowhere."""
    levels = levels_of(vcpu)
    if not levels:
        return [], gva
    form = paging_format(levels)
    table = vcpu.cr3 & (0xFFFFFFE0 if levels == 3 else ADDR)
    found: list[GuestEntry] = []
    for level in range(levels, 0, -1):
        index = form.index(gva, level) & (3 if levels == 3 and level == 3 else -1)
        try:
            value = machine.host_read(table + index * form.entry_bytes, form.entry_bytes)
        except HostError:
            return found, None
        found.append(GuestEntry(table, index, value, level, form.entry_bytes))
        if not value & P:
            return found, None
        if level == 1 or (value & PS and not (levels == 3 and level == 3)):
            shift = form.level_shift(level)
            frame = value & ADDR
            if levels == 2 and level == 2:
                frame = value & 0xFFC00000 | (value >> 13 & 0xFF) << 32
            return found, frame >> shift << shift | gva & (1 << shift) - 1
        table = value & ADDR
    return found, None
