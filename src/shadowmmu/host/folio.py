"""Huge pages that small ones map (compound pages, folios): split, and made of small ones (mm/huge_memory.c,
mm/khugepaged.c, 6.12.111).
"""

from ..x86.bits import PAGE_SHIFT
from .bits import PAGES_2M, PRESENT, WRITABLE, ZERO
from .mapping import Mapping


def has_folio(mapping: Mapping, index: int) -> bool:
    """Return whether page `index` is a part of a compound page that small pages map."""
    frame = mapping.folios.get(mapping.region_of(index))
    return frame is not None and frame <= mapping.page(index) >> PAGE_SHIFT < frame + PAGES_2M


def split_folio(mapping: Mapping, region: int, anon_vma: object) -> None:
    """Make small pages of a huge one: each VMA unmaps its part and announces that (unmap_folio).

    The walk over the VMAs that can map a part of it ends as soon as none is mapped.
    """
    first = mapping.first_page(region)
    last = first + PAGES_2M
    for start, end, vma in mapping.vmas.pieces(first, last):
        if vma.anon_vma is anon_vma:
            if mapping.switches.split_announces_twice:
                mapping.split_region(region)
            span = mapping.invalidate_start(start, end)
            mapping.map_by_small_pages(region)
            mapping.invalidate_end(span)
            if not any(has_folio(mapping, index) for index in range(end, last)):
                break
    if mapping.switches.split_maps_zero_page:
        for index in range(first, last):
            if has_folio(mapping, index) and mapping.arena.is_zeros(
                mapping.page(index) >> PAGE_SHIFT << PAGE_SHIFT
            ):
                mapping.install(index, 0, ZERO)
                mapping.lazyfree.pop(index, None)
    mapping.folios.pop(region, None)


def collapse_region(mapping: Mapping, region: int) -> bool:
    """Copy a region's small pages into a huge one. Return whether it is mapped huge now
    (collapse_huge_page).
    """
    if mapping.is_huge(region):
        return True
    first = mapping.first_page(region)
    words = [mapping.page(index) for index in range(first, first + PAGES_2M)]
    needed = WRITABLE if mapping.switches.collapse_needs_writable else PRESENT
    if not any(word & needed for word in words):
        return False
    span = mapping.invalidate_start(first, first + PAGES_2M)
    base = mapping.arena.reserve(PAGES_2M, PAGES_2M, 0)
    for offset, word in enumerate(words):
        if word & PRESENT and not word & ZERO:
            mapping.arena.copy_page(word >> PAGE_SHIFT << PAGE_SHIFT, base + offset << PAGE_SHIFT)
        mapping.lazyfree.pop(first + offset, None)
        mapping.install(first + offset, base + offset, WRITABLE)
    mapping.huge[region] = 1
    mapping.has_table[region] = 0
    mapping.folios.pop(region, None)
    mapping.invalidate_end(span)
    return True
