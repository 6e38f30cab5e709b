"""Allocating a shadow page (kvm_mmu_alloc_shadow_page, arch/x86/kvm/mmu/mmu.c, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ..bits import ROLE_DIRECT, ROLE_LEVEL
from ..state.shadow_page import ShadowPage
from ..state.table import clear_table, clear_translations
from ..state.vcpu import MemoryCache
from ..state.vm import Kvm
from .account import account_shadowed


def kvm_mmu_alloc_shadow_page(
    kvm: Kvm, shadow_pages: MemoryCache, translation_pages: MemoryCache, gfn: u64, bucket: u64, role: u32
) -> ShadowPage:
    """Return a new, empty page, added to the hash and the active list; the guest table that it shadows, if
    any, is write-protected.
    """
    spt: u64 = shadow_pages.take()
    clear_table(kvm, spt)
    translations: u64 = 0
    if not role & ROLE_DIRECT and (role & ROLE_LEVEL <= 3 or kvm.design.translations_at_all_levels):
        translations = translation_pages.take()
        clear_translations(kvm, translations)
    sp: ShadowPage = ShadowPage(gfn, role, spt, translations)
    sp.mmu_valid_gen = kvm.mmu_valid_gen
    kvm.set_owner(spt, sp)
    if kvm.design.active_pages:
        kvm.active_mmu_pages.add_oldest(sp)
    else:
        kvm.active_mmu_pages.add(sp)
    kvm.n_used_mmu_pages += 1
    sp.hash_next = kvm.page_hash[bucket]
    kvm.page_hash[bucket] = sp
    if sp.has_gptes():
        account_shadowed(kvm, sp)
    return sp
