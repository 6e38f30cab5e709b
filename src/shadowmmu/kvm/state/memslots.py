"""Memory slots: which guest frames exist, what backs them and what the MMU keeps about each frame.

Per slot and frame, as in struct kvm_memory_slot: rmap heads for levels 1..3, disallow_lpage counts for
levels 2 and 3, the write-tracking count, and the dirty bitmap of a slot that logs. All arrays are sparse:
a slot of 1 TiB costs what is touched.
"""

from __future__ import annotations

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...host.mapping import Mapping
from ...host.memory import sparse_words
from ...x86.bits import MASK64
from ..bits import MEM_LOG_DIRTY_PAGES, MEM_READONLY, MEMSLOT_INVALID


class MemSlot:
    """struct kvm_memory_slot with struct kvm_arch_memory_slot, 6.12.111.

    `mapping` is the host memory behind it and `first_page` the number of the slot's first page in it.
    """

    def __init__(
        self, id: int, base_gfn: int, npages: int, flags: int, mapping: Mapping, first_page: int
    ) -> None:
        self.id = id
        self.base_gfn = base_gfn
        self.npages = npages
        self.flags = flags
        self.mapping = mapping
        self.first_page = first_page
        self.rmap1 = sparse_words(npages)
        self.rmap2 = sparse_words(self._entries(2))
        self.rmap3 = sparse_words(self._entries(3))
        self.lpage2 = sparse_words(self._entries(2))
        self.lpage3 = sparse_words(self._entries(3))
        self.write_track = sparse_words(npages)
        self.dirty_bitmap: memoryview | None = None
        self._disallow_misaligned()

    def _entries(self, level: int) -> int:
        shift = 9 * (level - 1)
        return ((self.base_gfn + self.npages - 1) >> shift) - (self.base_gfn >> shift) + 1

    def _disallow_misaligned(self) -> None:
        hva_page: u64 = (self.mapping.hva >> 12) + self.first_page
        level: u32
        i: u64
        for level in range(2, 4):
            counts: memoryview = self.lpage2 if level == 2 else self.lpage3
            pages: u64 = 1 << (9 * (level - 1))
            if self.base_gfn % pages:
                counts[0] = 1
            if (self.base_gfn + self.npages) % pages:
                counts[len(counts) - 1] = 1
            if (self.base_gfn ^ hva_page) % pages:
                for i in range(len(counts)):
                    counts[i] = 1

    def forget_misalignment(self) -> None:
        """Allow huge pages that end outside the slot, or whose frames the host has at another offset."""
        for level in (2, 3):
            for gfn, _ in self.lpage_entries(level):
                if level == 2:
                    self.lpage2[self.index(gfn, 2)] = 0
                else:
                    self.lpage3[self.index(gfn, 3)] = 0

    def index(self, gfn: u64, level: u32) -> u64:
        """Where `gfn` is in the slot's arrays of `level` (gfn_to_index)."""
        shift: u64 = 9 * (level - 1)
        return (gfn >> shift) - (self.base_gfn >> shift)

    def rmap_head(self, gfn: u64, level: u32) -> u64:
        if level == 1:
            return self.rmap1[gfn - self.base_gfn]
        if level == 2:
            return self.rmap2[self.index(gfn, 2)]
        return self.rmap3[self.index(gfn, 3)]

    def set_rmap_head(self, gfn: u64, level: u32, head: u64) -> None:
        if level == 1:
            self.rmap1[gfn - self.base_gfn] = head
        elif level == 2:
            self.rmap2[self.index(gfn, 2)] = head
        else:
            self.rmap3[self.index(gfn, 3)] = head

    def disallow_lpage(self, gfn: u64, level: u32) -> u64:
        """Reasons against a huge page of `level` at gfn: misalignment, shadowed tables inside."""
        return self.lpage2[self.index(gfn, 2)] if level == 2 else self.lpage3[self.index(gfn, 3)]

    def count_disallow_lpage(self, gfn: u64, delta: i64) -> None:
        """Count one reason more (delta 1) or less (-1)."""
        i: u64 = self.index(gfn, 2)
        self.lpage2[i] = (self.lpage2[i] + delta) & MASK64
        i = self.index(gfn, 3)
        self.lpage3[i] = (self.lpage3[i] + delta) & MASK64

    def logs_dirty(self) -> bool:
        return self.flags & MEM_LOG_DIRTY_PAGES != 0

    def visible(self) -> bool:
        """Whether page walks may use the slot (kvm_is_visible_memslot)."""
        return self.flags & MEMSLOT_INVALID == 0

    def writable(self) -> bool:
        """Whether the guest may write (the slot is not KVM_MEM_READONLY)."""
        return self.flags & MEM_READONLY == 0

    def page_index(self, gfn: u64) -> u64:
        """Number of the page behind gfn in the mapping."""
        return gfn - self.base_gfn + self.first_page

    def rmap_heads(self, level: u32) -> memoryview:
        """All heads of a level, by index()."""
        return self.rmap1 if level == 1 else self.rmap2 if level == 2 else self.rmap3

    def _nonzero(self, kind: u32, level: u32) -> list[tuple[int, int]]:
        """(first gfn, word) of every word that is not zero; kind 0: rmaps, 1: disallow_lpage, 2: tracking."""
        words: memoryview = self.write_track
        if kind == 0:
            words = self.rmap_heads(level)
        elif kind == 1:
            words = self.lpage2 if level == 2 else self.lpage3
        found = []
        i: u64
        first: u64 = self.base_gfn >> (9 * (level - 1))
        for i in range(len(words)):
            word: u64 = words[i]
            if word:
                found.append(((first + i) << (9 * (level - 1)), word))
        return found

    def rmap_entries(self, level: u32) -> list[tuple[int, int]]:
        """(gfn, head) of every frame that is mapped at `level`."""
        return self._nonzero(0, level)

    def lpage_entries(self, level: u32) -> list[tuple[int, int]]:
        """(gfn, disallow_lpage) of every huge page of `level` (2 or 3) that is not allowed."""
        return self._nonzero(1, level)

    def tracked(self) -> list[tuple[int, int]]:
        """(gfn, count) of every write-tracked frame."""
        return self._nonzero(2, 1)

    def log_words(self) -> memoryview:
        """The live dirty bitmap, a bit a page. Raises LookupError if the slot does not log."""
        if self.dirty_bitmap is None:
            raise LookupError(f"slot {self.id} does not log")
        return self.dirty_bitmap

    def set_logging(self, *, on: bool, bitmap: bool, initially_set: bool) -> None:
        """Switch the flag and give the slot a bitmap (unless the VM has dirty rings), or take it."""
        if not on:
            self.flags &= ~MEM_LOG_DIRTY_PAGES
            self.dirty_bitmap = None
            return
        self.flags |= MEM_LOG_DIRTY_PAGES
        if not bitmap:
            return
        words = sparse_words((self.npages + 63) >> 6)
        if initially_set:
            for i in range(len(words)):
                words[i] = MASK64
            if self.npages & 63:
                words[len(words) - 1] = MASK64 >> (64 - (self.npages & 63))
        self.dirty_bitmap = words

    def adopt_log(self, other: MemSlot) -> None:
        """Take the dirty bitmap over from the slot this one replaces."""
        self.dirty_bitmap = other.dirty_bitmap

    def set_dirty_bit(self, page: u64) -> None:
        """Set the bit of a page number in the dirty bitmap."""
        if self.dirty_bitmap is not None:
            bit: u64 = 1
            self.dirty_bitmap[page >> 6] |= bit << (page & 63)
