"""Making room for huge pages after dirty logging ended (kvm_tdp_mmu_zap_collapsible_sptes, tdp_mmu.c,
6.12.111).
"""

from cython import ulonglong as u64

from ...x86.bits import PS
from ..bits import SPTE_MMU_PRESENT
from ..spte.huge_page import kvm_mmu_max_mapping_level
from ..state.memslots import MemSlot
from ..state.vm import Kvm
from .spte_changed import tdp_mmu_zap_spte_atomic
from .walk import TdpWalk


class ZapCollapsible(TdpWalk):
    """Zaps every table of a slot that could be a huge page; each zap flushes. mmu_lock is held for reading.

    Attributes:
        slot: The slot whose dirty logging ended.
    """

    def __init__(self, kvm: Kvm, slot: MemSlot) -> None:
        TdpWalk.__init__(self, kvm, slot.base_gfn, slot.base_gfn + slot.npages, 2)
        self.slot = slot

    def visit(self) -> bool:
        spte: u64 = self.it.old_spte
        if self.it.level > 3 or not spte & SPTE_MMU_PRESENT or spte & PS or self.it.gfn < self.start:
            return True
        if kvm_mmu_max_mapping_level(self.kvm, self.slot, self.it.gfn, 3) < self.it.level:
            return True
        return tdp_mmu_zap_spte_atomic(self.kvm, self.it)


def kvm_tdp_mmu_zap_collapsible_sptes(kvm: Kvm, slot: MemSlot) -> None:
    """Zap the tables of a slot whose pages may be mapped by one huge page now."""
    ZapCollapsible(kvm, slot).finish()
