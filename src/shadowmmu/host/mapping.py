"""What backs guest memory: the host process's mappings, page by page.

A `Mapping` is one mmap() of the hypervisor's user space. Its page table is one u64 word a page::

    0             as the mapping was made: present and writable, or absent if it is lazy
    KNOWN | ...   changed since: PRESENT, WRITABLE, ZERO (the shared zero page), pfn << 12

plus two bytes per aligned 2 MiB (a region): whether one huge page maps it, and whether it has a page table.
Protection and advice are those of the VMAs (host/vma.py). This file has the faults and what they map, and
what happens to pages that user space changes; its system calls are in host/address_space.py and
host/madvise.py. Every page that the host takes away is announced to the notifiers (KVM's mmu_notifier), in
Linux 6.12's order (mm/memory.c, mm/huge_memory.c).
"""

from collections.abc import Callable

from cython import uint as u32, ulonglong as u64

from ..x86.bits import MASK64, PAGE_SHIFT
from .backing import Backing, HugePages, Notifier
from .bits import (
    FAULT_AROUND_PAGES,
    KNOWN,
    PAGES_1G,
    PAGES_2M,
    PRESENT,
    PROT_READ,
    PROT_RW,
    SIZE_2M,
    THP_ALWAYS,
    THP_MADVISE,
    VM_HUGEPAGE,
    VM_HUGETLB,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_SHARED,
    WRITABLE,
    ZERO,
)
from .memory import Arena, sparse_words
from .switches import HostSwitches
from .vma import Vmas


class Mapping:
    """`npages` pages of user memory at host virtual address `hva`.

    Pages are numbered from 0 at `hva`, regions (aligned 2 MiB) from 0 at the region of `hva`.

    Attributes:
        arena: The memory that frames come from.
        hva: Host virtual address, a multiple of 4096.
        npages: Number of pages.
        kind: What the memory is made of.
        populated: All pages were present and writable when the mapping was made.
        base_pfn: Frame of page 0 of npages contiguous frames; page i has frame base_pfn + i until it loses
            it.
        pages: The page table: u64 words, one a page, see the module's docstring.
        first_2m: Number of the first region, counted from address 0: hva >> 21.
        regions: Number of regions that the mapping touches.
        uniform_level: Level of every page of a hugetlb mapping, 2 or 3; 0 for all other kinds.
        hugetlb_pages: 4 KiB pages in a page of hugetlbfs; meaningful only if uniform_level is not 0.
        huge: One byte a region: 1 if one huge page maps it.
        has_table: One byte a region: 1 if it has a page table, so that a fault cannot map a huge page.
        directories: One byte for each aligned 1 GiB: 1 if it has a page directory.
        notifiers: The mmu notifiers, the address space's list.
        huge_zero_pfn: Returns the first frame of the host's huge page of zeros, which it allocates when first
            asked.
        huge_pages: The administrator's settings.
        switches: How the memory management of its kernel differs from others'.
        zero_regions: Regions that the huge page of zeros maps; they are `huge` too.
        folios: Region -> first frame of the huge page that small pages map now and that the kernel still
            treats as one page (a compound page).
        lazyfree: Page -> whether it was written since MADV_FREE gave it up.
        frees_lazily: MADV_FREE was used: writes to memory must be reported (`written`). Never reset.
        moved: Frame -> page, for pages that do not have the frame base_pfn + page; entries may be stale.
        vmas: The VMAs; `vmas_changed` must be called after a change.
        protected: Some VMA does not allow all accesses.
        replaced: Other memory was mapped over a part.
        near_first: First page of the VMA that was looked up last.
        near_last: Page after its last one; equal to near_first if there is none.
        near_flags: Its flags, PROT_* and VM_*.
    """

    def __init__(
        self,
        arena: Arena,
        hva: int,
        npages: int,
        kind: Backing,
        *,
        populated: bool,
        notifiers: list[Notifier],
        huge_zero_pfn: Callable[[], int],
        huge_pages: HugePages,
        switches: HostSwitches,
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
        self.uniform_level = 2 if kind is Backing.HUGE2M else 3 if kind is Backing.HUGE1G else 0
        self.hugetlb_pages = PAGES_2M if kind is Backing.HUGE2M else PAGES_1G
        self.huge = bytearray(self.regions)
        self.has_table = bytearray(bytes([populated and not self.uniform_level]) * self.regions)
        if kind is Backing.THP and populated:
            for region in range(self.regions):
                self.huge[region] = self.region_fits(region)
                self.has_table[region] = not self.huge[region]
        gib = ((hva + (npages << PAGE_SHIFT) - 1) >> 30) - (hva >> 30) + 1
        self.directories = bytearray(bytes([populated]) * gib)
        self.notifiers = notifiers
        self.huge_zero_pfn = huge_zero_pfn
        self.huge_pages = huge_pages
        self.switches = switches
        self.zero_regions: set[int] = set()
        self.folios: dict[int, int] = {}
        self.lazyfree: dict[int, bool] = {}
        self.frees_lazily = False
        self.moved: dict[int, int] = {}
        flags = VM_HUGEPAGE if kind is Backing.THP else VM_HUGETLB if self.uniform_level else VM_NOHUGEPAGE
        flags |= VM_SHARED if kind is Backing.MEMFD else VM_NORESERVE
        self.vmas = Vmas(
            npages, PROT_RW | flags, touched=populated and kind is not Backing.MEMFD, switches=switches
        )
        self.protected = False
        self.replaced = False
        self.near_first = self.near_last = 0
        self.near_flags = 0

    # -- where --------------------------------------------------------------------------------------

    def region_of(self, index: u64) -> u64:
        """Return the region of page `index`."""
        return ((self.hva + (index << PAGE_SHIFT)) >> 21) - self.first_2m

    def region_fits(self, region: u64) -> bool:
        """Return whether a region lies inside the mapping as a whole."""
        start: u64 = (self.first_2m + region) << 21
        return start >= self.hva and start + SIZE_2M <= self.hva + (self.npages << PAGE_SHIFT)

    def first_page(self, region: u64) -> u64:
        """Return the first page of a region that fits."""
        return (((self.first_2m + region) << 21) - self.hva) >> PAGE_SHIFT

    def vma_flags(self, index: u64) -> u32:
        """Return the protection (PROT_MASK) and the VM_* of the VMA that holds page `index`."""
        if index < self.near_first or index >= self.near_last:
            vma = self.vmas.at(index)
            self.near_first, self.near_last, self.near_flags = vma.first, vma.last, vma.flags
        return self.near_flags

    def vmas_changed(self) -> None:
        """Drop what was cached of `vmas`, after a change."""
        self.near_first = self.near_last = 0
        self.protected = self.vmas.restricted != 0

    def is_hugetlb(self, index: u64) -> bool:
        """Return whether page `index` is of hugetlbfs: memory mapped over it later is not."""
        return self.uniform_level != 0 and (self.vma_flags(index) & VM_HUGETLB) != 0

    def is_shared(self, index: u64) -> bool:
        """Return whether page `index` is shared memory: memory mapped over it later is not."""
        return (self.vma_flags(index) & VM_SHARED) != 0

    def forbids(self, index: u64, write: u64) -> bool:
        """Return whether the VMA that holds page `index` does not allow the access."""
        needed: u32 = PROT_RW if write else PROT_READ
        return self.protected and (self.vma_flags(index) & needed) != needed

    # -- the page table -----------------------------------------------------------------------------

    def page(self, index: u64) -> u64:
        """Return the page word of page `index`: PRESENT, WRITABLE, ZERO and pfn << 12; 0 if the host maps
        nothing there.
        """
        word: u64 = self.pages[index]
        if word == 0:
            return ((self.base_pfn + index) << 12) | 6 if self.populated else 0
        return word & ~1 if word & 2 else 0

    def untouched_page(self, index: u64) -> u64:
        """Return the hpa of a page that is as the mapping was made, present and writable; else all ones."""
        if self.pages[index] or not self.populated or self.protected:
            return MASK64
        return (self.base_pfn + index) << 12

    def fast_page(self, index: u64, write: u64) -> u64:
        """Return the page word without faulting the page in, or 0 (get_user_pages_fast_only; write:
        FOLL_WRITE).
        """
        word: u64 = self.page(index)
        if write and not word & 4:
            return 0
        return 0 if self.forbids(index, write) else word

    def level(self, index: u64) -> u32:
        """Return the level of the host page-table entry that maps page `index`: 1, 2 or 3; 1 if
        nothing does.
        """
        if self.uniform_level and (not self.replaced or self.is_hugetlb(index)):
            return self.uniform_level if self.page(index) else 1
        region: u64 = ((self.hva + (index << 12)) >> 21) - self.first_2m
        return 2 if self.huge[region] else 1

    def is_huge(self, region: u64) -> bool:
        """Return whether a region is mapped by one huge page that can be split."""
        return self.huge[region] != 0

    def has_entry(self, region: u64) -> bool:
        """Return whether the page directory has an entry for a region."""
        return self.huge[region] != 0 or self.has_table[region] != 0

    def has_directory(self, index: u64) -> bool:
        """Return whether there is a page directory for page `index`."""
        return self.directories[((self.hva + (index << PAGE_SHIFT)) >> 30) - (self.hva >> 30)] != 0

    def install(self, index: u64, pfn: u64, flags: u64) -> None:
        """Map page `index` to a frame; flags: WRITABLE, ZERO."""
        if pfn and pfn != self.base_pfn + index:
            self.moved[pfn] = index
        self.pages[index] = KNOWN | PRESENT | flags | (pfn << PAGE_SHIFT)

    def install_run(self, first: u64, npages: u64, pfn: u64, flags: u64) -> None:
        """Map contiguous pages to contiguous frames."""
        i: u64
        for i in range(npages):
            self.install(first + i, pfn + i, flags)

    def drop(self, first: u64, last: u64) -> None:
        """Unmap pages [first, last). Frames of shared memory stay in the page cache."""
        index: u64
        for index in range(first, last):
            region: u64 = self.region_of(index)
            if self.huge[region]:
                self.huge[region] = 0
                self.zero_regions.discard(region)
            if self.is_shared(index):
                self.pages[index] = (
                    KNOWN | (self.page(index) or self.pages[index]) >> PAGE_SHIFT << PAGE_SHIFT
                )
            else:
                self.pages[index] = KNOWN
            if self.frees_lazily:
                self.lazyfree.pop(index, None)

    def free_lazily(self, first: u64, last: u64) -> None:
        """Give pages [first, last) up (MADV_FREE): they may be lost until they are written again."""
        self.frees_lazily = True
        index: u64
        for index in range(first, last):
            word: u64 = self.page(index)
            if word & PRESENT and not word & ZERO:
                self.install(index, word >> PAGE_SHIFT, word & WRITABLE)
                self.lazyfree[index] = False

    def is_cached(self, index: u64) -> bool:
        """Return whether shared memory has a frame for page `index`, mapped or not."""
        return self.page(index) != 0 or self.pages[index] >> PAGE_SHIFT != 0

    def index_of(self, pfn: u64) -> int | None:
        """Return the page that frame pfn backs now, or None."""
        if self.zero_regions:
            zero: u64 = self.huge_zero_pfn()
            if zero <= pfn < zero + PAGES_2M:
                return self.first_page(min(self.zero_regions)) + pfn - zero
        index: u64 = self.moved.get(pfn, self.npages)
        if index == self.npages and pfn >= self.base_pfn:
            index = pfn - self.base_pfn
        if index < self.npages and self.page(index) >> PAGE_SHIFT == pfn:
            return index
        return None

    def new_frame(self, index: u64) -> u64:
        """Return a frame for page `index`: its own, or a fresh one once that was given away."""
        word: u64 = self.pages[index]
        if word == 0:
            return self.base_pfn + index
        if word >> PAGE_SHIFT:
            return word >> PAGE_SHIFT
        frame: u64 = self.arena.reserve(1, 1, 0)
        return frame

    # -- notifiers ---------------------------------------------------------------------------------

    def invalidate_start(self, first: int, last: int) -> tuple[int, int]:
        """Announce to the notifiers that pages [first, last) are about to change. Return the range as
        addresses.
        """
        start, end = self.hva + (first << PAGE_SHIFT), self.hva + (last << PAGE_SHIFT)
        for notifier in self.notifiers:
            notifier.invalidate_range_start(start, end)
        return start, end

    def invalidate_end(self, span: tuple[int, int]) -> None:
        """Announce to the notifiers that the change is complete."""
        for notifier in self.notifiers:
            notifier.invalidate_range_end(span[0], span[1])

    # -- faults ------------------------------------------------------------------------------------

    def fault(self, index: u64, write: u64) -> u64:
        """Fault a page in as handle_mm_fault does. Return its page word, or 0 if the access is
        not allowed.
        """
        if self.forbids(index, write):
            return 0
        word: u64 = self.page(index)
        if word & PRESENT and (word & WRITABLE or not write):
            if write and self.frees_lazily:
                self.written(index)
            return word
        if word & PRESENT and self.zero_regions:
            region: u64 = self.region_of(index)
            if region in self.zero_regions and self.switches.huge_zeros_become_huge:
                return self._replace_huge_zero(region, index)
            if region in self.zero_regions:
                self.split_region(region)
                word = self.page(index)
        if not word & PRESENT:
            self._populate(index, write)
        elif word & ZERO:
            self._replace_zero_page(index)
        else:
            self._make_writable(index)
        return self.page(index)

    def written(self, index: u64) -> None:
        """Record that page `index` is written, or mapped for writing by a secondary MMU."""
        if index in self.lazyfree:
            self.lazyfree[index] = True

    def _replace_zero_page(self, index: u64) -> None:
        """Map a page of its own in place of the zero page of page `index`."""
        self.vmas.prepare_anon(index)
        span = self.invalidate_start(index, index + 1)
        self.install(index, self.new_frame(index), WRITABLE)
        for notifier in self.notifiers:
            notifier.change_pte(span[0], self.page(index) >> PAGE_SHIFT, writable=True)
        self.invalidate_end(span)

    def _make_writable(self, index: u64) -> None:
        """Give a present page the right to be written."""
        if self.is_hugetlb(index):
            first: u64 = self._hugetlb_start(index)
            self.install_run(first, self._hugetlb_size(first), self.page(first) >> PAGE_SHIFT, WRITABLE)
        else:
            self.install(index, self.page(index) >> PAGE_SHIFT, WRITABLE)

    def _populate(self, index: u64, write: u64) -> None:
        """Map a page that is not present."""
        self.directories[((self.hva + (index << PAGE_SHIFT)) >> 30) - (self.hva >> 30)] = 1
        flags: u32 = self.vma_flags(index)
        if flags & VM_HUGETLB:
            self._populate_hugetlb(index, write)
            return
        region: u64 = self.region_of(index)
        if self._may_map_huge(region, flags):
            self.vmas.prepare_anon(index)
            if write or not self.huge_pages.use_zero_page:
                self._map_huge(region)
            else:
                self._map_huge_zero(region)
            return
        self.has_table[region] = 1
        if flags & VM_SHARED:
            if not write:
                self._fault_around(index)
            if not self.page(index):
                self.install(index, self.new_frame(index), WRITABLE)
        elif write:
            self.vmas.prepare_anon(index)
            self.install(index, self.new_frame(index), WRITABLE)
        else:
            self.install(index, 0, ZERO)

    def _hugetlb_start(self, index: u64) -> u64:
        """Return the first page, inside the mapping, of the huge page that holds page `index`."""
        offset: u64 = ((self.hva >> PAGE_SHIFT) + index) % self.hugetlb_pages
        return index - offset if index > offset else 0

    def _hugetlb_size(self, first: u64) -> u64:
        """Return the number of pages, inside the mapping, of the huge page that begins with page `first`."""
        npages: u64 = self.hugetlb_pages - ((self.hva >> PAGE_SHIFT) + first) % self.hugetlb_pages
        return min(npages, self.npages - first)

    def _populate_hugetlb(self, index: u64, write: u64) -> None:
        """Map a whole page of hugetlbfs; after a read without W, because it is private memory."""
        first: u64 = self._hugetlb_start(index)
        npages: u64 = self._hugetlb_size(first)
        base: u64 = self.base_pfn + first
        if not self._untouched(first, npages):
            base = self.arena.reserve(self.hugetlb_pages, self.hugetlb_pages, 0)
        self.install_run(first, npages, base, WRITABLE if write else 0)

    def _fault_around(self, index: u64) -> None:
        """Map what the page cache has of the aligned 64 KiB around a page that is read (do_fault_around)."""
        offset: u64 = ((self.hva >> PAGE_SHIFT) + index) % FAULT_AROUND_PAGES
        first: u64 = index - offset if index > offset else 0
        last: u64 = index - offset + FAULT_AROUND_PAGES
        vma = self.vmas.at(index)
        first, last = max(first, vma.first), min(last, vma.last)
        i: u64
        for i in range(first, last):
            if not self.page(i) and self.is_cached(i):
                self.install(i, self.new_frame(i), WRITABLE)

    # -- regions -----------------------------------------------------------------------------------

    def _untouched(self, first: u64, npages: u64) -> bool:
        """Return whether pages are as the mapping was made, so that their first frames are still theirs."""
        i: u64 = first
        while i < first + npages and not self.pages[i]:
            i += 1
        return i == first + npages

    def _may_map_huge(self, region: u64, flags: u32) -> bool:
        """Return whether a fault may map a huge page: the whole region is in one VMA and has no
        page table.
        """
        if self.has_table[region] or flags & (VM_SHARED | VM_NOHUGEPAGE) or not self.region_fits(region):
            return False
        enabled: u32 = self.huge_pages.enabled
        if enabled != THP_ALWAYS and (enabled != THP_MADVISE or not flags & VM_HUGEPAGE):
            return False
        first: u64 = self.first_page(region)
        self.vma_flags(first)
        return self.near_first <= first and first + PAGES_2M <= self.near_last

    def _map_huge(self, region: u64) -> None:
        """Map a huge page."""
        first: u64 = self.first_page(region)
        base: u64 = self.base_pfn + first
        if not self._untouched(first, PAGES_2M):
            base = self.arena.reserve(PAGES_2M, PAGES_2M, 0)
        self.install_run(first, PAGES_2M, base, WRITABLE)
        self.huge[region] = 1

    def _map_huge_zero(self, region: u64) -> None:
        """Map the host's one huge page of zeros."""
        self.install_run(self.first_page(region), PAGES_2M, self.huge_zero_pfn(), 0)
        self.huge[region] = 1
        self.zero_regions.add(region)

    def _replace_huge_zero(self, region: u64, index: u64) -> u64:
        """Map a huge page instead of that of zeros; return page `index`'s word (do_huge_zero_wp_pmd)."""
        first: u64 = self.first_page(region)
        self.vmas.prepare_anon(index)
        span = self.invalidate_start(first, first + PAGES_2M)
        self.zero_regions.remove(region)
        self._map_huge(region)
        self.invalidate_end(span)
        return self.page(index)

    def split_region(self, region: u64) -> None:
        """Map the huge page of a region by small ones, zeros by the zero page, and announce it to the
        notifiers.
        """
        first: u64 = self.first_page(region)
        span = self.invalidate_start(first, first + PAGES_2M)
        self.map_by_small_pages(region)
        self.invalidate_end(span)

    def map_by_small_pages(self, region: u64) -> None:
        """Map the huge page of a region, if there is one, by small ones, without an announcement."""
        if not self.huge[region]:
            return
        self.huge[region] = 0
        self.has_table[region] = 1
        first: u64 = self.first_page(region)
        if region in self.zero_regions:
            self.zero_regions.remove(region)
            i: u64
            for i in range(first, first + PAGES_2M):
                self.install(i, 0, ZERO)
        else:
            self.folios[region] = self.page(first) >> PAGE_SHIFT

    def has_folio(self, index: u64) -> bool:
        """Return whether page `index` is a part of a compound page that small pages map."""
        if not self.folios:
            return False
        frame: u64 = self.folios.get(self.region_of(index), MASK64)
        page: u64 = self.page(index) >> PAGE_SHIFT
        return frame <= page and page < frame + PAGES_2M

    def change_protection(self, first: u64, last: u64, prot: u32) -> None:
        """Give the mapped pages of [first, last) the rights of `prot`; some regain W by a fault only."""
        index: u64
        for index in range(first, last):
            word: u64 = self.page(index)
            if word & PRESENT:
                writable: bool = prot == PROT_RW and not word & ZERO and not self.is_hugetlb(index)
                self.install(index, word >> PAGE_SHIFT, WRITABLE if writable else word & ZERO)
