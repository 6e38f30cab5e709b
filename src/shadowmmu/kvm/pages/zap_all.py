"""Zapping every page of the MMU, because a slot was deleted or a setting changed, in one of two ways.

By generation (kvm_mmu_zap_all_fast, zap.py): all pages are obsolete at once, and are zapped in steps between
which vCPUs make new ones. By a walk (kvm_mmu_zap_all, arch/x86/kvm/mmu.c, 3.10): all are zapped under one
hold of mmu_lock, however many there are.
"""

from ..bits import BY_WALK, REQ_MMU_FREE_OBSOLETE_ROOTS
from ..spte.flush import kvm_flush_remote_tlbs, kvm_make_all_cpus_request
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from ..tdp.zap import kvm_tdp_mmu_zap_all
from .zap import kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page, kvm_mmu_zap_all_fast


def zap_all(kvm: Kvm) -> None:
    """Zap every page of the MMU in the design's way."""
    if kvm.design.zap_all == BY_WALK:
        kvm_mmu_zap_all(kvm)
    else:
        kvm_mmu_zap_all_fast(kvm)


def kvm_mmu_zap_all(kvm: Kvm) -> None:
    """Zap all pages, newest first.

    Roots in use are emptied, and freed when their vCPUs drop them: every vCPU loads its root again. Those of
    the TDP MMU are emptied and stay.
    """
    invalid_list: list[ShadowPage] = []
    for sp in kvm.active_mmu_pages.pages():
        if sp.on_list:
            kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
    kvm_mmu_commit_zap_page(kvm, invalid_list)
    if kvm.tdp_mmu_enabled():
        kvm_tdp_mmu_zap_all(kvm)
        kvm_flush_remote_tlbs(kvm)
    kvm_make_all_cpus_request(kvm, REQ_MMU_FREE_OBSOLETE_ROOTS)
