"""Roots: loading them, the cache of previous ones, freeing them (arch/x86/kvm/mmu/mmu.c, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR, CR4_PCIDE, PCID_MASK, A, P, U, W
from ..bits import (
    DEFECT_OBSOLETE_PREV_ROOT,
    INVALID_PAGE,
    MMIO_GVA_ANY,
    NUM_PREV_ROOTS,
    PT64_ROOT_4LEVEL,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_SYNC,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TRIPLE_FAULT,
    ROLE_4BYTE_GPTE,
    ROLE_DIRECT,
    ROLE_INVALID,
    ROLE_LEVEL,
    ROLE_QUADRANT_SHIFT,
    ROOTS_ALL,
)
from ..guest_access.guest_walk import get_pdptr
from ..spte.mmio import vcpu_clear_mmio_info
from ..state.mmu import KvmMmu
from ..state.shadow_page import ShadowPage
from ..state.table import clear_translations
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from ..tdp.roots import kvm_tdp_mmu_alloc_root, kvm_tdp_mmu_put_root
from .get_page import kvm_mmu_get_shadow_page
from .role import kvm_init_mmu
from .special_root import alloc_special_root, free_special_root
from .sync import kvm_mmu_sync_roots
from .zap import kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page, make_mmu_pages_available

ROOT_CURRENT = 1


class NoShadowPages(MemoryError):
    """No shadow page can be allocated for a root: KVM_RUN fails with ENOSPC."""


def root_to_sp(vcpu: Vcpu, hpa: u64) -> ShadowPage | None:
    """Return the shadow page of a root; None for a special root, the dummy root and INVALID_PAGE."""
    if hpa == INVALID_PAGE or hpa == 0:
        return None
    return vcpu.kvm.page_at(hpa)


# -- loading -----------------------------------------------------------------------------------------


def _alloc_root(vcpu: Vcpu, gfn: u64, role: u32) -> u64:
    """Return the address of the page for gfn and role, with a root reference taken."""
    sp: ShadowPage = kvm_mmu_get_shadow_page(vcpu, gfn, role)
    sp.root_count += 1
    return sp.spt


def _directory_role(mmu: KvmMmu, quadrant: u32) -> u32:
    """Return the role of one of the four directories of a three-level shadow."""
    role: u32 = (mmu.root_role & ~ROLE_LEVEL) | 2
    return role | quadrant << ROLE_QUADRANT_SHIFT if role & ROLE_4BYTE_GPTE else role


def mmu_alloc_direct_roots(vcpu: Vcpu) -> None:
    """Load a root that maps guest-physical memory: one page for four and five levels, else four directories
    for the first 4 GiB. Raises NoShadowPages.
    """
    mmu: KvmMmu = vcpu.mmu
    if vcpu.kvm.tdp_mmu_enabled():
        kvm_tdp_mmu_alloc_root(vcpu)
        return
    if not make_mmu_pages_available(vcpu.kvm):
        raise NoShadowPages("no shadow page left for the root")
    if mmu.shadow_level() >= PT64_ROOT_4LEVEL:
        mmu.root_hpa = _alloc_root(vcpu, 0, mmu.root_role)
        mmu.root_pgd = 0
        return
    if vcpu.kvm.design.special_roots:
        mmu.root_hpa = alloc_special_root(vcpu)
        mmu.root_pgd = 0
        return
    i: u64
    for i in range(4):
        root: u64 = _alloc_root(vcpu, i << 18, _directory_role(mmu, 0))
        vcpu.kvm.words[(mmu.pae_root >> 3) + i] = root | P
    mmu.root_hpa = mmu.pae_root
    mmu.root_pgd = 0


def _is_root_visible(vcpu: Vcpu, root_gfn: u64) -> bool:
    """Return whether a memslot holds the guest's root and, in designs that look, all directories of a PAE
    guest.
    """
    kvm: Kvm = vcpu.kvm
    mmu: KvmMmu = vcpu.mmu
    if kvm.visible_memslot(root_gfn) is None:
        return False
    if not kvm.design.invisible_root_is_triple_fault or mmu.guest_level() != 3:
        return True
    i: u32
    for i in range(4):
        if mmu.pdptrs[i] & P and kvm.visible_memslot((mmu.pdptrs[i] & ADDR) >> 12) is None:
            return False
    return True


def mmu_alloc_shadow_roots(vcpu: Vcpu) -> None:
    """Load a root that shadows guest tables: one page for four and five levels, else the four directories.

    A root that no memslot holds gives the dummy root (the zero page), on which every walk ends at once; in
    other kernels it is a triple fault. Raises NoShadowPages.
    """
    kvm: Kvm = vcpu.kvm
    mmu: KvmMmu = vcpu.mmu
    pgd: u64 = vcpu.guest_pgd(mmu)
    root_gfn: u64 = (pgd & ADDR) >> 12
    if not _is_root_visible(vcpu, root_gfn):
        if kvm.design.invisible_root_is_triple_fault:
            vcpu.requests |= REQ_TRIPLE_FAULT
        else:
            mmu.root_hpa = 0
        return
    kvm.shadow_root_allocated = True
    if not make_mmu_pages_available(kvm):
        raise NoShadowPages("no shadow page left for the root")
    if mmu.guest_level() >= PT64_ROOT_4LEVEL:
        mmu.root_hpa = _alloc_root(vcpu, root_gfn, mmu.root_role)
        mmu.root_pgd = pgd
        return
    if kvm.design.special_roots:
        mmu.root_hpa = alloc_special_root(vcpu)
        mmu.root_pgd = pgd
        return
    flags: u64 = P
    if mmu.shadow_level() >= PT64_ROOT_4LEVEL:
        flags |= W | U | A
        _link_special_tables(kvm, mmu, flags)
    i: u32
    for i in range(4):
        gfn: u64 = root_gfn
        if mmu.guest_level() == 3:
            pdpte: u64 = get_pdptr(vcpu, mmu, i)
            gfn = (pdpte & ADDR) >> 12
            if not pdpte & P or kvm.visible_memslot(gfn) is None:
                kvm.words[(mmu.pae_root >> 3) + i] = 0
                continue
        kvm.words[(mmu.pae_root >> 3) + i] = _alloc_root(vcpu, gfn, _directory_role(mmu, i)) | flags
    mmu.root_hpa = mmu.special_root()
    mmu.root_pgd = pgd


def mmu_alloc_special_roots(kvm: Kvm, mmu: KvmMmu) -> None:
    """Allocate the tables above the four directories that an MMU needs if its shadow has more levels than the
    guest.
    """
    if mmu.direct() or mmu.guest_level() >= PT64_ROOT_4LEVEL or mmu.shadow_level() < PT64_ROOT_4LEVEL:
        return
    if kvm.design.special_roots:
        return
    if not mmu.pae_root:
        mmu.pae_root = _zeroed_table(kvm)
        mmu.pml4_root = _zeroed_table(kvm)
        if mmu.shadow_level() > PT64_ROOT_4LEVEL:
            mmu.pml5_root = _zeroed_table(kvm)


def _zeroed_table(kvm: Kvm) -> u64:
    """Return the address of a new table of zeros."""
    table: u64 = kvm.arena.alloc_table()
    clear_translations(kvm, table)
    return table


def _link_special_tables(kvm: Kvm, mmu: KvmMmu, flags: u64) -> None:
    """Link the special tables of an MMU: entry 0 of each points to the one below."""
    kvm.words[mmu.pml4_root >> 3] = mmu.pae_root | flags
    if mmu.pml5_root:
        kvm.words[mmu.pml5_root >> 3] = mmu.pml4_root | flags


def kvm_mmu_load(vcpu: Vcpu) -> None:
    """Load a root, sync what it reaches, and give it to the processor with an empty TLB. Raises
    NoShadowPages.

    If it requests a triple fault instead, the MMU has no root.
    """
    vcpu.shadow_page_cache.top_up(5)
    mmu_alloc_special_roots(vcpu.kvm, vcpu.mmu)
    if vcpu.mmu.direct():
        mmu_alloc_direct_roots(vcpu)
    else:
        vcpu.translation_cache.top_up(5)
        mmu_alloc_shadow_roots(vcpu)
        if vcpu.mmu.root_hpa == INVALID_PAGE:
            return
    kvm_mmu_sync_roots(vcpu)
    kvm_mmu_load_pgd(vcpu)
    vcpu.cpu.flush_all()


def kvm_mmu_load_pgd(vcpu: Vcpu) -> None:
    """Point the processor at the current root, with shadow paging under the guest's PCID."""
    if vcpu.mmu.root_hpa == INVALID_PAGE:
        return
    if vcpu.kvm.parameters.tdp_enabled:
        vcpu.cpu.nested_root = vcpu.mmu.root_hpa
        vcpu.cpu.root = vcpu.cr3
    else:
        vcpu.cpu.root = vcpu.mmu.root_hpa
        vcpu.cpu.pcid = vcpu.cr3 & PCID_MASK if vcpu.cr4 & CR4_PCIDE else 0


# -- freeing -----------------------------------------------------------------------------------------


def _free_root_page(kvm: Kvm, hpa: u64, invalid_list: list[ShadowPage]) -> None:
    """Drop a root reference to the page at hpa; a zapped page is put on the list when the last is dropped."""
    sp: ShadowPage = kvm.sptep_to_sp(hpa)
    if sp.tdp_mmu_page:
        kvm_tdp_mmu_put_root(kvm, sp)
        return
    if sp.special:
        free_special_root(kvm, sp)
        return
    sp.root_count -= 1
    if not sp.root_count and sp.role & ROLE_INVALID:
        kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)


def kvm_mmu_free_roots(kvm: Kvm, mmu: KvmMmu, roots: u32) -> None:
    """Free roots of an MMU: bit 0 the current one, bit 1 + i previous root i.

    A root that was zapped while it was in use is freed; a valid one stays in the hash.
    """
    invalid_list: list[ShadowPage] = []
    i: u32
    for i in range(NUM_PREV_ROOTS):
        if roots & (2 << i) and mmu.prev_hpa[i] != INVALID_PAGE:
            _free_root_page(kvm, mmu.prev_hpa[i], invalid_list)
            mmu.prev_hpa[i] = INVALID_PAGE
    if roots & ROOT_CURRENT and mmu.root_hpa != INVALID_PAGE:
        if mmu.root_is_special():
            for i in range(4):
                entry: u64 = kvm.words[(mmu.pae_root >> 3) + i]
                if entry & P:
                    _free_root_page(kvm, entry & ADDR, invalid_list)
                    kvm.words[(mmu.pae_root >> 3) + i] = 0
        elif mmu.root_hpa:
            _free_root_page(kvm, mmu.root_hpa, invalid_list)
        mmu.root_hpa = INVALID_PAGE
        mmu.root_pgd = 0
    kvm_mmu_commit_zap_page(kvm, invalid_list)


def _is_obsolete_root(vcpu: Vcpu, hpa: u64) -> bool:
    """Return whether a root must be freed: its page is obsolete, or it is a special or the dummy root."""
    if hpa == INVALID_PAGE:
        return False
    sp: ShadowPage | None = root_to_sp(vcpu, hpa)
    return sp is None or vcpu.kvm.is_obsolete(sp)


def kvm_mmu_free_obsolete_roots(vcpu: Vcpu) -> None:
    """Free the roots that a zap made obsolete; special and dummy roots always."""
    _free_obsolete_roots(vcpu, vcpu.root_mmu)
    _free_obsolete_roots(vcpu, vcpu.guest_mmu)


def _free_obsolete_roots(vcpu: Vcpu, mmu: KvmMmu) -> None:
    """Free the obsolete roots of one MMU."""
    mask: u32 = ROOT_CURRENT if _is_obsolete_root(vcpu, mmu.root_hpa) else 0
    i: u32
    for i in range(NUM_PREV_ROOTS):
        looks_at_current: bool = vcpu.kvm.design.defect == DEFECT_OBSOLETE_PREV_ROOT
        if _is_obsolete_root(vcpu, mmu.root_hpa if looks_at_current else mmu.prev_hpa[i]):
            mask |= 2 << i
    kvm_mmu_free_roots(vcpu.kvm, mmu, mask)


def kvm_mmu_unload(vcpu: Vcpu) -> None:
    """Free all roots, and clear the record of the last MMIO access."""
    kvm_mmu_free_roots(vcpu.kvm, vcpu.root_mmu, ROOTS_ALL)
    kvm_mmu_free_roots(vcpu.kvm, vcpu.guest_mmu, ROOTS_ALL)
    vcpu_clear_mmio_info(vcpu, MMIO_GVA_ANY)


def kvm_mmu_reset_context(vcpu: Vcpu) -> None:
    """Unload the MMU and compute its roles again, because a register that is part of the role changed."""
    kvm_mmu_unload(vcpu)
    kvm_init_mmu(vcpu)


# -- another CR3 -------------------------------------------------------------------------------------


def _is_root_usable(vcpu: Vcpu, hpa: u64, pgd: u64, new_pgd: u64) -> bool:
    """Return whether a root has the current role and is of new_pgd; direct roots are of any."""
    if hpa == INVALID_PAGE:
        return False
    sp: ShadowPage | None = root_to_sp(vcpu, hpa)
    if sp is None or sp.role != vcpu.mmu.root_role:
        return False
    return vcpu.mmu.root_role & ROLE_DIRECT != 0 or pgd == new_pgd


def _swap_with_prev(mmu: KvmMmu, i: u32) -> None:
    """Exchange the current root with previous root i."""
    hpa: u64 = mmu.root_hpa
    pgd: u64 = mmu.root_pgd
    mmu.root_hpa = mmu.prev_hpa[i]
    mmu.root_pgd = mmu.prev_pgd[i]
    mmu.prev_hpa[i] = hpa
    mmu.prev_pgd[i] = pgd


def _find_and_keep_current(vcpu: Vcpu, new_pgd: u64) -> bool:
    """Make a cached root for new_pgd current; the old current root becomes the first previous one. Return
    whether there is such a root.
    """
    mmu: KvmMmu = vcpu.mmu
    if _is_root_usable(vcpu, mmu.root_hpa, mmu.root_pgd, new_pgd):
        return True
    i: u32
    for i in range(NUM_PREV_ROOTS):
        _swap_with_prev(mmu, i)
        if _is_root_usable(vcpu, mmu.root_hpa, mmu.root_pgd, new_pgd):
            return True
    kvm_mmu_free_roots(vcpu.kvm, mmu, ROOT_CURRENT)
    return False


def _find_without_current(vcpu: Vcpu, new_pgd: u64) -> bool:
    """Make a cached root for new_pgd current, where there is no current one. Return whether there is such a
    root.
    """
    mmu: KvmMmu = vcpu.mmu
    i: u32
    j: u32
    for i in range(NUM_PREV_ROOTS):
        if _is_root_usable(vcpu, mmu.prev_hpa[i], mmu.prev_pgd[i], new_pgd):
            _swap_with_prev(mmu, i)
            for j in range(i, NUM_PREV_ROOTS - 1):
                mmu.prev_hpa[j] = mmu.prev_hpa[j + 1]
                mmu.prev_pgd[j] = mmu.prev_pgd[j + 1]
            mmu.prev_hpa[NUM_PREV_ROOTS - 1] = INVALID_PAGE
            return True
    return False


def fast_pgd_switch(vcpu: Vcpu, new_pgd: u64) -> bool:
    """Make a cached root for new_pgd current. Return False if there is none; PAE and dummy roots are not
    cached.
    """
    mmu: KvmMmu = vcpu.mmu
    if mmu.root_hpa != INVALID_PAGE:
        current: ShadowPage | None = root_to_sp(vcpu, mmu.root_hpa)
        if current is None or current.special:
            kvm_mmu_free_roots(vcpu.kvm, mmu, ROOT_CURRENT)
    if mmu.root_hpa != INVALID_PAGE:
        return _find_and_keep_current(vcpu, new_pgd)
    return _find_without_current(vcpu, new_pgd)


def kvm_mmu_new_pgd(vcpu: Vcpu, new_pgd: u64) -> None:
    """Switch to another CR3, or nested CR3; without a cached root the next VM entry loads one."""
    if not fast_pgd_switch(vcpu, new_pgd):
        return
    vcpu.requests |= REQ_LOAD_MMU_PGD
    if vcpu.kvm.parameters.flush_on_reuse:
        vcpu.requests |= REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT
    vcpu_clear_mmio_info(vcpu, MMIO_GVA_ANY)
    if not vcpu.mmu.direct():
        vcpu.kvm.sptep_to_sp(vcpu.mmu.root_hpa).write_flooding_count = 0
