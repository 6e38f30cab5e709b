"""The multi-generational LRU ages the hypervisor's memory: its walk over page tables (mm/vmscan.c, 6.12.111).

It looks at each mapped page for what was accessed since the last walk. It asks the secondary MMUs about each
too (lru_gen, walk_mm, mmu_notifier_clear_young; 6.12.111 and 7.3.4); in 6.1 nobody learns of it.
"""

from ..x86.bits import PAGE_SHIFT
from .address_space import AddressSpace
from .bits import PAGES_2M, PRESENT, VM_HUGETLB, VM_RAND_READ, VM_SEQ_READ, ZERO
from .mapping import Mapping

_SKIPPED = VM_HUGETLB | VM_SEQ_READ | VM_RAND_READ
"""VMAs of which the LRU learns nothing (should_skip_vma)."""


def lru_gen_age(space: AddressSpace) -> None:
    """Walk all mappings in order of addresses: what a write to /sys/kernel/debug/lru_gen does."""
    if not space.switches.lru_asks_notifiers:
        return
    for mapping in sorted(space.mappings, key=lambda mapping: mapping.hva):
        for vma in mapping.vmas:
            if not vma.flags & _SKIPPED:
                _walk(space, mapping, vma.first, vma.last)


def _walk(space: AddressSpace, mapping: Mapping, first: int, last: int) -> None:
    """Ask about each entry of the page tables that maps a page; zeros are nobody's."""
    index = first
    while index < last:
        region = mapping.region_of(index)
        huge = mapping.is_huge(region)
        pages = PAGES_2M if huge else 1
        if space.switches.lru_asks_by_folio and not huge:
            pages = _batch(mapping, index, last)
        word = mapping.page(index)
        if word & PRESENT and not word & ZERO and region not in mapping.zero_regions:
            _ask(space, mapping, index, pages)
        index += pages


def _batch(mapping: Mapping, index: int, last: int) -> int:
    """Return the number of pages from `index` on, before `last`, that map one compound page in order; 1 if
    page `index` is no part of one (folio_pte_batch).
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


def _ask(space: AddressSpace, mapping: Mapping, index: int, pages: int) -> None:
    start = mapping.hva + (index << PAGE_SHIFT)
    for notifier in space.notifiers:
        notifier.clear_young(start, start + (pages << PAGE_SHIFT))
