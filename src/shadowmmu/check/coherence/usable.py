"""What a processor could use now: its TLB, and the tables below its root, as the manuals read them.

A `Use` is a translation that would be served without an exit: where from, where to, and for which accesses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...kvm.state.vcpu import Vcpu
from ...x86.bits import ACC_U, ACC_W, ACC_X, ADDR, NESTED_W, NESTED_X, NX, PS, D, P, U, W
from .guest_tables import Registers, permits

__all__ = [
    "ACCESSES",
    "Link",
    "Use",
    "accesses_of",
    "accesses_of_tlb",
    "ept_rights",
    "hardware_walk",
    "is_usable",
    "rights_of",
    "tlb_uses",
]

ACCESSES = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
"""(user, kind) of every access; bit n of `Use.accesses` stands for number n."""

Link = tuple[int, int, int]
"""(level, address of the entry, entry) of one step of a walk of the hardware."""


@dataclass(frozen=True, slots=True)
class Use:
    """`address` (linear, or guest-physical in nested tables) reaches the page of `level` at `frame`."""

    address: int
    level: int
    frame: int
    accesses: int
    path: tuple[Link, ...] = ()
    """Empty: it is from the TLB."""


def accesses_of(rights: int, *, smep: bool, nested: bool) -> int:
    """Return which accesses the hardware serves from tables with these rights, CR0.WP and EFER.NX set."""
    regs = Registers()
    regs.smep, regs.nested = smep, nested
    return sum(1 << n for n, (user, kind) in enumerate(ACCESSES) if permits(regs, rights, user, kind))


def accesses_of_tlb(entry: int, regs: Registers) -> int:
    """Return which accesses a TLB entry serves; `regs` are those that the processor runs with."""
    rights = rights_of(entry)
    found = 0
    for n, (user, kind) in enumerate(ACCESSES):
        if kind == 1 and not (entry & D and entry & NESTED_W):
            continue
        if kind == 2 and not entry & NESTED_X:
            continue
        if permits(regs, rights, user, kind):
            found |= 1 << n
    return found


def rights_of(entry: int) -> int:
    """Return the rights of an entry or a TLB entry, as ACC bits."""
    return (ACC_W if entry & W else 0) | (ACC_U if entry & U else 0) | (0 if entry & NX else ACC_X)


def tlb_uses(vcpu: Vcpu, regs: Registers) -> Iterator[Use]:
    """Yield what the TLB of a vCPU holds for its current PCID."""
    pcid = vcpu.cpu.pcid
    for gva, owner, level, entry in vcpu.cpu.tlb.translations():
        if owner == pcid:
            accesses = accesses_of_tlb(entry, regs)
            if accesses:
                yield Use(gva, level, entry & ADDR & -(1 << 3 + 9 * level), accesses)


def hardware_walk(
    words: memoryview, root: int, levels: int, address: int, pa_bits: int
) -> tuple[list[Link], int]:
    """Return the entries of an address's walk and the rights over all; the last one may not be present."""
    table = root & (ADDR | 0xFE0 if levels == 3 else ADDR)
    path: list[Link] = []
    rights = ACC_W | ACC_U | ACC_X
    for level in range(levels, 0, -1):
        index = address >> 3 + 9 * level & (3 if levels == 3 and level == 3 else 511)
        at = table + 8 * index
        entry: int = words[at >> 3]
        path.append((level, at, entry))
        if not is_usable(entry, pa_bits):
            break
        if not (levels == 3 and level == 3):
            rights &= rights_of(entry)
            if level == 1 or entry & PS:
                break
        table = entry & ADDR
    return path, rights


def is_usable(entry: int, pa_bits: int, *, ept: bool = False) -> bool:
    """Return whether the hardware walks on from an entry of a shadow table: present, no reserved bit.

    In EPT present is what has any right, and what can be written but not read is a misconfiguration.
    """
    if entry & ADDR >> pa_bits << pa_bits:
        return False
    return entry & 7 != 0 and entry & 3 != W if ept else entry & P != 0


def ept_rights(entry: int) -> int:
    """Return the rights of an EPT entry; U stands for read."""
    return (ACC_W if entry & 2 else 0) | (ACC_U if entry & 1 else 0) | (ACC_X if entry & 4 else 0)
