"""Splitting huge pages, by a fault or eagerly (tdp_mmu.c, 6.12.111).

The new table maps the same pages with the same bits as the huge page did. So it makes no difference which of
the two a TLB holds, and no flush is needed.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import PS
from ..bits import SPTE_MMU_PRESENT
from ..spte.make_spte import make_huge_page_split_spte
from ..spte.spte import count_pages, make_nonleaf_spte
from ..state.shadow_page import ShadowPage
from ..state.tdp_iter import TdpIter
from ..state.vm import Kvm
from .roots import tdp_mmu_init_child_sp
from .spte_changed import tdp_mmu_iter_set_spte, tdp_mmu_set_spte_atomic
from .walk import TdpWalk

EBUSY = 16


def tdp_mmu_link_sp(kvm: Kvm, it: TdpIter, sp: ShadowPage, shared: u32) -> bool:
    """Let the walk's current SPTE point to `sp`. Return False if another CPU changed it first."""
    if not shared:
        tdp_mmu_iter_set_spte(kvm, it, make_nonleaf_spte(kvm, sp))
    elif not tdp_mmu_set_spte_atomic(kvm, it, make_nonleaf_spte(kvm, sp)):
        return False
    kvm.tdp_mmu_pages += 1
    kvm.tally.tdp_tables_made += 1
    return True


def tdp_mmu_split_huge_page(kvm: Kvm, it: TdpIter, sp: ShadowPage, shared: u32) -> bool:
    """Replace the huge page at the walk's current SPTE by the table `sp`. Return False if another CPU changed
    it first.
    """
    huge: u64 = it.old_spte
    i: u64
    for i in range(512):
        kvm.words[(sp.spt >> 3) + i] = make_huge_page_split_spte(kvm, huge, sp.role, i)
    linked: bool = tdp_mmu_link_sp(kvm, it, sp, shared)
    if linked:
        count_pages(kvm, it.level - 1, 512)
    if kvm.tracing:
        kvm.tracer.kvm_mmu_split_huge_page(it.gfn, huge, it.level, 0 if linked else -EBUSY)
    return linked


class SplitHugePages(TdpWalk):
    """Splits every huge page of the range, 1 GiB into 2 MiB into 4 KiB.

    mmu_lock is dropped before each split to allocate a frame.

    Attributes:
        shared: mmu_lock is held for reading, not for writing.
        spare: Physical address of the frame for the next table; 0: none.
    """

    def __init__(self, kvm: Kvm, start: u64, end: u64, target_level: u32, shared: u32) -> None:
        TdpWalk.__init__(self, kvm, start, end, target_level + 1)
        self.shared = shared
        self.spare = 0

    def visit(self) -> bool:
        spte: u64 = self.it.old_spte
        if not spte & SPTE_MMU_PRESENT or not spte & PS:
            return True
        kvm: Kvm = self.kvm
        if not self.spare:
            self.spare = kvm.arena.alloc_table()
            self.it.yielded = True
            return True
        sp: ShadowPage = tdp_mmu_init_child_sp(kvm, self.spare, self.it)
        if not tdp_mmu_split_huge_page(kvm, self.it, sp, self.shared):
            return False
        self.spare = 0
        return True

    def next_root(self) -> None:
        """Free the spare frame, which was allocated for a page that another CPU split, and step to the next
        root.
        """
        if self.spare:
            self.kvm.set_owner(self.spare, None)
            self.kvm.arena.free_table(self.spare)
            self.spare = 0
        TdpWalk.next_root(self)


def kvm_tdp_mmu_try_split_huge_pages(kvm: Kvm, start: u64, end: u64, target_level: u32, shared: u32) -> None:
    """Split all huge pages that map pages [start, end) down to target_level."""
    SplitHugePages(kvm, start, end, target_level, shared).finish()
