"""The multi-generational LRU ages the hypervisor's memory: its walk over page tables (mm/vmscan.c, 6.12.111).

It looks at each mapped page for what was accessed since the last walk. It asks the secondary MMUs about each
too (lru_gen, walk_mm, mmu_notifier_clear_young; 6.12.111 and 7.3.4); in 6.1 nobody learns of it.
"""

from ..x86.bits import PAGE_SHIFT
from .address_space import AddressSpace
from .bits import PAGES_2M, PRESENT, PROT_MASK, VM_HUGETLB, VM_RAND_READ, VM_SEQ_READ, ZERO
from .mapping import Mapping
from .vma import Vma

_SKIPPED = VM_HUGETLB | VM_SEQ_READ | VM_RAND_READ
"""Flags of VMAs of which the LRU learns nothing."""


HUGE_BATCH = 64
"""Huge pages after the first that are looked at together (MIN_LRU_BATCH)."""
REGIONS_1G = 512
"""Huge pages below one page directory."""


def lru_gen_age(space: AddressSpace) -> None:
    """Walk all mappings in order of addresses: what a write to /sys/kernel/debug/lru_gen does."""
    if not space.switches.lru_asks_notifiers:
        return
    for mapping in sorted(space.mappings, key=lambda mapping: mapping.hva):
        _Walk(space, mapping).walk()


class _Walk:
    """The walk over the page tables of a mapping.

    Huge pages are looked at when the VMA or the page directory ends, or the batch is full (walk_pmd_range). A
    page table is walked to its end, also through the next VMAs (walk_pte_range).

    Attributes:
        space: Whose memory it is.
        mapping: The mapping.
        huge: Regions of huge pages that are put off.
    """

    def __init__(self, space: AddressSpace, mapping: Mapping) -> None:
        self.space = space
        self.mapping = mapping
        self.huge: list[int] = []

    def walk(self) -> None:
        """Ask about each entry that maps a page, VMA by VMA."""
        last_region = -1
        for vma in self.mapping.vmas:
            if not _is_skipped(vma):
                first, shared = vma.first, self.mapping.region_of(vma.first)
                if self.huge and shared == last_region and not self.mapping.is_huge(shared):
                    first = self._walk_region(vma.first, vma.last)
                if first < vma.last:
                    self._look_at_huge_pages()
                while first < vma.last:
                    first = self._walk_region(first, vma.last)
                last_region = self.mapping.region_of(vma.last - 1)
        self._look_at_huge_pages()

    def _walk_region(self, index: int, last: int) -> int:
        """Walk the entries of the region of page `index` from there to `last`. Return the page after."""
        mapping = self.mapping
        region = mapping.region_of(index)
        if mapping.is_huge(region):
            self._put_off(region)
            return mapping.first_page(region) + PAGES_2M
        while index < last and mapping.region_of(index) == region:
            pages = _batch(mapping, index, last) if self.space.switches.lru_asks_by_folio else 1
            if mapping.page(index) & PRESENT:
                self._ask(index, pages)
            index += pages
        return index

    def _put_off(self, region: int) -> None:
        """Keep a huge page for the end of the batch."""
        top = self.mapping.first_2m
        if self.huge and (
            region - self.huge[0] > HUGE_BATCH
            or (top + region) // REGIONS_1G != (top + self.huge[0]) // REGIONS_1G
        ):
            self._look_at_huge_pages()
        self.huge.append(region)

    def _look_at_huge_pages(self) -> None:
        for region in self.huge:
            self._ask(self.mapping.first_page(region), PAGES_2M)
        self.huge.clear()

    def _ask(self, index: int, pages: int) -> None:
        """Ask the notifiers about pages; zeros are nobody's."""
        mapping = self.mapping
        if mapping.page(index) & ZERO or mapping.region_of(index) in mapping.zero_regions:
            return
        start = mapping.hva + (index << PAGE_SHIFT)
        for notifier in self.space.notifiers:
            notifier.clear_young(start, start + (pages << PAGE_SHIFT))


def _is_skipped(vma: Vma) -> bool:
    """Return whether the LRU learns nothing of a VMA (should_skip_vma)."""
    return not vma.flags & PROT_MASK or bool(vma.flags & _SKIPPED)


def _batch(mapping: Mapping, index: int, last: int) -> int:
    """Return the number of pages from `index` on, before `last`, that map one compound page in order; 1 if
    page `index` does not belong to one (folio_pte_batch).
    """
    region, frame = mapping.region_of(index), mapping.page(index) >> PAGE_SHIFT
    count = 1
    while (
        mapping.has_folio(index)
        and index + count < last
        and mapping.region_of(index + count) == region
        and mapping.page(index + count) & PRESENT
        and mapping.page(index + count) >> PAGE_SHIFT == frame + count
    ):
        count += 1
    return count
