# cython: boundscheck=False
# Every index is a way of a set, below sets * ways by construction; the checks cost a tenth of a hit.
"""The TLB: what a processor remembers of earlier walks, and how it is made to forget.

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
    """Sets (a power of two) and ways of each array."""

    l1_4k: tuple[int, int]
    l1_2m: tuple[int, int]
    l1_1g: tuple[int, int]
    l2_4k: tuple[int, int]
    l2_2m: tuple[int, int]
    l2_1g: tuple[int, int]


ZEN = TlbGeometry(l1_4k=(16, 4), l1_2m=(8, 4), l1_1g=(1, 4), l2_4k=(128, 12), l2_2m=(128, 8), l2_1g=(4, 4))
"""The default: 64 + 1536 entries for 4 KiB pages."""


class TranslationCache:
    """One set-associative array with true LRU replacement, for regions of `1 << page_shift` bytes.

    An entry belongs to a PCID (0 to 4095), or to all of them if it has G. It is live while its last use is
    younger than the last full flush, which therefore costs nothing.
    """

    def __init__(self, page_shift: int, sets: int, ways: int) -> None:
        if sets & sets - 1 or sets * ways <= 0:
            raise ValueError(f"{sets} sets of {ways} ways: need a power of two and at least one way")
        self.page_shift = page_shift
        self.page_mask = MASK64 & ~((1 << page_shift) - 1)
        self.set_mask = sets - 1
        self.ways = ways
        self.tick = 0
        self.flushed = 0
        self.owner = 0
        self.mixed = False
        self.tag = memoryview(array("Q", bytes(8 * sets * ways)))
        self.entry = memoryview(array("Q", bytes(8 * sets * ways)))
        self.used = memoryview(array("Q", bytes(8 * sets * ways)))

    def lookup(self, gva: u64, pcid: u64, need: u64, deny: u64) -> u64:
        """The entry for `gva` that has all bits of `need` and none of `deny`, else 0."""
        if self.tick == self.flushed:
            return 0
        tag: u64 = gva & self.page_mask | pcid
        first: u64 = (gva >> self.page_shift & self.set_mask) * self.ways
        i: u64
        for i in range(first, first + self.ways):
            difference: u64 = self.tag[i] ^ tag
            if difference <= 0xFFF and self.used[i] > self.flushed:
                entry: u64 = self.entry[i]
                if entry & need == need and not entry & deny and (difference == 0 or entry & G):
                    self.tick += 1
                    self.used[i] = self.tick
                    return entry
        return 0

    def insert(self, gva: u64, pcid: u64, entry: u64) -> int:
        """Keep `entry` for `gva`, in place of what was known of it or else of the least recently used."""
        if self.tick == self.flushed:
            self.owner = pcid
            self.mixed = False
        if pcid != self.owner or entry & G:
            self.mixed = True
        tag: u64 = gva & self.page_mask | pcid
        first: u64 = (gva >> self.page_shift & self.set_mask) * self.ways
        victim: u64 = first
        i: u64
        for i in range(first, first + self.ways):
            difference: u64 = self.tag[i] ^ tag
            if self.used[i] > self.flushed and (
                difference == 0 or (difference <= 0xFFF and self.entry[i] & G)
            ):
                victim = i
                break
            if self.used[i] < self.used[victim]:
                victim = i
        self.tick += 1
        self.tag[victim] = tag
        self.entry[victim] = entry
        self.used[victim] = self.tick
        return 0

    def flush_all(self) -> int:
        """Drop everything, global entries too."""
        self.flushed = self.tick
        return 0

    def flush_nonglobal(self, pcid: u64) -> int:
        """Drop the entries of `pcid` that are not global."""
        if not self.mixed:
            return self.flush_all() if pcid == self.owner else 0
        i: u64
        for i in range((self.set_mask + 1) * self.ways):
            if self.tag[i] & 0xFFF == pcid and not self.entry[i] & G:
                self.used[i] = 0
        return 0

    def flush_page(self, gva: u64, pcid: u64) -> int:
        """Drop what translates `gva` for `pcid`, global entries too."""
        tag: u64 = gva & self.page_mask | pcid
        first: u64 = (gva >> self.page_shift & self.set_mask) * self.ways
        i: u64
        for i in range(first, first + self.ways):
            difference: u64 = self.tag[i] ^ tag
            if difference == 0 or (difference <= 0xFFF and self.entry[i] & G):
                self.used[i] = 0
        return 0

    def entries(self) -> list[tuple[int, int, int]]:
        """The live entries as (gva, PCID, entry), in the order of the array."""
        return [
            (self.tag[i] & self.page_mask, self.tag[i] & 0xFFF, self.entry[i])
            for i in range((self.set_mask + 1) * self.ways)
            if self.used[i] > self.flushed
        ]


class Tlb:
    """Two levels of arrays for 4 KiB, 2 MiB and 1 GiB pages; a page lives in the array of its size.

    `enabled` says whether the processor uses it; switching it off forgets nothing. A 4 MiB page of 2-level
    paging is kept as 2 MiB halves.
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
        """The hpa of `gva` if an array other than `l1_4k` can serve the access, else `FAULT`.

        The processor tries `l1_4k` by itself, because most accesses end there. Hits are counted.
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
        """Keep the outcome of a walk: the page of `level` (1: 4 KiB, 2: 2 MiB, 3: 1 GiB) around `gva`."""
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
        """Drop everything, global entries too."""
        self.l1_4k.flush_all()
        self.l1_2m.flush_all()
        self.l1_1g.flush_all()
        self.l2_4k.flush_all()
        self.l2_2m.flush_all()
        self.l2_1g.flush_all()
        return 0

    def flush_nonglobal(self, pcid: u64) -> int:
        """Drop the entries of `pcid` that are not global (MOV to CR3)."""
        self.l1_4k.flush_nonglobal(pcid)
        self.l1_2m.flush_nonglobal(pcid)
        self.l1_1g.flush_nonglobal(pcid)
        self.l2_4k.flush_nonglobal(pcid)
        self.l2_2m.flush_nonglobal(pcid)
        self.l2_1g.flush_nonglobal(pcid)
        return 0

    def flush_page(self, gva: u64, pcid: u64) -> int:
        """Drop what translates `gva` for `pcid`, global entries too (INVLPG)."""
        self.l1_4k.flush_page(gva, pcid)
        self.l1_2m.flush_page(gva, pcid)
        self.l1_1g.flush_page(gva, pcid)
        self.l2_4k.flush_page(gva, pcid)
        self.l2_2m.flush_page(gva, pcid)
        self.l2_1g.flush_page(gva, pcid)
        return 0

    def translations(self) -> list[tuple[int, int, int, int]]:
        """Every live entry as (gva, PCID, level, entry), first-level arrays first, 4 KiB pages first."""
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
