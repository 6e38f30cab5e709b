"""What a guest's page tables say, and said: the walk of the manuals over all values that an entry had.

A processor may use what the tables say now, and what they said at any time since the last flush that covers
the address: it may have read every entry of the way at another time. So a walk here follows every value that
an entry had since then. This is the specification against which the MMU is held; it shares no code with it.

A state of a walk is a tuple: (level, address, rights). While level > 0 the entry to read is in the table of
that level at guest-physical `address`; level -n is a leaf of level n that maps `address` on.
"""

from __future__ import annotations

from cython import longlong as i64, ulonglong as u64

from ...host.memory import Arena
from ...kvm.state.memslots import MemSlot
from ...kvm.state.vm import Kvm
from ...x86.bits import (
    ACC_ALL,
    ACC_U,
    ACC_W,
    ACC_X,
    ADDR,
    MASK64,
    NX,
    PS,
    A,
    D,
    G,
    P,
    U,
    W,
)

__all__ = ["DIRTY", "FOREVER", "GLOBAL", "UNUSED", "GuestMemory", "Refusals", "Registers", "State", "permits"]

State = tuple[int, int, int]
Refusals = list[tuple[int, int, int]]

DIRTY, GLOBAL, UNUSED = 8, 16, 32
"""Beside the ACC bits in a state's rights: D and G of the leaf; A is missing somewhere on the way."""

FOREVER = (1 << 62) - 1
"""When a value ends that somebody else than the guest changed, unseen by the MMU."""

NO_TABLE, NOT_PRESENT, RESERVED = 1, 2, 3


class Registers:
    """What the registers of a vCPU say about its translations.

    levels      of the tables: 0 (no paging), 2, 3 (PAE), 4, 5
    root        guest-physical address of the top table (PAE: ignored if `pdptrs` are given)
    pdptrs      the four PDPTE registers, or None where the processor walks them in memory
    pa_bits     width of a physical address: higher bits in an entry are reserved
    nx          EFER.NX; without it bit 63 of an entry is reserved, but where `nx_reserved` is off: KVM's
                shadow pages are used whatever EFER.NX is, so that a page marked so is not executed instead
    bit8_reserved
                bit 8 of an entry of level 4 or 5 is reserved: to KVM's guests it is, processors differ
    nested      these are nested tables: every access is one of a user
    """

    def __init__(self) -> None:
        self.levels = 0
        self.root = 0
        self.pdptrs: list[int] | None = None
        self.wp = True
        self.nx = True
        self.nx_reserved = True
        self.bit8_reserved = False
        self.smep = False
        self.pse = True
        self.pge = False
        self.nested = False
        self.pa_bits = 52
        self.index_bits = 9
        self.entry_bytes = 8

    def set_levels(self, levels: int) -> None:
        """Give the tables their format."""
        self.levels = levels
        self.index_bits, self.entry_bytes = (10, 4) if levels == 2 else (9, 8)

    def key(self) -> tuple[object, ...]:
        """Return everything that decides what tables mean."""
        pdptrs = None if self.pdptrs is None else tuple(self.pdptrs)
        return (
            self.levels,
            self.root,
            pdptrs,
            self.wp,
            self.nx,
            self.smep,
            self.pse,
            self.nested,
            self.pa_bits,
        )


def permits(regs: Registers, rights: u64, user: u64, kind: u64) -> bool:
    """Return whether rights (ACC bits) serve an access: kind 0 read, 1 write, 2 fetch.
    AMD APM vol. 2, 5.6.
    """
    if user or regs.nested:
        if not rights & ACC_U:
            return False
        return kind == 0 or rights & (ACC_W if kind == 1 else ACC_X) != 0
    if kind == 0:
        return True
    if kind == 1:
        return rights & ACC_W != 0 or not regs.wp
    return rights & ACC_X != 0 and not (regs.smep and rights & ACC_U)


class GuestMemory:
    """Guest-physical memory as slots and host have it now, with the earlier values of what is a page table.

    `past` holds earlier values of aligned 8-byte words: address -> [(value, last time)], oldest first.
    """

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm
        self.arena: Arena = kvm.arena
        self.past: dict[int, list[tuple[int, int]]] = {}

    def slot_at(self, gfn: u64) -> MemSlot | None:
        """Return the slot that user space has put there."""
        slot: MemSlot
        for slot in self.kvm.memslots:
            if slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
                return slot
        return None

    def page(self, gfn: u64, write: u64) -> u64:
        """Return the host address of a guest page if the host maps it now, and for writing; else MASK64."""
        slot: MemSlot | None = self.slot_at(gfn)
        if slot is None or (write and not slot.writable()):
            return MASK64
        index: u64 = gfn - slot.base_gfn + slot.first_page
        word: u64 = slot.mapping.fast_page(index, write)
        return word & ADDR if word else MASK64

    def word(self, gpa: u64) -> u64:
        """Return the aligned 8 bytes at gpa as they are now; 0 if nobody has touched them."""
        hpa: u64 = self.page(gpa >> 12, 0)
        if hpa == MASK64:
            return 0
        return self.arena.load(hpa | gpa & 0xFF8, 8)

    def changed(self, gpa: u64, old: u64, time: i64, kept: u64 = 0) -> None:
        """Record that the guest changed the word at gpa, which was `old`.

        What others did before may be forgotten by the MMU, but for the bits `kept`, of another entry.
        """
        known = self.past.get(gpa)
        if known is None:
            self.past[gpa] = [(old, time)]
            return
        if known[len(known) - 1][1] != FOREVER:
            known.append((old, time))
            return
        now: u64 = self.word(gpa)
        ended = []
        forever = []
        for item in known:
            value: u64 = item[0]
            ended.append((value, time if item[1] == FOREVER else item[1]))
            if kept and item[1] == FOREVER:
                forever.append((value & kept | now & ~kept, FOREVER))
        self.past[gpa] = [*ended, (old, time), *forever]

    def changed_unseen(self, gpa: u64, old: u64) -> None:
        """Record that something which the MMU does not see changed the word."""
        self.past.setdefault(gpa, []).append((old, FOREVER))

    def forget(self, time: i64) -> None:
        """Drop the values that ended by then."""
        ended = []
        for gpa, values in self.past.items():
            kept = [item for item in values if item[1] > time]
            if not kept:
                ended.append(gpa)
            elif len(kept) != len(values):
                self.past[gpa] = kept
        for gpa in ended:
            del self.past[gpa]

    def values(self, gpa: u64, size: u64, since: i64) -> list[int]:
        """Return what the entry at gpa holds, and what it held after `since`."""
        word_at: u64 = gpa & ~7
        now: u64 = self.word(word_at)
        shift: u64 = (gpa & 4) << 3 if size == 4 else 0
        mask: u64 = 0xFFFFFFFF if size == 4 else MASK64
        found: list[int] = [now >> shift & mask]
        known = self.past.get(word_at)
        if known is not None:
            for old, end in known:
                if end > since:
                    value = old >> shift & mask
                    if value not in found:
                        found.append(value)
        return found

    def refusal(self, regs: Registers, level: u64, entry: u64) -> u64:
        """Return why an entry ends a walk: NOT_PRESENT, RESERVED; 0: it does not. AMD APM
        vol. 2, 5.3 and 5.4.

        KVM reads the PDPTEs of nested tables as they are. D is reserved in a PDPTE, but the processor itself
        sets it there if the page serves as a lower table too, after it used the PDPTE.
        """
        if not entry & P:
            return NOT_PRESENT
        if regs.levels == 2:
            return RESERVED if level == 2 and entry & PS and regs.pse and entry & 0x3E0000 else 0
        one: u64 = 1
        high: u64 = ADDR & ~((one << regs.pa_bits) - 1)
        if regs.levels == 3:
            high |= 0x7FF0 << 48
            if level == 3 and regs.nested:
                return 0
            if level == 3:
                return RESERVED if entry & (high | NX | (0x1C6 if regs.bit8_reserved else 0x186)) else 0
        if not regs.nx and regs.nx_reserved:
            high |= NX
        if level > 3:
            high |= PS | G if regs.bit8_reserved else PS
        elif level > 1 and entry & PS:
            high |= 0x1FE000 if level == 2 else 0x3FFFE000
        return RESERVED if entry & high else 0

    def _takes_bits(self, gpa: u64) -> bool:
        """Return whether A and D can be set in an entry; where not, walks continue without."""
        return self.page(gpa >> 12, 1) != MASK64

    def start(self, regs: Registers) -> State:
        """Return where walks begin. Without paging all of memory is a leaf."""
        if regs.levels == 0:
            return (-6, 0, ACC_ALL | DIRTY)
        mask: u64 = ADDR | 0xFE0 if regs.levels == 3 else ADDR
        return (regs.levels, regs.root & mask, ACC_ALL)

    def step(self, regs: Registers, state: State, gva: u64, since: i64, refused: Refusals) -> list[State]:
        """Return where reading one more entry for gva leads to; refusals are added as (level, gpa, why)."""
        level: i64 = state[0]
        table: u64 = state[1]
        above: u64 = state[2]
        shift: u64 = 12 + regs.index_bits * (level - 1)
        one: u64 = 1
        index: u64 = gva >> shift & (one << regs.index_bits) - 1
        entry: u64
        if regs.levels == 3 and level == 3:
            index &= 3
        gpa: u64 = table + index * regs.entry_bytes
        if level == 3 and regs.pdptrs is not None:
            entries: list[int] = [regs.pdptrs[index]]
        elif self.slot_at(gpa >> 12) is None:
            refused.append((level, gpa, NO_TABLE))
            entries = [value for value, end in self.past.get(gpa & ~7, ()) if end > since]
        else:
            entries = self.values(gpa, regs.entry_bytes, since)
        found: list[State] = []
        for value in entries:
            entry = value
            why: u64 = self.refusal(regs, level, entry)
            if why:
                refused.append((level, gpa, why))
                continue
            rights: u64 = above
            pdpte: bool = level == 3 and regs.levels == 3
            if not pdpte:
                rights &= (
                    (~0x7 & 0xFF)
                    | (ACC_W if entry & W else 0)
                    | (ACC_U if entry & U else 0)
                    | (0 if entry & NX and regs.entry_bytes == 8 else ACC_X)
                )
                if not entry & A and self._takes_bits(gpa):
                    rights |= UNUSED
            large: bool = entry & PS != 0 and level < 4 and not pdpte and (regs.pse or regs.levels != 2)
            if level == 1 or large:
                frame: u64 = (entry & ADDR) >> shift << shift
                if shift == 22:
                    frame |= (entry >> 13 & 0xF) << 32
                rights |= DIRTY if entry & D or not self._takes_bits(gpa) else 0
                rights |= GLOBAL if entry & G and regs.pge else 0
                found.append((-level, frame, rights))
            else:
                found.append((level - 1, entry & ADDR, rights))
        return found

    def walk(self, regs: Registers, gva: u64, since: i64, refused: Refusals) -> list[tuple[int, int]]:
        """Return (gpa, rights) of every way that gva may be translated by entries as they
        were after `since`.
        """
        states = [self.start(regs)]
        leaves: list[tuple[int, int]] = []
        one: u64 = 1
        while states:
            state = states.pop()
            if state[0] > 0:
                states += self.step(regs, state, gva, since, refused)
            else:
                shift: u64 = 63 if state[0] == -6 else 12 + regs.index_bits * (-state[0] - 1)
                leaves.append((state[1] | gva & (one << shift) - 1, state[2]))
        return leaves
