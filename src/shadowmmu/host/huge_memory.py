"""Making small pages of the host's huge ones, and huge ones of small ones (mm/huge_memory.c, mm/khugepaged.c,
6.12).

host/mapping.py maps huge pages at faults, and maps them by small entries where a part changes.
"""

from cython import ulonglong as u64

from ..x86.bits import PAGE_SHIFT
from .bits import PAGES_2M, PRESENT, WRITABLE, ZERO
from .mapping import Mapping


def split_folio(mapping: Mapping, region: u64, anon_vma: object) -> None:
    """Make small pages of a huge one: each VMA unmaps its part and announces that (unmap_folio).

    The walk over the VMAs that can map a part of it ends as soon as none is mapped.
    """
    first: u64 = mapping.first_page(region)
    index: u64
    for start, end, vma in mapping.vmas.pieces(first, first + PAGES_2M):
        if vma.anon_vma is anon_vma:
            if mapping.switches.split_announces_twice:
                mapping.split_region(region)
            span = mapping.invalidate_start(start, end)
            mapping.map_by_small_pages(region)
            mapping.invalidate_end(span)
            index = end
            while index < first + PAGES_2M and not mapping.has_folio(index):
                index += 1
            if index == first + PAGES_2M:
                break
    if mapping.switches.split_maps_zero_page:
        for index in range(first, first + PAGES_2M):
            if mapping.has_folio(index) and mapping.arena.is_zeros(
                mapping.page(index) >> PAGE_SHIFT << PAGE_SHIFT
            ):
                mapping.install(index, 0, ZERO)
                mapping.lazyfree.pop(index, None)
    mapping.folios.pop(region, None)


def collapse_region(mapping: Mapping, region: u64) -> bool:
    """Copy a region's small pages into a huge one. Return whether it is mapped huge now
    (collapse_huge_page).
    """
    if mapping.huge[region]:
        return True
    first: u64 = mapping.first_page(region)
    i: u64
    needed: u64 = WRITABLE if mapping.switches.collapse_needs_writable else PRESENT
    found: bool = False
    for i in range(first, first + PAGES_2M):
        found = found or mapping.page(i) & needed != 0
    if not found:
        return False
    span = mapping.invalidate_start(first, first + PAGES_2M)
    base: u64 = mapping.arena.reserve(PAGES_2M, PAGES_2M, 0)
    for i in range(PAGES_2M):
        word: u64 = mapping.page(first + i)
        if word & PRESENT and not word & ZERO:
            mapping.arena.copy_page(word >> PAGE_SHIFT << PAGE_SHIFT, (base + i) << PAGE_SHIFT)
        mapping.lazyfree.pop(first + i, None)
    mapping.install_run(first, PAGES_2M, base, WRITABLE)
    mapping.huge[region] = 1
    mapping.has_table[region] = 0
    mapping.folios.pop(region, None)
    mapping.invalidate_end(span)
    return True


def free_tables(mapping: Mapping, first: u64, last: u64) -> None:
    """Free the page tables of the whole regions in [first, last) (free_pgtables)."""
    region: u64
    for region in range(mapping.region_of(first), mapping.region_of(last - 1) + 1):
        if mapping.region_fits(region):
            page: u64 = mapping.first_page(region)
            if first <= page and page + PAGES_2M <= last:
                mapping.has_table[region] = 0
                mapping.folios.pop(region, None)
