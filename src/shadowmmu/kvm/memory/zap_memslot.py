"""Zapping what maps a slot that is deleted or moved (kvm_arch_flush_shadow_memslot, mmu.c, 6.12.111).

Every page of the MMU is zapped; or, if user space has switched the quirk KVM_X86_QUIRK_SLOT_ZAP_ALL off, the
SPTEs that map the slot and the pages that shadow tables in it.
"""

from ..pages.zap import kvm_mmu_prepare_zap_page, kvm_mmu_remote_flush_or_zap
from ..pages.zap_all import zap_all
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from .notifier import kvm_unmap_gfn_range

QUIRK_SLOT_ZAP_ALL = 1 << 7


def kvm_arch_flush_shadow_memslot(kvm: Kvm, slot: MemSlot) -> None:
    """Zap all mappings of a slot that is about to be deleted or moved."""
    if kvm.parameters.disabled_quirks & QUIRK_SLOT_ZAP_ALL:
        kvm_mmu_zap_memslot(kvm, slot)
    else:
        zap_all(kvm)


def kvm_mmu_zap_memslot(kvm: Kvm, slot: MemSlot) -> None:
    """Zap what maps the slot and what shadows its tables, with one flush: the slot's accounting is freed with
    it.
    """
    flush = kvm_unmap_gfn_range(kvm, slot, slot.base_gfn, slot.base_gfn + slot.npages)
    invalid_list: list[ShadowPage] = []
    for gfn in _shadowed_gfns(kvm, slot):
        sp = kvm.first_sp_with_gptes(gfn)
        while sp is not None:
            kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
            sp = kvm.next_sp_with_gptes(sp.hash_next, gfn)
    kvm_mmu_remote_flush_or_zap(kvm, invalid_list, flush)


def _shadowed_gfns(kvm: Kvm, slot: MemSlot) -> list[int]:
    """Return the frames of a slot that hold shadowed tables, sorted."""
    end = slot.base_gfn + slot.npages
    return sorted({sp.gfn for sp in kvm.active_mmu_pages.pages() if slot.base_gfn <= sp.gfn < end})
