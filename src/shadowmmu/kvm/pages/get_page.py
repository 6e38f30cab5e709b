"""Shadow pages: finding or allocating them, and linking them (arch/x86/kvm/mmu/mmu.c, 6.12.111).

Pages are found by gfn and role in a hash of 4096 buckets, newest first.
"""

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...x86.bits import ADDR, PS
from ..bits import (
    DEFECT_CHILD_BY_PRESENCE,
    DEFECT_LINK_UNMARKED,
    DEFECT_QUADRANT_IGNORED,
    DEFECT_UNSYNC_KEPT,
    ROLE_4BYTE_GPTE,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_DIRECT,
    ROLE_INVALID,
    ROLE_LEVEL,
    ROLE_PASSTHROUGH,
    ROLE_QUADRANT,
    ROLE_QUADRANT_SHIFT,
    SPTE_MMU_PRESENT,
)
from ..spte.flush import kvm_flush_remote_tlbs
from ..spte.parent_pte import mmu_page_add_parent_pte
from ..spte.spte import is_pae_root, make_nonleaf_spte, make_pae_pdpte, mmu_spte_update, spte_index
from ..spte.unsync import mark_unsync
from ..state.shadow_page import ShadowPage
from ..state.vcpu import MemoryCache, Vcpu
from ..state.vm import Kvm
from .alloc_page import kvm_mmu_alloc_shadow_page
from .get_page_flows import get_page_by_flow
from .replace_spte import zap_replaced_spte
from .sync import kvm_sync_page
from .zap import kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page


def kvm_mmu_child_role(kvm: Kvm, parent: ShadowPage, sptep: u64, direct: u32, access: u32) -> u32:
    """Return the role of the page that the SPTE at sptep, in `parent`, should point to."""
    role: u32 = parent.role & ~(ROLE_LEVEL | ROLE_ACCESS | ROLE_DIRECT | ROLE_PASSTHROUGH)
    if not kvm.design.child_inherits_invalid:
        role &= ~ROLE_INVALID
    role |= (parent.role & ROLE_LEVEL) - 1
    role |= access << ROLE_ACCESS_SHIFT
    if direct:
        role |= ROLE_DIRECT
    return _in_quadrant(kvm, role, sptep) if role & ROLE_4BYTE_GPTE else role


def _in_quadrant(kvm: Kvm, role: u32, sptep: u64) -> u32:
    """Return the role with the quadrant of SPTE sptep: two pages of level 1 shadow a 4-byte guest table, and
    four of level 2, below special roots.
    """
    if kvm.design.defect == DEFECT_QUADRANT_IGNORED:
        return role
    pages: u32 = 2 * (role & ROLE_LEVEL)
    return role & ~ROLE_QUADRANT | (spte_index(sptep) & (pages - 1)) << ROLE_QUADRANT_SHIFT


def _find(kvm: Kvm, vcpu: Vcpu | None, gfn: u64, bucket: u64, role: u32) -> ShadowPage | None:
    """Return the page for gfn and role, synced if it was unsync, or None (kvm_mmu_find_shadow_page)."""
    collisions: i64 = 0
    invalid_list: list[ShadowPage] = []
    found: ShadowPage | None = None
    sp: ShadowPage | None = kvm.page_hash[bucket]
    while sp is not None:
        if kvm.is_obsolete(sp):
            pass
        elif sp.gfn != gfn:
            collisions += 1
        elif sp.role != role:
            if role & ROLE_LEVEL > 1 and sp.unsync and kvm.design.defect != DEFECT_UNSYNC_KEPT:
                kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
        else:
            if role & ROLE_DIRECT or (vcpu is not None and _refresh(vcpu, sp, invalid_list)):
                found = sp
            break
        sp = sp.hash_next
    if found is None:
        kvm.stat.mmu_cache_miss += 1
    kvm_mmu_commit_zap_page(kvm, invalid_list)
    kvm.tally.hash_passed += collisions
    if collisions > kvm.stat.max_mmu_page_hash_collisions:
        kvm.stat.max_mmu_page_hash_collisions = collisions
    return found


def _refresh(vcpu: Vcpu, sp: ShadowPage, invalid_list: list[ShadowPage]) -> bool:
    """Sync an unsync page that is about to be used. Return False if it had to be zapped.

    It stays unsync, and its guest table stays writable.
    """
    if sp.unsync:
        result: i64 = kvm_sync_page(vcpu, sp, invalid_list)
        if result < 0:
            return False
        if result > 0:
            kvm_flush_remote_tlbs(vcpu.kvm)
    sp.write_flooding_count = 0
    return True


def _get(
    kvm: Kvm,
    vcpu: Vcpu | None,
    shadow_pages: MemoryCache,
    translation_pages: MemoryCache,
    gfn: u64,
    role: u32,
) -> ShadowPage:
    """Return the page for gfn and role, found or new (__kvm_mmu_get_shadow_page)."""
    if kvm.design.get_page_flow:
        return get_page_by_flow(kvm, vcpu, shadow_pages, translation_pages, gfn, role)
    bucket: u64 = kvm.hash_bucket(gfn)
    found: ShadowPage | None = _find(kvm, vcpu, gfn, bucket, role)
    sp: ShadowPage
    if found is None:
        sp = kvm_mmu_alloc_shadow_page(kvm, shadow_pages, translation_pages, gfn, bucket, role)
    else:
        sp = found
    if kvm.tracing:
        kvm.tracer.kvm_mmu_get_page(sp, found is None)
    return sp


def kvm_mmu_get_shadow_page(vcpu: Vcpu, gfn: u64, role: u32) -> ShadowPage:
    """Return the shadow page for gfn with that role, found or new."""
    return _get(vcpu.kvm, vcpu, vcpu.shadow_page_cache, vcpu.translation_cache, gfn, role)


def shadow_mmu_get_sp_for_split(
    kvm: Kvm, shadow_pages: MemoryCache, parent: ShadowPage, sptep: u64, gfn: u64, access: u32
) -> ShadowPage:
    """Return the direct page that is to replace the huge SPTE at sptep, in `parent`, for an eager split
    without a vCPU.
    """
    role: u32 = kvm_mmu_child_role(kvm, parent, sptep, 1, access)
    return _get(kvm, None, shadow_pages, shadow_pages, gfn, role)


def kvm_mmu_get_child_sp(
    vcpu: Vcpu, parent: ShadowPage, sptep: u64, gfn: u64, direct: u32, access: u32
) -> ShadowPage:
    """Return the page that the SPTE at sptep, in `parent`, should point to; it may do so already (see
    is_linked).
    """
    kvm: Kvm = vcpu.kvm
    role: u32 = kvm_mmu_child_role(kvm, parent, sptep, direct, access)
    spte: u64 = kvm.words[sptep >> 3]
    if spte & SPTE_MMU_PRESENT and not spte & PS:
        child: ShadowPage = kvm.sptep_to_sp(spte & ADDR)
        if child.gfn == gfn and (child.role == role or not kvm.design.child_lookup_compares_role):
            return child
        if kvm.design.defect == DEFECT_CHILD_BY_PRESENCE:
            return child
    return kvm_mmu_get_shadow_page(vcpu, gfn, role)


def is_linked(kvm: Kvm, sptep: u64, child: ShadowPage) -> bool:
    """Return whether the SPTE at sptep points to `child`."""
    spte: u64 = kvm.words[sptep >> 3]
    return spte & SPTE_MMU_PRESENT != 0 and not spte & PS and spte & ADDR == child.spt


def link_shadow_page(kvm: Kvm, sptep: u64, sp: ShadowPage) -> None:
    """Let the SPTE at sptep point to `sp`. What was there is zapped and always flushed
    (__link_shadow_page).
    """
    if kvm.words[sptep >> 3] & SPTE_MMU_PRESENT:
        zap_replaced_spte(kvm, sptep, 1)
    spte: u64 = make_nonleaf_spte(kvm, sp)
    if kvm.design.special_roots and is_pae_root(kvm.sptep_to_sp(sptep)):
        spte = make_pae_pdpte(sp)
    mmu_spte_update(kvm, sptep, spte)
    mmu_page_add_parent_pte(kvm, sp, sptep)
    if (sp.unsync or sp.unsync_children) and kvm.design.defect != DEFECT_LINK_UNMARKED:
        mark_unsync(kvm, sptep)
