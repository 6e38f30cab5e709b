"""Memory slots: which guest frames exist, what backs them, and what the MMU keeps about each frame.

All arrays are sparse: a slot of 1 TiB costs what is touched.
"""

from __future__ import annotations

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...host.mapping import Mapping
from ...host.memory import sparse_words
from ...x86.bits import MASK64
from ..bits import MEM_LOG_DIRTY_PAGES, MEM_READONLY, MEMSLOT_INVALID


class MemSlot:
    """A memory slot: struct kvm_memory_slot with struct kvm_arch_memory_slot, 6.12.111.

    The arrays of level 1 are indexed by gfn - base_gfn, those of levels 2 and 3 by index(gfn, level).

    Attributes:
        id: Number of the slot.
        base_gfn: First guest frame.
        npages: Number of 4 KiB pages, constant.
        flags: Bit mask of KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY and, while the slot is being deleted or
            moved, KVM_MEMSLOT_INVALID.
        mapping: The host memory that backs the slot.
        first_page: Index in the mapping of the slot's first page.
        rmap1: u64 rmap heads of 4 KiB mappings, see kvm/spte/rmap.py; 0: not mapped (arch.rmap[0]).
        rmap2: u64 rmap heads of 2 MiB mappings (arch.rmap[1]).
        rmap3: u64 rmap heads of 1 GiB mappings (arch.rmap[2]).
        lpage2: Number of reasons against each 2 MiB page: misalignment, shadowed tables inside
            (arch.lpage_info disallow_lpage).
        lpage3: The same for each 1 GiB page.
        write_track: Number of shadowed upper-level tables in each frame; while it is not 0 the frame stays
            write-protected (arch.gfn_write_track).
        dirty_bitmap: u64 words, a bit a page, lowest first; None while the slot does not log, or if the VM
            has dirty rings.
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
        """Return the number of pages of `level` that the slot touches."""
        shift = 9 * (level - 1)
        return ((self.base_gfn + self.npages - 1) >> shift) - (self.base_gfn >> shift) + 1

    def _disallow_misaligned(self) -> None:
        """Count a reason against huge pages that end outside the slot, and against all if guest and host
        frames are not aligned alike (kvm_alloc_memslot_metadata).
        """
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
        """Allow huge pages that end outside the slot or whose host memory is aligned otherwise (a historic
        defect).
        """
        for level in (2, 3):
            for gfn, _ in self.lpage_entries(level):
                if level == 2:
                    self.lpage2[self.index(gfn, 2)] = 0
                else:
                    self.lpage3[self.index(gfn, 3)] = 0

    def index(self, gfn: u64, level: u32) -> u64:
        """Return the index of gfn in the slot's arrays of `level` (gfn_to_index)."""
        shift: u64 = 9 * (level - 1)
        return (gfn >> shift) - (self.base_gfn >> shift)

    def rmap_head(self, gfn: u64, level: u32) -> u64:
        """Return the rmap head of gfn at `level`, 1 to 3 (gfn_to_rmap)."""
        if level == 1:
            return self.rmap1[gfn - self.base_gfn]
        if level == 2:
            return self.rmap2[self.index(gfn, 2)]
        return self.rmap3[self.index(gfn, 3)]

    def set_rmap_head(self, gfn: u64, level: u32, head: u64) -> None:
        """Store the rmap head of gfn at `level`, 1 to 3."""
        if level == 1:
            self.rmap1[gfn - self.base_gfn] = head
        elif level == 2:
            self.rmap2[self.index(gfn, 2)] = head
        else:
            self.rmap3[self.index(gfn, 3)] = head

    def disallow_lpage(self, gfn: u64, level: u32) -> u64:
        """Return the number of reasons against a huge page of `level`, 2 or 3, at gfn."""
        return self.lpage2[self.index(gfn, 2)] if level == 2 else self.lpage3[self.index(gfn, 3)]

    def count_disallow_lpage(self, gfn: u64, delta: i64) -> None:
        """Add delta (1 or -1) to the reasons against the huge pages around gfn, at levels 2 and 3
        (update_gfn_disallow_lpage_count).
        """
        i: u64 = self.index(gfn, 2)
        self.lpage2[i] = (self.lpage2[i] + delta) & MASK64
        i = self.index(gfn, 3)
        self.lpage3[i] = (self.lpage3[i] + delta) & MASK64

    def logs_dirty(self) -> bool:
        """Return whether dirty logging is on (kvm_slot_dirty_track_enabled)."""
        return self.flags & MEM_LOG_DIRTY_PAGES != 0

    def visible(self) -> bool:
        """Return whether page walks may use the slot (kvm_is_visible_memslot)."""
        return self.flags & MEMSLOT_INVALID == 0

    def writable(self) -> bool:
        """Return whether the guest may write: the slot is not KVM_MEM_READONLY."""
        return self.flags & MEM_READONLY == 0

    def page_index(self, gfn: u64) -> u64:
        """Return the index in the mapping of the page that backs gfn."""
        return gfn - self.base_gfn + self.first_page

    def rmap_heads(self, level: u32) -> memoryview:
        """Return the array of the rmap heads of `level`, 1 to 3."""
        return self.rmap1 if level == 1 else self.rmap2 if level == 2 else self.rmap3

    def _nonzero(self, kind: u32, level: u32) -> list[tuple[int, int]]:
        """Return (first gfn, word) of every word that is not zero; kind 0: rmaps, 1: disallow_lpage, 2: write
        tracking.
        """
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
        """Return (gfn, head) of every frame that is mapped at `level`."""
        return self._nonzero(0, level)

    def lpage_entries(self, level: u32) -> list[tuple[int, int]]:
        """Return (gfn, disallow_lpage) of every page of `level`, 2 or 3, that must not be huge."""
        return self._nonzero(1, level)

    def tracked(self) -> list[tuple[int, int]]:
        """Return (gfn, count) of every write-tracked frame."""
        return self._nonzero(2, 1)

    def log_words(self) -> memoryview:
        """Return the dirty bitmap. Raises LookupError if the slot has none."""
        if self.dirty_bitmap is None:
            raise LookupError(f"slot {self.id} does not log")
        return self.dirty_bitmap

    def set_logging(self, *, on: bool, bitmap: bool, initially_set: bool) -> None:
        """Set or clear the flag, and allocate the bitmap or drop it. `bitmap` is False in a VM with dirty
        rings; `initially_set` fills a new bitmap with ones.
        """
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
        """Take over the dirty bitmap of the slot that this one replaces."""
        self.dirty_bitmap = other.dirty_bitmap

    def set_dirty_bit(self, page: u64) -> None:
        """Set the bit of a page, by its index in the slot, if there is a bitmap."""
        if self.dirty_bitmap is not None:
            bit: u64 = 1
            self.dirty_bitmap[page >> 6] |= bit << (page & 63)
