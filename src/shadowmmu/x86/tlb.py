# cython: boundscheck=False
# Every index is a way of a set, below sets * ways by construction; the checks cost a tenth of a hit.
"""The TLB: translations that a processor caches from earlier walks, and how it drops them.

Skipping this file changes no translation of correct software: without a TLB every access walks. It exists
because a hypervisor must flush, and a flush that is missing shows here as a stale translation (AMD APM vol.
2, 5.5).

A cached entry is a word in the format of a page-table entry: the frame in bits 51:12, P, the rights W, U
and NX accumulated over all levels, D and G of the leaf. An entry whose D is clear does not serve writes, so
that the next write walks and sets D in memory.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from cython import ulonglong as u64

from .bits import ADDR, FAULT, MASK64, G

__all__ = ["ZEN", "Tlb", "TlbGeometry", "TranslationCache"]


@dataclass(frozen=True, slots=True)
class TlbGeometry:
    """(Sets, ways) of each array; the number of sets is a power of two.

    Attributes:
        l1_4k: First level, 4 KiB pages.
        l1_2m: First level, 2 MiB pages.
        l1_1g: First level, 1 GiB pages.
        l2_4k: Second level, 4 KiB pages.
        l2_2m: Second level, 2 MiB pages.
        l2_1g: Second level, 1 GiB pages.
    """

    l1_4k: tuple[int, int]
    l1_2m: tuple[int, int]
    l1_1g: tuple[int, int]
    l2_4k: tuple[int, int]
    l2_2m: tuple[int, int]
    l2_1g: tuple[int, int]


ZEN = TlbGeometry(l1_4k=(16, 4), l1_2m=(8, 4), l1_1g=(1, 4), l2_4k=(128, 12), l2_2m=(128, 8), l2_1g=(4, 4))
"""The default: 64 + 1536 entries for 4 KiB pages."""


class TranslationCache:
    """One set-associative array, replaced first in first out, for regions of `1 << page_shift` bytes.

    An entry belongs to a PCID (0 to 4095), or to all of them if it has G. The array of entries is indexed by
    set * ways + way. A full flush costs nothing: it begins a new epoch, and a set is empty unless it was
    filled in this one.

    Attributes:
        page_shift: Log2 of the bytes that an entry translates.
        page_mask: u64 mask of the address bits above page_shift.
        set_mask: Number of sets - 1; the set of an address is address >> page_shift & set_mask.
        ways: Entries of a set.
        epoch: Number of full flushes + 1.
        filled: An entry was inserted since the last full flush; else lookups end at once.
        owner: PCID of the first entry since then.
        mixed: There were entries of another PCID or global ones since then; else only `owner`'s exist.
        tag: u64 of each entry: its address, with the PCID in bits 11:0. Valid if `entry` is not 0.
        entry: u64 of each entry: the translation, in the format that the module's docstring describes; 0:
            none.
        set_epoch: Epoch in which each set was filled last.
        hand: Way of each set that is replaced next.
    """

    def __init__(self, page_shift: int, sets: int, ways: int) -> None:
        if sets & sets - 1 or sets * ways <= 0:
            raise ValueError(f"{sets} sets of {ways} ways: sets must be a power of two, ways at least 1")
        self.page_shift = page_shift
        self.page_mask = MASK64 & ~((1 << page_shift) - 1)
        self.set_mask = sets - 1
        self.ways = ways
        self.epoch = 1
        self.filled = False
        self.owner = 0
        self.mixed = False
        self.tag = memoryview(array("Q", bytes(8 * sets * ways)))
        self.entry = memoryview(array("Q", bytes(8 * sets * ways)))
        self.set_epoch = memoryview(array("Q", bytes(8 * sets)))
        self.hand = memoryview(array("Q", bytes(8 * sets)))

    def lookup(self, gva: u64, pcid: u64, need: u64, deny: u64) -> u64:
        """Return the entry for `gva` that has all bits of `need` and none of `deny`, else 0.

        An entry of the PCID that does not suffice is dropped: the walk that follows brings a better one or a
        page fault, which drops it too (AMD APM vol. 2, 5.5.2).
        """
        if not self.filled:
            return 0
        which: u64 = gva >> self.page_shift & self.set_mask
        if self.set_epoch[which] != self.epoch:
            return 0
        tag: u64 = gva & self.page_mask | pcid
        first: u64 = which * self.ways
        i: u64
        entry: u64
        for i in range(first, first + self.ways):
            if self.tag[i] == tag:
                entry = self.entry[i]
                if entry & need == need and not entry & deny:
                    return entry
                self.entry[i] = 0
        if self.mixed:
            for i in range(first, first + self.ways):
                entry = self.entry[i]
                if self.tag[i] ^ tag <= 0xFFF and entry & G and entry & need == need and not entry & deny:
                    return entry
        return 0

    def insert(self, gva: u64, pcid: u64, entry: u64) -> int:
        """Keep `entry` for `gva`, in place of its present entry or else of the oldest in its set.
        Return 0.
        """
        if not self.filled:
            self.filled = True
            self.owner = pcid
            self.mixed = False
        if pcid != self.owner or entry & G:
            self.mixed = True
        which: u64 = gva >> self.page_shift & self.set_mask
        first: u64 = which * self.ways
        i: u64
        if self.set_epoch[which] != self.epoch:
            self.set_epoch[which] = self.epoch
            self.hand[which] = 0
            for i in range(first, first + self.ways):
                self.entry[i] = 0
        tag: u64 = gva & self.page_mask | pcid
        victim: u64 = self.way_of(tag, first)
        if victim == self.ways:
            victim = self.hand[which]
            self.hand[which] = victim + 1 if victim + 1 < self.ways else 0
        self.tag[first + victim] = tag
        self.entry[first + victim] = entry
        return 0

    def way_of(self, tag: u64, first: u64) -> u64:
        """Return the way of the set at `first` that has an entry for `tag`, else one without entry, else
        `ways`.
        """
        free: u64 = self.ways
        i: u64
        for i in range(self.ways):
            if self.entry[first + i] == 0:
                free = min(free, i)
            elif (
                self.tag[first + i] == tag
                or self.mixed
                and self.tag[first + i] ^ tag <= 0xFFF
                and self.entry[first + i] & G
            ):
                return i
        return free

    def flush_all(self) -> int:
        """Drop everything, global entries too. Return 0."""
        self.epoch += 1
        self.filled = False
        return 0

    def flush_nonglobal(self, pcid: u64) -> int:
        """Drop the entries of `pcid` that are not global. Return 0."""
        if not self.mixed:
            return self.flush_all() if pcid == self.owner else 0
        i: u64
        for i in range((self.set_mask + 1) * self.ways):
            if self.tag[i] & 0xFFF == pcid and not self.entry[i] & G:
                self.entry[i] = 0
        return 0

    def flush_page(self, gva: u64, pcid: u64) -> int:
        """Drop the entries that translate `gva` for `pcid`, global ones too. Return 0."""
        if not self.filled:
            return 0
        which: u64 = gva >> self.page_shift & self.set_mask
        if self.set_epoch[which] != self.epoch:
            return 0
        tag: u64 = gva & self.page_mask | pcid
        first: u64 = which * self.ways
        i: u64
        for i in range(first, first + self.ways):
            if self.tag[i] == tag or (self.mixed and self.tag[i] ^ tag <= 0xFFF and self.entry[i] & G):
                self.entry[i] = 0
        return 0

    def flush_frames(self, hpa: u64, size: u64) -> int:
        """Drop the entries that lead to physical addresses [hpa, hpa + size), of all PCIDs, global ones too.
        Return 0.
        """
        if not self.filled:
            return 0
        i: u64
        for i in range((self.set_mask + 1) * self.ways):
            page: u64 = self.entry[i] & ADDR & self.page_mask
            last: u64 = page | ~self.page_mask & MASK64
            if page < hpa + size and last >= hpa:
                self.entry[i] = 0
        return 0

    def entries(self) -> list[tuple[int, int, int]]:
        """Return the live entries as (gva, PCID, entry), in the order of the array."""
        return [
            (self.tag[i] & self.page_mask, self.tag[i] & 0xFFF, self.entry[i])
            for i in range((self.set_mask + 1) * self.ways)
            if self.set_epoch[i // self.ways] == self.epoch and self.entry[i]
        ]


class Tlb:
    """Two levels of arrays for 4 KiB, 2 MiB and 1 GiB pages; a page is cached in the array of its size.

    A 4 MiB page of 2-level paging is cached as 2 MiB halves.

    Attributes:
        enabled: The processor uses it; switching it off drops nothing.
        l1_hits: Number of hits in first-level arrays.
        l2_hits: Number of hits in second-level arrays.
        l1_4k: First level, 4 KiB pages.
        l1_2m: First level, 2 MiB pages.
        l1_1g: First level, 1 GiB pages.
        l2_4k: Second level, 4 KiB pages.
        l2_2m: Second level, 2 MiB pages.
        l2_1g: Second level, 1 GiB pages.
    """

    def __init__(self, geometry: TlbGeometry = ZEN) -> None:
        self.enabled = True
        self.l1_hits = 0
        self.l2_hits = 0
        self.l1_4k = TranslationCache(12, *geometry.l1_4k)
        self.l1_2m = TranslationCache(21, *geometry.l1_2m)
        self.l1_1g = TranslationCache(30, *geometry.l1_1g)
        self.l2_4k = TranslationCache(12, *geometry.l2_4k)
        self.l2_2m = TranslationCache(21, *geometry.l2_2m)
        self.l2_1g = TranslationCache(30, *geometry.l2_1g)

    def lookup_beyond(self, gva: u64, pcid: u64, need: u64, deny: u64) -> u64:
        """Return the hpa of `gva` if an array other than `l1_4k` can serve the access, else `FAULT`. Hits are
        counted.

        The processor tries `l1_4k` itself, because most accesses end there.
        """
        entry: u64 = self.l1_2m.lookup(gva, pcid, need, deny)
        if entry:
            self.l1_hits += 1
            return entry & ADDR | gva & 0x1F_FFFF
        entry = self.l1_1g.lookup(gva, pcid, need, deny)
        if entry:
            self.l1_hits += 1
            return entry & ADDR | gva & 0x3FFF_FFFF
        entry = self.l2_4k.lookup(gva, pcid, need, deny)
        if entry:
            self.l2_hits += 1
            self.l1_4k.insert(gva, pcid, entry)
            return entry & ADDR | gva & 0xFFF
        entry = self.l2_2m.lookup(gva, pcid, need, deny)
        if entry:
            self.l2_hits += 1
            self.l1_2m.insert(gva, pcid, entry)
            return entry & ADDR | gva & 0x1F_FFFF
        entry = self.l2_1g.lookup(gva, pcid, need, deny)
        if entry:
            self.l2_hits += 1
            self.l1_1g.insert(gva, pcid, entry)
            return entry & ADDR | gva & 0x3FFF_FFFF
        return FAULT

    def insert(self, gva: u64, pcid: u64, entry: u64, level: u64) -> int:
        """Keep the result of a walk: the page of `level` (1: 4 KiB, 2: 2 MiB, 3: 1 GiB) around `gva`. Return
        0.
        """
        if level == 1:
            self.l1_4k.insert(gva, pcid, entry)
            self.l2_4k.insert(gva, pcid, entry)
        elif level == 2:
            self.l1_2m.insert(gva, pcid, entry)
            self.l2_2m.insert(gva, pcid, entry)
        else:
            self.l1_1g.insert(gva, pcid, entry)
            self.l2_1g.insert(gva, pcid, entry)
        return 0

    def flush_all(self) -> int:
        """Drop everything, global entries too. Return 0."""
        self.l1_4k.flush_all()
        self.l1_2m.flush_all()
        self.l1_1g.flush_all()
        self.l2_4k.flush_all()
        self.l2_2m.flush_all()
        self.l2_1g.flush_all()
        return 0

    def flush_nonglobal(self, pcid: u64) -> int:
        """Drop the entries of `pcid` that are not global (MOV to CR3). Return 0."""
        self.l1_4k.flush_nonglobal(pcid)
        self.l1_2m.flush_nonglobal(pcid)
        self.l1_1g.flush_nonglobal(pcid)
        self.l2_4k.flush_nonglobal(pcid)
        self.l2_2m.flush_nonglobal(pcid)
        self.l2_1g.flush_nonglobal(pcid)
        return 0

    def flush_page(self, gva: u64, pcid: u64) -> int:
        """Drop the entries that translate `gva` for `pcid`, global ones too (INVLPG). Return 0."""
        self.l1_4k.flush_page(gva, pcid)
        self.l1_2m.flush_page(gva, pcid)
        self.l1_1g.flush_page(gva, pcid)
        self.l2_4k.flush_page(gva, pcid)
        self.l2_2m.flush_page(gva, pcid)
        self.l2_1g.flush_page(gva, pcid)
        return 0

    def flush_frames(self, hpa: u64, size: u64) -> int:
        """Drop the entries that lead to physical addresses [hpa, hpa + size), of all PCIDs, global ones too.
        Return 0.
        """
        self.l1_4k.flush_frames(hpa, size)
        self.l1_2m.flush_frames(hpa, size)
        self.l1_1g.flush_frames(hpa, size)
        self.l2_4k.flush_frames(hpa, size)
        self.l2_2m.flush_frames(hpa, size)
        self.l2_1g.flush_frames(hpa, size)
        return 0

    def translations(self) -> list[tuple[int, int, int, int]]:
        """Return every live entry as (gva, PCID, level, entry), first-level arrays first, 4 KiB
        pages first.
        """
        arrays = (
            (1, self.l1_4k),
            (2, self.l1_2m),
            (3, self.l1_1g),
            (1, self.l2_4k),
            (2, self.l2_2m),
            (3, self.l2_1g),
        )
        return [
            (gva, pcid, level, entry) for level, array_ in arrays for gva, pcid, entry in array_.entries()
        ]
