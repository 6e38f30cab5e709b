"""MMIO SPTEs that carry no generation are zapped when a memslot is created or moved.

All pages are searched for them under one hold of mmu_lock (kvm_mmu_zap_mmio_sptes, arch/x86/kvm/mmu.c, 3.10).
"""

from ..bits import BY_WALK
from ..spte.mmio import is_mmio_spte
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from ..tdp.zap_mmio import kvm_tdp_mmu_zap_mmio_sptes
from .zap import kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page


def kvm_mmu_zap_mmio_sptes(kvm: Kvm) -> None:
    """Zap every page that holds an MMIO SPTE; in the TDP MMU only the SPTEs. Called when a slot was created
    or moved.

    It does nothing if a new generation makes them stale.
    """
    if kvm.design.mmio_invalidation != BY_WALK:
        return
    invalid_list: list[ShadowPage] = []
    for sp in kvm.active_mmu_pages.pages():
        if sp.on_list and _holds_mmio(kvm, sp):
            kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
    kvm_mmu_commit_zap_page(kvm, invalid_list)
    if kvm.tdp_mmu_enabled():
        kvm_tdp_mmu_zap_mmio_sptes(kvm)


def _holds_mmio(kvm: Kvm, sp: ShadowPage) -> bool:
    """Return whether a page has an MMIO SPTE."""
    return any(is_mmio_spte(kvm, spte) for spte in kvm.read_table(sp.spt))
