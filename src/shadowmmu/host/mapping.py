"""What backs guest memory: the host process's mappings, page by page.

A `Mapping` is one mmap() of the hypervisor's user space. Its page table is one word a page:

    0             as the mapping was made: present and writable, or absent if it is lazy
    KNOWN | ...   set by what happened since: PRESENT, WRITABLE, ZERO (the shared zero page), pfn << 12

plus one byte per aligned 2 MiB for the level at which the host maps it, and the protection of each VMA.
`AddressSpace` holds the mappings of a process and tells its notifiers (KVM's mmu_notifier) about every
page that is taken away, in the order Linux 6.12 does (mm/memory.c, mm/huge_memory.c, mm/mprotect.c).
"""

import errno
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from cython import uint as u32, ulonglong as u64

from ..x86.bits import MASK64, PAGE_SHIFT, PAGE_SIZE
from .memory import Arena, sparse_words

PAGES_2M, PAGES_1G = 512, 512 * 512
SIZE_2M = 2 << 20
KNOWN, PRESENT, WRITABLE, ZERO = 1, 2, 4, 8
PROT_NONE, PROT_READ, PROT_RW = 0, 1, 3
PROT_MASK, VM_HUGEPAGE, VM_NOHUGEPAGE, VM_HUGETLB, VM_PRIVATE = 3, 4, 8, 16, 32
MADV_DONTNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_COLLAPSE = 4, 14, 15, 25
FAULT_AROUND_PAGES = 16


class Kind(Enum):
    """What the memory is made of. HUGE2M and HUGE1G are hugetlb, MEMFD is shared memory in small pages."""

    ANON = "anon"
    THP = "thp"
    HUGE2M = "huge2m"
    HUGE1G = "huge1g"
    MEMFD = "memfd"


class Notifier(Protocol):
    """An mmu_notifier: told about [start, end) before and after the host takes pages of that range away.

    Between the two change_pte says which page is at an address now, if one replaces another at once.
    clear_young and clear_flush_young ask whether a range was accessed, and forget it; the latter flushes.
    """

    def invalidate_range_start(self, start: int, end: int) -> None: ...
    def invalidate_range_end(self, start: int, end: int) -> None: ...
    def change_pte(self, address: int, pfn: int, *, writable: bool) -> None: ...
    def clear_young(self, start: int, end: int) -> bool: ...
    def clear_flush_young(self, start: int, end: int) -> bool: ...


class HostError(OSError):
    """A host call that failed; `errno` says how."""


class Mapping:
    """`npages` pages of user memory at host virtual address `hva`."""

    def __init__(
        self,
        arena: Arena,
        hva: int,
        npages: int,
        kind: Kind,
        *,
        populated: bool,
        notifiers: list[Notifier],
        huge_zero_pfn: Callable[[], int],
    ) -> None:
        self.arena = arena
        self.hva = hva
        self.npages = npages
        self.kind = kind
        self.populated = populated
        self.base_pfn = arena.reserve(npages, PAGES_1G, hva >> PAGE_SHIFT)
        self.pages = sparse_words(npages)
        self.first_2m = hva >> 21
        self.regions = ((hva + (npages << PAGE_SHIFT) - 1) >> 21) - self.first_2m + 1
        self.uniform_level = {Kind.HUGE2M: 2, Kind.HUGE1G: 3}.get(kind, 0)
        self.huge = bytearray(self.regions)
        self.split = bytearray(self.regions)
        if kind is Kind.THP and populated:
            for region in range(self.regions):
                self.huge[region] = self.region_fits(region)
        self.notifiers = notifiers
        self.huge_zero_pfn = huge_zero_pfn
        self.zero_regions: set[int] = set()
        self.moved: dict[int, int] = {}
        advice = VM_HUGEPAGE if kind is Kind.THP else VM_HUGETLB if self.uniform_level else VM_NOHUGEPAGE
        self.vmas = [(0, npages, PROT_RW | advice)]
        self.protected = False
        self.replaced = False
        self.has_tables = populated

    def region_fits(self, region: int) -> bool:
        """Whether the aligned 2 MiB number `region` lies inside the mapping."""
        start = ((self.first_2m + region) << 21) - self.hva
        return start >= 0 and start + SIZE_2M <= self.npages << PAGE_SHIFT

    def page(self, index: u64) -> u64:
        """PRESENT, WRITABLE, ZERO and pfn << 12 of page `index`; 0 if the host maps nothing there."""
        word: u64 = self.pages[index]
        if word == 0:
            return ((self.base_pfn + index) << 12) | 6 if self.populated else 0
        return word & ~1 if word & 2 else 0

    def untouched_page(self, index: u64) -> u64:
        """hpa of a page that is still as the mapping was made, present and writable; else all ones."""
        if self.pages[index] or not self.populated or self.protected:
            return MASK64
        return (self.base_pfn + index) << 12

    def vma_flags(self, index: int) -> int:
        """The protection (PROT_MASK) and the advice of the VMA that holds page `index`."""
        return next(flags for start, end, flags in self.vmas if start <= index < end)

    def is_hugetlb(self, index: int) -> bool:
        """Whether page `index` is one of hugetlbfs: memory mapped over a part of it later is not."""
        return self.vma_flags(index) & VM_HUGETLB != 0

    def protection(self, index: int) -> int:
        """PROT_NONE, PROT_READ or PROT_RW of the VMA that holds page `index`."""
        return self.vma_flags(index) & PROT_MASK

    def is_shared(self, index: int) -> bool:
        """Whether page `index` is shared memory; it is not once something else has been mapped over it."""
        return self.kind is Kind.MEMFD and not self.vma_flags(index) & VM_PRIVATE

    def fast_page(self, index: u64, write: u64) -> u64:
        """The page without faulting it in, or 0 (get_user_pages_fast_only; write: FOLL_WRITE)."""
        word: u64 = self.page(index)
        if write and not word & 4:
            return 0
        if self.protected and self.protection(index) & (3 if write else 1) != (3 if write else 1):
            return 0
        return word

    def level(self, index: u64) -> u32:
        """Level of the host page-table entry that maps page `index`: 1, 2 or 3; 1 if nothing does."""
        if self.uniform_level:
            huge: bool = self.page(index) != 0 and (not self.replaced or self.is_hugetlb(index))
            return self.uniform_level if huge else 1
        region: u64 = ((self.hva + (index << 12)) >> 21) - self.first_2m
        return 2 if self.huge[region] else 1

    def install(self, index: int, pfn: int, flags: int) -> None:
        if pfn and pfn != self.base_pfn + index:
            self.moved[pfn] = index
        self.pages[index] = KNOWN | PRESENT | flags | (pfn << PAGE_SHIFT)

    def clear(self, index: int) -> None:
        self.pages[index] = KNOWN

    def unmap_shared(self, index: int) -> None:
        """Unmap a page of shared memory; its frame stays in the page cache."""
        self.pages[index] = KNOWN | (self.page(index) or self.pages[index]) >> PAGE_SHIFT << PAGE_SHIFT

    def is_cached(self, index: int) -> bool:
        """Whether shared memory has a frame for page `index`, mapped or not."""
        return self.page(index) != 0 or self.pages[index] >> PAGE_SHIFT != 0

    def index_of(self, pfn: int) -> int | None:
        """Number of the page that frame pfn backs now, or None."""
        for region in sorted(self.zero_regions):
            first = (((self.first_2m + region) << 21) - self.hva) >> PAGE_SHIFT
            if 0 <= pfn - self.huge_zero_pfn() < PAGES_2M:
                return first + pfn - self.huge_zero_pfn()
        index = self.moved.get(pfn, pfn - self.base_pfn)
        if 0 <= index < self.npages and self.page(index) >> PAGE_SHIFT == pfn:
            return index
        return None

    def new_frame(self, index: int) -> int:
        """A frame for page `index`: its own one, or a fresh one once that has been given away."""
        if self.pages[index] == 0:
            return self.base_pfn + index
        cached: int = self.pages[index] >> PAGE_SHIFT
        return cached or self.arena.reserve(1, 1, 0)

    # -- notifiers ---------------------------------------------------------------------------------

    def invalidate_start(self, first: int, last: int) -> tuple[int, int]:
        """Tell the notifiers that pages [first, last) are about to change; the range as addresses."""
        start, end = self.hva + (first << PAGE_SHIFT), self.hva + (last << PAGE_SHIFT)
        for notifier in self.notifiers:
            notifier.invalidate_range_start(start, end)
        return start, end

    def invalidate_end(self, span: tuple[int, int]) -> None:
        for notifier in self.notifiers:
            notifier.invalidate_range_end(*span)

    # -- faults ------------------------------------------------------------------------------------

    def fault(self, index: u64, write: u64) -> int:
        """Fault a page in as the host's handle_mm_fault does; its word, or 0 if the access is not allowed."""
        needed = PROT_RW if write else PROT_READ
        if self.protected and self.protection(index) & needed != needed:
            return 0
        word = self.page(index)
        if word & PRESENT and (word & WRITABLE or not write):
            return word
        region = ((self.hva + (index << PAGE_SHIFT)) >> 21) - self.first_2m
        if word & PRESENT and region in self.zero_regions:
            self.split_region(region)
            word = self.page(index)
        if not word & PRESENT:
            self._populate(index, write=write != 0)
        elif word & ZERO:
            span = self.invalidate_start(index, index + 1)
            self.install(index, self.new_frame(index), WRITABLE)
            for notifier in self.notifiers:
                notifier.change_pte(span[0], self.page(index) >> PAGE_SHIFT, writable=True)
            self.invalidate_end(span)
        else:
            self._make_writable(index)
        return self.page(index)

    def _make_writable(self, index: int) -> None:
        low, high = index, index + 1
        if self.uniform_level and self.is_hugetlb(index):
            _, low, high = self._hugetlb_page(index)
        for i in range(low, high):
            self.install(i, self.page(i) >> PAGE_SHIFT, WRITABLE)

    def _populate(self, index: int, *, write: bool) -> None:
        self.has_tables = True
        if self.uniform_level and self.is_hugetlb(index):
            self._populate_hugetlb(index, write=write)
            return
        region = ((self.hva + (index << PAGE_SHIFT)) >> 21) - self.first_2m
        advised = self.vma_flags(index) & VM_HUGEPAGE
        if advised and self.kind is not Kind.MEMFD and self._may_map_huge(region):
            first = (((self.first_2m + region) << 21) - self.hva) >> PAGE_SHIFT
            if write:
                self._map_huge(region, first)
            else:
                self._map_huge_zero(region, first)
            return
        self.split[region] = 1
        if self.is_shared(index):
            if not write:
                self._fault_around(index)
            if not self.page(index):
                self.install(index, self.new_frame(index), WRITABLE)
        elif write:
            self.install(index, self.new_frame(index), WRITABLE)
        else:
            self.install(index, 0, ZERO)

    def _hugetlb_page(self, index: int) -> tuple[int, int, int]:
        """(first page, first and last of it in the mapping) of the huge page that holds page `index`."""
        pages = PAGES_2M if self.uniform_level == 2 else PAGES_1G
        first = index - ((self.hva >> PAGE_SHIFT) + index) % pages
        return first, max(first, 0), min(first + pages, self.npages)

    def _populate_hugetlb(self, index: int, *, write: bool) -> None:
        """Map a whole page of hugetlbfs; for a read without the right to write, as private memory is."""
        first, low, high = self._hugetlb_page(index)
        base = self.base_pfn + first
        if any(self.pages[i] for i in range(low, high)):
            pages = PAGES_2M if self.uniform_level == 2 else PAGES_1G
            base = self.arena.reserve(pages, pages, 0)
        for i in range(low, high):
            self.install(i, base + i - first, WRITABLE if write else 0)

    def _fault_around(self, index: int) -> None:
        """Map what the page cache has of the aligned 64 KiB around a page that is read (do_fault_around)."""
        first = index - ((self.hva >> PAGE_SHIFT) + index) % FAULT_AROUND_PAGES
        vma_first, vma_last, _ = next(vma for vma in self.vmas if vma[0] <= index < vma[1])
        for i in range(max(first, vma_first), min(first + FAULT_AROUND_PAGES, vma_last)):
            if not self.page(i) and self.is_cached(i):
                self.install(i, self.new_frame(i), WRITABLE)

    def _may_map_huge(self, region: int) -> bool:
        """Whether a fault may map a huge page: the whole region is in one VMA and has no page table."""
        if self.split[region] or not self.region_fits(region) or not self._region_absent(region):
            return False
        first = (((self.first_2m + region) << 21) - self.hva) >> PAGE_SHIFT
        return any(start <= first and first + PAGES_2M <= end for start, end, _ in self.vmas)

    def _region_absent(self, region: int) -> bool:
        first = (((self.first_2m + region) << 21) - self.hva) >> PAGE_SHIFT
        return not any(self.page(i) for i in range(first, first + PAGES_2M))

    def _map_huge(self, region: int, first: int) -> None:
        fresh = any(self.pages[i] for i in range(first, first + PAGES_2M))
        base = self.arena.reserve(PAGES_2M, PAGES_2M, 0) if fresh else self.base_pfn + first
        for i in range(PAGES_2M):
            self.install(first + i, base + i, WRITABLE)
        self.huge[region] = 1
        self.split[region] = 0

    def _map_huge_zero(self, region: int, first: int) -> None:
        """Map the host's one huge page of zeros."""
        base = self.huge_zero_pfn()
        for i in range(PAGES_2M):
            self.install(first + i, base + i, 0)
        self.huge[region] = 1
        self.zero_regions.add(region)

    def split_region(self, region: int) -> None:
        """Map the huge page of a region by small ones, with the notifiers told; zeros by the zero page."""
        first = (((self.first_2m + region) << 21) - self.hva) >> PAGE_SHIFT
        span = self.invalidate_start(first, first + PAGES_2M)
        if not self.uniform_level and self.huge[region]:
            self.huge[region] = 0
            self.split[region] = 1
            if region in self.zero_regions:
                self.zero_regions.remove(region)
                for i in range(first, first + PAGES_2M):
                    self.install(i, 0, ZERO)
        self.invalidate_end(span)


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
        region = ((mapping.hva + (edge << PAGE_SHIFT)) >> 21) - mapping.first_2m
        start = (((mapping.first_2m + region) << 21) - mapping.hva) >> PAGE_SHIFT
        if mapping.uniform_level or edge == start or not mapping.huge[region]:
            return
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
            pages = PAGES_2M if mapping.uniform_level == 2 else PAGES_1G
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
        for i in range(first, last):
            self._drop(mapping, i)
        mapping.invalidate_end(span)

    def _notify_again(self, mapping: Mapping, pieces: list[tuple[int, int, int]]) -> None:
        """Before Linux 6.2 what unmaps hugetlbfs pages tells of each VMA itself (__unmap_hugepage_range)."""
        if self.hugetlb_unmap_notifies_again:
            for start, end, flags in pieces:
                if flags & VM_HUGETLB:
                    mapping.invalidate_end(mapping.invalidate_start(start, end))

    def _drop(self, mapping: Mapping, index: int) -> None:
        if not mapping.uniform_level:
            region = ((mapping.hva + (index << PAGE_SHIFT)) >> 21) - mapping.first_2m
            mapping.huge[region] = 0
            mapping.zero_regions.discard(region)
        if mapping.is_shared(index):
            mapping.unmap_shared(index)
        else:
            mapping.clear(index)

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
            failed |= not self._collapse_region(mapping, number - mapping.first_2m)
        if failed:
            raise HostError(errno.EINVAL, "a region cannot be collapsed")

    def _collapse_region(self, mapping: Mapping, region: int) -> bool:
        if mapping.huge[region]:
            return True
        start = (((mapping.first_2m + region) << 21) - mapping.hva) >> PAGE_SHIFT
        words = [mapping.page(i) for i in range(start, start + PAGES_2M)]
        if not any(word & WRITABLE for word in words):
            return False
        span = mapping.invalidate_start(start, start + PAGES_2M)
        base = self.arena.reserve(PAGES_2M, PAGES_2M, 0)
        for i, word in enumerate(words):
            if word & PRESENT and not word & ZERO:
                self.arena.copy_page(word >> PAGE_SHIFT << PAGE_SHIFT, (base + i) << PAGE_SHIFT)
            mapping.install(start + i, base + i, WRITABLE)
        mapping.huge[region] = 1
        mapping.split[region] = 0
        mapping.invalidate_end(span)
        return True

    def mprotect(self, hva: int, size: int, prot: int) -> None:
        """Change the protection of a range, VMA by VMA; PROT_NONE, PROT_READ or PROT_RW."""
        mapping, first, last = self._check(hva, size)
        for start, end, flags in self._pieces(mapping, first, last):
            if flags & PROT_MASK == prot:
                continue
            self._change_vma(mapping, start, end, flags & ~PROT_MASK | prot)
            mapping.protected = any(f & PROT_MASK != PROT_RW for _, _, f in mapping.vmas)
            if mapping.has_tables:
                self._change_protection(mapping, start, end, prot)

    def _change_protection(self, mapping: Mapping, first: int, last: int, prot: int) -> None:
        span = mapping.invalidate_start(first, last)
        for i in range(first, last):
            word = mapping.page(i)
            if word & PRESENT:
                writable = prot == PROT_RW and not word & ZERO and not mapping.uniform_level
                mapping.install(i, word >> PAGE_SHIFT, WRITABLE if writable else word & ZERO)
        mapping.invalidate_end(span)

    def _change_vma(self, mapping: Mapping, first: int, last: int, flags: int) -> None:
        """Give [first, last), in one VMA, other flags: split it off, or let a neighbour like it have it.

        VMAs of hugetlbfs stay apart.
        """
        start, end, old = next(vma for vma in mapping.vmas if vma[0] <= first < vma[1])
        if flags == old:
            return
        if mapping.uniform_level:
            pages = PAGES_2M if mapping.uniform_level == 2 else PAGES_1G
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

        The kernel splits the 2 MiB around the edge if they are in the VMA, and says so whatever is mapped
        there (vma_adjust_trans_huge).
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
        for i in range(first, last):
            self._drop(mapping, i)
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
