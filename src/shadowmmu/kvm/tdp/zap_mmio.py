"""Emptying the TDP MMU's MMIO SPTEs, for designs in which a change of the memslots does not make
them stale.
"""

from ..spte.mmio import is_mmio_spte
from ..state.vm import Kvm
from .spte_changed import tdp_mmu_iter_set_spte
from .walk import TdpWalk
from .zap import MAX_GFN


class ZapMmio(TdpWalk):
    """Empties every MMIO SPTE. No TLB holds one, so nothing is flushed."""

    def visit(self) -> bool:
        if is_mmio_spte(self.kvm, self.it.old_spte):
            tdp_mmu_iter_set_spte(self.kvm, self.it, self.kvm.design.empty_spte)
        return True


def kvm_tdp_mmu_zap_mmio_sptes(kvm: Kvm) -> None:
    """Empty the MMIO SPTEs of all valid roots."""
    walk: ZapMmio = ZapMmio(kvm, 0, MAX_GFN, 1)
    walk.can_yield = False
    walk.finish()
