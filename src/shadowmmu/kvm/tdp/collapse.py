"""Logging ended: getting huge pages back in the TDP MMU (tdp_mmu.c, 6.12.111 and 7.3.4).

Before 7.3 what stands in their way is zapped, and faults map them; since then (`log_off_recovers`) they are
put in place at once.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR, PS
from ..bits import SPTE_MMU_PRESENT
from ..spte.flush import kvm_flush_remote_tlbs_memslot
from ..spte.huge_page import kvm_mmu_max_mapping_level, pages_per_hpage
from ..spte.make_spte import make_huge_spte
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.tdp_iter import TdpIter
from ..state.vm import Kvm
from .spte_changed import tdp_mmu_set_spte_atomic, tdp_mmu_zap_spte_atomic
from .walk import TdpWalk


class CollapsibleTables(TdpWalk):
    """Visits every table of a slot that could be a huge page. mmu_lock is held for reading.

    Attributes:
        slot: The slot whose dirty logging ended.
    """

    def __init__(self, kvm: Kvm, slot: MemSlot) -> None:
        TdpWalk.__init__(self, kvm, slot.base_gfn, slot.base_gfn + slot.npages, 2)
        self.slot = slot

    def visit(self) -> bool:
        spte: u64 = self.it.old_spte
        level: u32 = self.it.level
        if level > 3 or not spte & SPTE_MMU_PRESENT or spte & PS:
            return True
        if self.it.gfn < self.start or self.it.gfn + pages_per_hpage(level) > self.end:
            return True
        if kvm_mmu_max_mapping_level(self.kvm, self.slot, self.it.gfn, 3) < level:
            return True
        return self.collapse()

    def collapse(self) -> bool:
        """Do what is due with the table; False if it must be looked at again."""
        raise NotImplementedError


class ZapCollapsible(CollapsibleTables):
    """Drops them; each flushes (zap_collapsible_spte_range, 6.12.111)."""

    def collapse(self) -> bool:
        return tdp_mmu_zap_spte_atomic(self.kvm, self.it)


class RecoverHugePages(CollapsibleTables):
    """Puts huge SPTEs in their place; one flush for each root (recover_huge_pages_range, 7.3.4).

    A table that maps nothing stays.
    """

    def collapse(self) -> bool:
        small: u64 = self.first_leaf()
        if small == 0:
            return True
        if not tdp_mmu_set_spte_atomic(self.kvm, self.it, make_huge_spte(self.kvm, small, self.it.level)):
            return False
        self.flush = True
        return True

    def first_leaf(self) -> u64:
        """Return the first present leaf below the table, 0 if there is none (tdp_mmu_make_huge_spte)."""
        below: TdpIter = TdpIter(self.kvm)
        table: ShadowPage = self.kvm.sptep_to_sp(self.it.old_spte & ADDR)
        end: u64 = self.it.gfn + pages_per_hpage(self.it.level)
        below.start(table, 1, self.it.gfn)
        while below.valid and below.gfn < end:
            if below.old_spte & SPTE_MMU_PRESENT and (below.level == 1 or below.old_spte & PS):
                return below.old_spte
            below.next()
        return 0

    def next_root(self) -> None:
        if self.flush:
            kvm_flush_remote_tlbs_memslot(self.kvm, self.slot)
            self.flush = False
        TdpWalk.next_root(self)


def kvm_tdp_mmu_zap_collapsible_sptes(kvm: Kvm, slot: MemSlot) -> None:
    """Let the pages of a slot be mapped by huge pages again where that is possible now.

    Since 7.3 the function is kvm_tdp_mmu_recover_huge_pages.
    """
    if kvm.design.log_off_recovers:
        RecoverHugePages(kvm, slot).finish()
    else:
        ZapCollapsible(kvm, slot).finish()
