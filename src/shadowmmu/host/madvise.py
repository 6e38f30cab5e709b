"""madvise(): advice for a range of the hypervisor's memory, VMA by VMA (mm/madvise.c, mm/khugepaged.c).

Advice that only reclaim, swap, KSM or fork would show later changes nothing here but the flags of the VMAs.
"""

import errno
from collections.abc import Callable

from ..x86.bits import PAGE_SHIFT
from .address_space import AddressSpace
from .backing import HostError
from .bits import (
    KNOWN,
    PAGES_2M,
    PROT_READ,
    PROT_RW,
    VM_DONTCOPY,
    VM_DONTDUMP,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_MERGEABLE,
    VM_NOHUGEPAGE,
    VM_RAND_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WIPEONFORK,
)
from .huge_memory import collapse_region, split_folio
from .mapping import Mapping
from .vma import Vma

MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED = range(5)
MADV_FREE, MADV_REMOVE, MADV_DONTFORK, MADV_DOFORK, MADV_MERGEABLE, MADV_UNMERGEABLE = range(8, 14)
MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP = range(14, 18)
MADV_WIPEONFORK, MADV_KEEPONFORK, MADV_COLD, MADV_PAGEOUT = range(18, 22)
MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_DONTNEED_LOCKED, MADV_COLLAPSE = range(22, 26)
MADV_HWPOISON, MADV_SOFT_OFFLINE = 100, 101

_FLAGS = {
    MADV_NORMAL: (VM_RAND_READ | VM_SEQ_READ, 0),
    MADV_RANDOM: (VM_SEQ_READ, VM_RAND_READ),
    MADV_SEQUENTIAL: (VM_RAND_READ, VM_SEQ_READ),
    MADV_WILLNEED: (0, 0),
    MADV_DONTFORK: (0, VM_DONTCOPY),
    MADV_DOFORK: (VM_DONTCOPY, 0),
    MADV_MERGEABLE: (0, VM_MERGEABLE),
    MADV_UNMERGEABLE: (VM_MERGEABLE, 0),
    MADV_HUGEPAGE: (VM_NOHUGEPAGE, VM_HUGEPAGE),
    MADV_NOHUGEPAGE: (VM_HUGEPAGE, VM_NOHUGEPAGE),
    MADV_DONTDUMP: (0, VM_DONTDUMP),
    MADV_DODUMP: (VM_DONTDUMP, 0),
    MADV_WIPEONFORK: (0, VM_WIPEONFORK),
    MADV_KEEPONFORK: (VM_WIPEONFORK, 0),
}
"""Flags of a VMA that an advice clears, and those that it sets."""


class NotModelled(Exception):
    """The kernel can do it, the model cannot; the text says what."""


def madvise(space: AddressSpace, hva: int, size: int, advice: int) -> None:
    """Give an advice by number, as in include/uapi/asm-generic/mman-common.h.

    Raises HostError, after what was done to earlier VMAs, and NotModelled before anything is done.
    """
    if advice in (MADV_DONTNEED, MADV_DONTNEED_LOCKED):
        space.madvise_dontneed(hva, size)
        return
    if advice in (MADV_HWPOISON, MADV_SOFT_OFFLINE):
        raise NotModelled(f"memory errors (advice {advice}) are not modelled")
    change = _CHANGES.get(advice)
    if change is None and advice not in _FLAGS:
        raise HostError(errno.EINVAL, f"the kernel has no advice {advice}")
    mapping, first, last = space.check_range(hva, size)
    pieces = mapping.vmas.pieces(first, last)
    _check_modelled(space, mapping, pieces, advice)
    for start, end, vma in pieces:
        if change is None:
            _change_flags(space, mapping, (start, end, vma), advice)
        else:
            change(space, mapping, start, end, vma)


def _check_modelled(
    space: AddressSpace, mapping: Mapping, pieces: list[tuple[int, int, Vma]], advice: int
) -> None:
    """Raise NotModelled for an advice to VMAs for which the kernel does more than the model."""
    for start, end, vma in pieces:
        if advice == MADV_COLLAPSE and vma.flags & VM_SHARED and not vma.flags & VM_NOHUGEPAGE:
            raise NotModelled("MADV_COLLAPSE (25) of shared memory is not modelled")
        if advice != MADV_PAGEOUT or vma.flags & VM_HUGETLB:
            continue
        if space.switches.reclaim_asks_age:
            raise NotModelled(
                "MADV_PAGEOUT (21) of this kernel, which looks at the age of pages, is not modelled"
            )
        regions = {mapping.region_of(i) for i in mapping.lazyfree if start <= i < end}
        if any(mapping.is_huge(region) or region in mapping.folios for region in regions):
            raise NotModelled("MADV_PAGEOUT (21) of a huge page after MADV_FREE (8) is not modelled")


def _change_flags(space: AddressSpace, mapping: Mapping, piece: tuple[int, int, Vma], advice: int) -> None:
    """Change the flags of a part of a VMA. Raises HostError."""
    start, end, vma = piece
    if advice == MADV_WIPEONFORK and vma.flags & (VM_SHARED | VM_HUGETLB):
        raise HostError(errno.EINVAL, "only anonymous memory can be wiped")
    if advice == MADV_DOFORK and vma.flags & VM_HUGETLB and space.switches.dofork_refuses_hugetlb:
        raise HostError(errno.EINVAL, "memory of hugetlbfs stays as it is after MADV_DONTFORK")
    if advice == MADV_MERGEABLE and vma.flags & (VM_SHARED | VM_HUGETLB):
        return
    cleared, added = _FLAGS[advice]
    space.change_vma(mapping, start, end, vma.flags & ~cleared | added)


# -- what changes pages ----------------------------------------------------------------------------------


def _regions(mapping: Mapping, first: int, last: int) -> list[tuple[int, int, int]]:
    """Return (region, first, last) of the parts of [first, last) in each aligned 2 MiB."""
    found = []
    while first < last:
        end = min(last, first + PAGES_2M - ((mapping.hva >> PAGE_SHIFT) + first) % PAGES_2M)
        found.append((mapping.region_of(first), first, end))
        first = end
    return found


def _split_compound(mapping: Mapping, first: int, last: int, vma: Vma) -> None:
    """Split the compound pages that small pages [first, last) of one region are parts of."""
    for index in range(first, last):
        if mapping.has_folio(index):
            split_folio(mapping, mapping.region_of(index), vma.anon_vma)


def _covers_folio(mapping: Mapping, first: int, last: int) -> bool:
    """Return whether [first, last), a region, is a whole compound page mapped by small pages."""
    return last - first == PAGES_2M and all(mapping.has_folio(index) for index in range(first, last))


def _free(space: AddressSpace, mapping: Mapping, first: int, last: int, vma: Vma) -> None:
    """Give pages up until the kernel needs memory or they are written (MADV_FREE)."""
    if vma.flags & (VM_SHARED | VM_HUGETLB):
        raise HostError(errno.EINVAL, "only anonymous memory can be freed lazily")
    span = mapping.invalidate_start(first, last)
    for region, start, end in _regions(mapping, first, last):
        if region in mapping.zero_regions:
            continue
        if mapping.is_huge(region) and end - start < PAGES_2M:
            split_folio(mapping, region, vma.anon_vma)
        elif not mapping.is_huge(region) and not _covers_folio(mapping, start, end):
            _split_compound(mapping, start, end, vma)
        mapping.free_lazily(start, end)
    mapping.invalidate_end(span)


def _cold(space: AddressSpace, mapping: Mapping, first: int, last: int, vma: Vma) -> None:
    """Split a huge page that is only partly cold (MADV_COLD)."""
    if vma.flags & VM_HUGETLB:
        raise HostError(errno.EINVAL, "pages of hugetlbfs cannot become cold: they are never reclaimed")
    for region, start, end in _regions(mapping, first, last):
        if region in mapping.zero_regions:
            continue
        if mapping.is_huge(region):
            if end - start < PAGES_2M:
                split_folio(mapping, region, vma.anon_vma)
        elif not _covers_folio(mapping, start, end):
            _split_compound(mapping, start, end, vma)


def _pageout(space: AddressSpace, mapping: Mapping, first: int, last: int, vma: Vma) -> None:
    """Reclaim without swap: unmap shared pages, lose lazily freed ones, split huge ones (MADV_PAGEOUT)."""
    if vma.flags & VM_HUGETLB:
        raise HostError(errno.EINVAL, "pages of hugetlbfs cannot be reclaimed")
    for region, start, end in _regions(mapping, first, last):
        if region in mapping.zero_regions:
            continue
        if mapping.is_huge(region):
            split_folio(mapping, region, vma.anon_vma)
        else:
            _split_compound(mapping, start, end, vma)
        for index in range(start, end):
            if mapping.page(index) and (vma.flags & VM_SHARED or index in mapping.lazyfree):
                _unmap(mapping, index)


def _unmap(mapping: Mapping, index: int) -> None:
    """Unmap a page (try_to_unmap); a lazily freed one is kept only if it was written since."""
    span = mapping.invalidate_start(index, index + 1)
    if not mapping.lazyfree.pop(index, False):
        mapping.drop(index, index + 1)
    mapping.invalidate_end(span)


def _remove(space: AddressSpace, mapping: Mapping, first: int, last: int, vma: Vma) -> None:
    """Make a hole in the file that is mapped (MADV_REMOVE: madvise_remove, shmem_fallocate)."""
    if vma.flags & VM_HUGETLB:
        raise HostError(errno.EACCES, "a private mapping cannot change its file")
    if not vma.flags & VM_SHARED:
        raise HostError(errno.EINVAL, "anonymous memory has no file")
    span = mapping.invalidate_start(first, last)
    mapping.drop(first, last)
    mapping.invalidate_end(span)
    for index in range(first, last):
        mapping.pages[index] = KNOWN


def _populate(write: int) -> Callable[[AddressSpace, Mapping, int, int, Vma], None]:
    """Return what faults every page in (MADV_POPULATE_READ, MADV_POPULATE_WRITE)."""

    def populate(space: AddressSpace, mapping: Mapping, first: int, last: int, vma: Vma) -> None:
        """Fault every page in."""
        needed = PROT_RW if write else PROT_READ
        if vma.flags & needed != needed:
            raise HostError(errno.EINVAL, "the memory may not be accessed that way")
        for index in range(first, last):
            mapping.fault(index, write)

    return populate


def _collapse(space: AddressSpace, mapping: Mapping, first: int, last: int, vma: Vma) -> None:
    """Collapse the aligned 2 MiB regions of the range, one after the other (MADV_COLLAPSE:
    madvise_collapse).
    """
    at = mapping.hva >> PAGE_SHIFT
    fits = -(-(at + vma.first) // PAGES_2M) < (at + vma.last) // PAGES_2M
    if vma.flags & (VM_NOHUGEPAGE | VM_HUGETLB) or vma.anon_vma is None or not fits:
        raise HostError(errno.EINVAL, "the VMA must allow huge pages, be touched and hold an aligned 2 MiB")
    low, high = -(-(at + first) // PAGES_2M), (at + last) // PAGES_2M
    failed = low > high and space.switches.collapse_refuses_parts
    for number in range(low, high):
        failed |= not collapse_region(mapping, number - mapping.first_2m)
    if failed:
        raise HostError(errno.EINVAL, "a region cannot be collapsed")


_CHANGES: dict[int, Callable[[AddressSpace, Mapping, int, int, Vma], None]] = {
    MADV_FREE: _free,
    MADV_REMOVE: _remove,
    MADV_COLD: _cold,
    MADV_PAGEOUT: _pageout,
    MADV_POPULATE_READ: _populate(0),
    MADV_POPULATE_WRITE: _populate(1),
    MADV_COLLAPSE: _collapse,
}
