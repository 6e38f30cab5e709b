"""What the hypervisor's process does to its memory: its mappings, and the system calls that change them.

Every change is announced to the notifiers (KVM's mmu_notifier) in Linux 6.12's order (mm/memory.c,
mm/madvise.c, mm/mprotect.c, mm/khugepaged.c).
"""

import errno
from dataclasses import replace

from ..x86.bits import PAGE_SHIFT, PAGE_SIZE
from .backing import Backing, HostError, HugePages, Notifier
from .bits import PAGES_1G, PAGES_2M, PROT_MASK, PROT_RW, VM_ACCOUNT, VM_HUGETLB
from .huge_memory import free_tables
from .mapping import Mapping
from .memory import Arena
from .switches import HostSwitches
from .vma import Vma, protected_flags


class AddressSpace:
    """The mappings of the hypervisor's process and their notifiers (struct mm_struct).

    Attributes:
        arena: The memory that frames come from.
        mappings: All mappings.
        notifiers: The mmu notifiers, called in this order.
        next_hva: Address below which the next mapping is placed.
        _huge_zero: First of the 512 frames of the huge page of zeros; 0: not allocated yet.
        huge_pages: The administrator's settings of transparent huge pages.
        switches: How the memory management of its kernel differs from others'.
    """

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.mappings: list[Mapping] = []
        self.notifiers: list[Notifier] = []
        self.next_hva = 0x7F00_0000_0000
        self._huge_zero = 0
        self.huge_pages = HugePages()
        self.switches = HostSwitches()

    def map(self, npages: int, kind: Backing, *, offset: int = 0, populated: bool = True) -> Mapping:
        """Map new memory at an address congruent to `offset` (bytes) modulo 1 GiB. Raises MemoryError."""
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
            huge_pages=self.huge_pages,
            switches=self.switches,
        )
        self.mappings.append(mapping)
        return mapping

    def _huge_zero_pfn(self) -> int:
        """Return the first of the 512 frames of zeros that all memory with huge pages shares until it is
        written.
        """
        if not self._huge_zero:
            self._huge_zero = self.arena.reserve(PAGES_2M, PAGES_2M, 0)
        return self._huge_zero

    def is_zeros(self, pfn: int) -> bool:
        """Return whether a frame is one of zeros, which any number of pages share."""
        return pfn == 0 or (self._huge_zero != 0 and 0 <= pfn - self._huge_zero < PAGES_2M)

    def find(self, hva: int) -> tuple[Mapping, int]:
        """Return the mapping that holds hva and the page number in it. Raises HostError(EFAULT)."""
        for mapping in self.mappings:
            index = (hva - mapping.hva) >> PAGE_SHIFT
            if 0 <= index < mapping.npages:
                return mapping, index
        raise HostError(errno.EFAULT, f"no host mapping at {hva:#x}")

    # -- what user space does to its memory -------------------------------------------------------------

    def check_range(self, hva: int, size: int) -> tuple[Mapping, int, int]:
        """Return the mapping and pages [first, last) of a range. Raises HostError(EINVAL, ENOMEM, EFAULT)."""
        if hva % PAGE_SIZE:
            raise HostError(errno.EINVAL, f"address {hva:#x} must be a multiple of {PAGE_SIZE}")
        mapping, first = self.find(hva)
        last = first + ((size + PAGE_SIZE - 1) >> PAGE_SHIFT)
        if last > mapping.npages:
            raise HostError(errno.ENOMEM, f"the range must end inside the mapping at {mapping.hva:#x}")
        return mapping, first, last

    def madvise_dontneed(self, hva: int, size: int) -> None:
        """Free the pages of a range (MADV_DONTNEED); the next access finds zeros, or what the page cache has.

        Raises HostError.
        """
        mapping, first, last = self.check_range(hva, size)
        for start, end, vma in mapping.vmas.pieces(first, last):
            if vma.flags & VM_HUGETLB:
                self._check_hugetlb_edge(mapping, start)
                end -= ((mapping.hva >> PAGE_SHIFT) + end) % mapping.hugetlb_pages
            if start < end:
                self._zap(mapping, start, end)

    def _zap(self, mapping: Mapping, first: int, last: int) -> None:
        """Unmap pages [first, last) and announce it."""
        span = mapping.invalidate_start(first, last)
        self._notify_again(mapping, first, last)
        for edge in (first, last):
            self._split_huge(mapping, edge)
        mapping.drop(first, last)
        if self.switches.dontneed_frees_tables:
            free_tables(mapping, first, last)
        mapping.invalidate_end(span)

    def _split_huge(self, mapping: Mapping, edge: int) -> None:
        """Map the 2 MiB around page `edge` by small pages, if it is mapped huge and edge is inside it."""
        if edge < mapping.npages:
            region = mapping.region_of(edge)
            if mapping.is_huge(region) and edge != mapping.first_page(region):
                mapping.split_region(region)

    def _notify_again(self, mapping: Mapping, first: int, last: int) -> None:
        """Announce each VMA itself, as unmapping hugetlbfs pages does before Linux 6.2
        (__unmap_hugepage_range).
        """
        if self.switches.hugetlb_unmap_notifies_again:
            for start, end, vma in mapping.vmas.pieces(first, last):
                if vma.flags & VM_HUGETLB:
                    mapping.invalidate_end(mapping.invalidate_start(start, end))

    def mprotect(self, hva: int, size: int, prot: int) -> None:
        """Change the protection of a range, VMA by VMA, to PROT_NONE, PROT_READ or PROT_RW.
        Raises HostError.
        """
        mapping, first, last = self.check_range(hva, size)
        for start, end, vma in mapping.vmas.pieces(first, last):
            if vma.flags & PROT_MASK != prot:
                flags = protected_flags(vma, prot, unaccounts=self.switches.mprotect_unaccounts)
                self.change_vma(mapping, start, end, flags)
                self._change_protection(mapping, start, end, prot)

    def _change_protection(self, mapping: Mapping, first: int, last: int, prot: int) -> None:
        """Change the rights of the mapped pages [first, last) of one VMA, and announce it."""
        for start, end in self._announced(mapping, first, last):
            span = mapping.invalidate_start(start, end)
            mapping.change_protection(start, end, prot)
            mapping.invalidate_end(span)

    def _announced(self, mapping: Mapping, first: int, last: int) -> list[tuple[int, int]]:
        """Return the parts of pages [first, last) of one VMA as mprotect announces them (change_pud_range,
        change_pmd_range).
        """
        if mapping.vmas.at(first).flags & VM_HUGETLB:
            return [(first, last)]
        found = []
        chunk = first
        while chunk < last:
            end = min(last, chunk + PAGES_1G - ((mapping.hva >> PAGE_SHIFT) + chunk) % PAGES_1G)
            if not self.switches.mprotect_announces_tables and mapping.has_directory(chunk):
                return [(chunk, last)]
            start = chunk
            while start < end and not mapping.has_entry(mapping.region_of(start)):
                start += PAGES_2M - ((mapping.hva >> PAGE_SHIFT) + start) % PAGES_2M
            if self.switches.mprotect_announces_tables and start < end:
                found.append((start, end))
            chunk = end
        return found

    def _check_hugetlb_edge(self, mapping: Mapping, edge: int) -> None:
        """Raise HostError(EINVAL) if page `edge` is inside a page of hugetlbfs."""
        if ((mapping.hva >> PAGE_SHIFT) + edge) % mapping.hugetlb_pages:
            raise HostError(errno.EINVAL, "a page of hugetlbfs cannot be split")

    def _split_vma(self, mapping: Mapping, vma: Vma, first: int, last: int) -> None:
        """Split a VMA at `first` and at `last`, where those are inside it (__split_vma).

        Raises HostError(EINVAL) at the first edge inside a page of hugetlbfs.
        """
        start = vma.first
        for edge in (first, last):
            if vma.first < edge < vma.last:
                if vma.flags & VM_HUGETLB:
                    self._check_hugetlb_edge(mapping, edge)
                self._split_huge_at(mapping, start, vma.last, edge)
                mapping.vmas.split(edge)
                mapping.vmas_changed()
                start = edge

    def _split_huge_at(self, mapping: Mapping, start: int, end: int, edge: int) -> None:
        """Split the huge page that would span `edge`, where the VMA [start, end) ends or begins from now on.

        The kernel splits the 2 MiB around the edge if they are in the VMA, and announces it whatever is
        mapped there (vma_adjust_trans_huge).
        """
        if not mapping.has_directory(edge):
            return
        region = (mapping.hva + (edge << PAGE_SHIFT)) >> 21
        low = ((region << 21) - mapping.hva) >> PAGE_SHIFT
        if edge != low and start <= low and low + PAGES_2M <= end:
            mapping.split_region(region - mapping.first_2m)

    def change_vma(self, mapping: Mapping, first: int, last: int, flags: int) -> None:
        """Give [first, last), in one VMA, other flags. Raises HostError(EINVAL)."""
        vma = mapping.vmas.at(first)
        if flags != vma.flags:
            self._split_vma(mapping, replace(vma), first, last)
            mapping.vmas.modify(first, last, flags)
            mapping.vmas_changed()

    def remap(self, hva: int, size: int) -> None:
        """Map fresh anonymous memory in place of the range (mmap with MAP_FIXED). Raises HostError."""
        mapping, first, last = self.check_range(hva, size)
        try:
            for _, _, vma in mapping.vmas.pieces(first, last):
                self._split_vma(mapping, replace(vma), first, last)
        except HostError as error:
            if self.switches.remap_hides_error:
                raise HostError(errno.ENOMEM, error.strerror) from None
            raise
        mapping.replaced = True
        span = mapping.invalidate_start(first, last)
        self._notify_again(mapping, first, last)
        mapping.drop(first, last)
        mapping.invalidate_end(span)
        free_tables(mapping, first, last)
        mapping.vmas.replace(first, last, PROT_RW | VM_ACCOUNT)
        mapping.vmas_changed()

    def age(self, hva: int, size: int, *, flush: bool) -> bool:
        """Return whether a notifier's secondary MMU accessed [hva, hva + size) since the last call.

        The kernel's page reclaim asks so (mmu_notifier_clear_young; with `flush`
        mmu_notifier_clear_flush_young). Raises HostError for a range that is not inside one mapping.
        """
        self.check_range(hva, size)
        young = [
            notifier.clear_flush_young(hva, hva + size) if flush else notifier.clear_young(hva, hva + size)
            for notifier in self.notifiers
        ]
        return any(young)

    def touch(self, hva: int, *, write: bool) -> int:
        """Return access a byte as the hypervisor's process does. Return the hpa of its page. Raises
        HostError(EFAULT) if the access is not allowed.
        """
        mapping, index = self.find(hva)
        word = mapping.fault(index, write)
        if not word:
            raise HostError(errno.EFAULT, f"host access to {hva:#x} is not allowed")
        return word >> PAGE_SHIFT << PAGE_SHIFT
