"""What the hypervisor's process does to its memory: its mappings, and the system calls that change them.

Every change is announced to the notifiers (KVM's mmu_notifier) in the order Linux 6.12 does (mm/memory.c,
mm/madvise.c, mm/mprotect.c, mm/khugepaged.c).
"""

import errno

from ..x86.bits import PAGE_SHIFT, PAGE_SIZE
from .bits import (
    PAGES_2M,
    PROT_MASK,
    PROT_RW,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_NOHUGEPAGE,
    VM_PRIVATE,
)
from .mapping import HostError, Kind, Mapping, Notifier
from .memory import Arena

MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE = 4, 14, 15, 25


class AddressSpace:
    """The mappings of the hypervisor's process and who watches them.

    hugetlb_unmap_notifies_again: notifiers are told of hugetlbfs pages once for a call and once for each VMA.
    """

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.mappings: list[Mapping] = []
        self.notifiers: list[Notifier] = []
        self.next_hva = 0x7F00_0000_0000
        self._huge_zero = 0
        self.hugetlb_unmap_notifies_again = False

    def map(self, npages: int, kind: Kind, *, offset: int = 0, populated: bool = True) -> Mapping:
        """New memory at an address congruent to `offset` (bytes) modulo 1 GiB. Raises MemoryError."""
        size = npages << PAGE_SHIFT
        hva = self.next_hva - size
        hva -= (hva - offset) % (1 << 30)
        if hva <= 0:
            raise MemoryError(f"no {size >> 30} GiB left in the host's address space of 128 TiB")
        self.next_hva = hva - (1 << 30)
        mapping = Mapping(
            self.arena,
            hva,
            npages,
            kind,
            populated=populated,
            notifiers=self.notifiers,
            huge_zero_pfn=self._huge_zero_pfn,
        )
        self.mappings.append(mapping)
        return mapping

    def _huge_zero_pfn(self) -> int:
        """The first of the 512 frames of zeros that all memory with huge pages shares until it is written."""
        if not self._huge_zero:
            self._huge_zero = self.arena.reserve(PAGES_2M, PAGES_2M, 0)
        return self._huge_zero

    def is_zeros(self, pfn: int) -> bool:
        """Whether a frame is one of zeros, which any number of pages share."""
        return pfn == 0 or (self._huge_zero != 0 and 0 <= pfn - self._huge_zero < PAGES_2M)

    def find(self, hva: int) -> tuple[Mapping, int]:
        """The mapping that holds hva and the page number in it. Raises HostError(EFAULT)."""
        for mapping in self.mappings:
            index = (hva - mapping.hva) >> PAGE_SHIFT
            if 0 <= index < mapping.npages:
                return mapping, index
        raise HostError(errno.EFAULT, f"no host mapping at {hva:#x}")

    # -- what user space does to its memory -------------------------------------------------------------

    def _check(self, hva: int, size: int) -> tuple[Mapping, int, int]:
        if hva % PAGE_SIZE:
            raise HostError(errno.EINVAL, f"address {hva:#x} is not page aligned")
        mapping, first = self.find(hva)
        last = first + ((size + PAGE_SIZE - 1) >> PAGE_SHIFT)
        if last > mapping.npages:
            raise HostError(errno.ENOMEM, f"range ends outside the mapping at {mapping.hva:#x}")
        return mapping, first, last

    def _split_huge(self, mapping: Mapping, edge: int) -> None:
        """Map the 2 MiB around page `edge` by small pages, if it is mapped huge and edge is inside it."""
        if edge >= mapping.npages:
            return
        region = mapping.region_of(edge)
        if mapping.is_huge(region) and edge != mapping.first_page(region):
            mapping.split_region(region)

    def _pieces(self, mapping: Mapping, first: int, last: int) -> list[tuple[int, int, int]]:
        """(first, last, flags) of the parts of [first, last) in each VMA."""
        return [
            (max(start, first), min(end, last), flags)
            for start, end, flags in mapping.vmas
            if start < last and end > first
        ]

    def madvise_dontneed(self, hva: int, size: int) -> None:
        """MADV_DONTNEED: the pages are gone; the next touch finds zeros, or what the page cache has."""
        mapping, first, last = self._check(hva, size)
        if mapping.uniform_level:
            pages = mapping.hugetlb_pages
            at = (mapping.hva >> PAGE_SHIFT) + first
            if at % pages:
                raise HostError(errno.EINVAL, f"address {hva:#x} is inside a huge page")
            last = first + (last - first) // pages * pages
            if first == last:
                return
        for start, end, _ in self._pieces(mapping, first, last):
            self._zap(mapping, start, end)

    def _zap(self, mapping: Mapping, first: int, last: int) -> None:
        span = mapping.invalidate_start(first, last)
        self._notify_again(mapping, self._pieces(mapping, first, last))
        for edge in (first, last):
            self._split_huge(mapping, edge)
        mapping.drop(first, last)
        mapping.invalidate_end(span)

    def _notify_again(self, mapping: Mapping, pieces: list[tuple[int, int, int]]) -> None:
        """Before Linux 6.2 what unmaps hugetlbfs pages tells of each VMA itself (__unmap_hugepage_range)."""
        if self.hugetlb_unmap_notifies_again:
            for start, end, flags in pieces:
                if flags & VM_HUGETLB:
                    mapping.invalidate_end(mapping.invalidate_start(start, end))

    def madvise(self, hva: int, size: int, advice: int) -> None:
        """madvise() by number: 4 DONTNEED, 14 HUGEPAGE, 15 NOHUGEPAGE, 25 COLLAPSE; others have no effect."""
        if advice == MADV_DONTNEED:
            self.madvise_dontneed(hva, size)
            return
        mapping, first, last = self._check(hva, size)
        if advice == MADV_COLLAPSE:
            for start, end, flags in self._pieces(mapping, first, last):
                if flags & VM_NOHUGEPAGE or mapping.uniform_level:
                    raise HostError(errno.EINVAL, "no huge pages in this VMA")
                self._collapse(mapping, start, end)
        elif advice in (MADV_HUGEPAGE, MADV_NOHUGEPAGE):
            new = VM_HUGEPAGE if advice == MADV_HUGEPAGE else VM_NOHUGEPAGE
            for start, end, flags in self._pieces(mapping, first, last):
                self._change_vma(mapping, start, end, flags & (PROT_MASK | VM_HUGETLB) | new)

    def _collapse(self, mapping: Mapping, first: int, last: int) -> None:
        """MADV_COLLAPSE of [first, last) in one VMA: the aligned 2 MiB regions in it, one after the other."""
        at = (mapping.hva >> PAGE_SHIFT) + first
        low, high = -(-at // PAGES_2M), (at + last - first) // PAGES_2M
        failed = low > high
        for number in range(low, high):
            failed |= not mapping.collapse_region(number - mapping.first_2m)
        if failed:
            raise HostError(errno.EINVAL, "a region cannot be collapsed")

    def mprotect(self, hva: int, size: int, prot: int) -> None:
        """Change the protection of a range, VMA by VMA; PROT_NONE, PROT_READ or PROT_RW."""
        mapping, first, last = self._check(hva, size)
        for start, end, flags in self._pieces(mapping, first, last):
            if flags & PROT_MASK == prot:
                continue
            self._change_vma(mapping, start, end, flags & ~PROT_MASK | prot)
            mapping.protected = any(f & PROT_MASK != PROT_RW for _, _, f in mapping.vmas)
            if mapping.has_tables:
                mapping.change_protection(start, end, prot)

    def _change_vma(self, mapping: Mapping, first: int, last: int, flags: int) -> None:
        """Give [first, last), in one VMA, other flags: split it off, or let a neighbour like it have it.

        VMAs of hugetlbfs stay apart.
        """
        start, end, old = next(vma for vma in mapping.vmas if vma[0] <= first < vma[1])
        if flags == old:
            return
        if mapping.uniform_level:
            pages = mapping.hugetlb_pages
            at = mapping.hva >> PAGE_SHIFT
            if any(start < edge < end and (at + edge) % pages for edge in (first, last)):
                raise HostError(errno.EINVAL, "a VMA of huge pages cannot be split inside one")
        self._split_vma(mapping, start, end, first)
        self._split_vma(mapping, max(start, first), end, last)
        rest = [(s, e, f) for s, e, f in mapping.vmas if (s, e) != (start, end)]
        pieces = [(start, first, old), (first, last, flags), (last, end, old)]
        rest += [piece for piece in pieces if piece[0] < piece[1]]
        merged: list[tuple[int, int, int]] = []
        for vma in sorted(rest):
            before = merged.pop() if merged else (0, 0, -1)
            if before[1] == vma[0] and before[2] == vma[2] and not vma[2] & VM_HUGETLB:
                merged.append((before[0], vma[1], vma[2]))
                continue
            if before[1]:
                merged.append(before)
            merged.append(vma)
        mapping.vmas = merged

    def _split_vma(self, mapping: Mapping, start: int, end: int, edge: int) -> None:
        """The VMA [start, end) ends or begins at `edge` from now on: no huge page may span it.

        The kernel splits the 2 MiB around the edge if they are in the VMA, and announces it whatever is
        mapped there (vma_adjust_trans_huge).
        """
        if not start < edge < end or not mapping.has_tables:
            return
        region = (mapping.hva + (edge << PAGE_SHIFT)) >> 21
        low = ((region << 21) - mapping.hva) >> PAGE_SHIFT
        if edge != low and start <= low and low + PAGES_2M <= end:
            mapping.split_region(region - mapping.first_2m)

    def remap(self, hva: int, size: int) -> None:
        """Fresh anonymous memory in place of the range (mmap with MAP_FIXED)."""
        mapping, first, last = self._check(hva, size)
        pieces = self._pieces(mapping, first, last)
        for start, end, _ in pieces:
            self._change_vma(mapping, start, end, -1)
        mapping.replaced = True
        span = mapping.invalidate_start(first, last)
        self._notify_again(mapping, pieces)
        mapping.drop(first, last)
        mapping.invalidate_end(span)
        private = VM_PRIVATE if mapping.kind is Kind.MEMFD else 0
        for start, end, _ in self._pieces(mapping, first, last):
            self._change_vma(mapping, start, end, PROT_RW | private)

    def age(self, hva: int, size: int, *, flush: bool) -> bool:
        """Return whether a notifier's secondary MMU accessed [hva, hva + size) since the last call.

        What the kernel's page reclaim asks (mmu_notifier_clear_young; with `flush`
        mmu_notifier_clear_flush_young). Raises HostError for a range that is not one of one mapping's pages.
        """
        self._check(hva, size)
        young = [
            notifier.clear_flush_young(hva, hva + size) if flush else notifier.clear_young(hva, hva + size)
            for notifier in self.notifiers
        ]
        return any(young)

    def touch(self, hva: int, *, write: bool) -> int:
        """The host accesses a byte; the hpa of the page. Raises HostError(EFAULT) if it is not allowed to."""
        mapping, index = self.find(hva)
        word = mapping.fault(index, write)
        if not word:
            raise HostError(errno.EFAULT, f"host access to {hva:#x} is not allowed")
        return word >> PAGE_SHIFT << PAGE_SHIFT
