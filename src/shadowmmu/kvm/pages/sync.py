"""Syncing shadow pages with the guest's tables (mmu.c, paging_tmpl.h, 6.12.111)."""

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...x86.bits import ACC_W, ADDR, PS, A, D, P
from ..bits import (
    DEFECT_INVLPG_FLUSHES_LOCALLY,
    DEFECT_RESERVED_PREFETCHED,
    DEFECT_SYNC_UNFLUSHED,
    DEFECT_SYNC_WRITABLE,
    INVALID_PAGE,
    MAKE_CAN_UNSYNC,
    MAKE_HOST_WRITABLE,
    MAKE_PREFETCH,
    MMIO_GVA_ANY,
    NUM_PREV_ROOTS,
    ROLE_4BYTE_GPTE,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_DIRECT,
    ROLE_LEVEL,
    ROLE_PASSTHROUGH,
    ROLE_QUADRANT,
    ROLE_QUADRANT_SHIFT,
    SPTE_MMU_PRESENT,
)
from ..guest_access.guest_walk import gpte_access, is_rsvd_bits_set, read_gpte_atomic
from ..spte.flush import kvm_flush_remote_tlbs
from ..spte.make_spte import make_spte
from ..spte.mmio import get_mmio_spte_gfn, is_mmio_spte, mark_mmio_spte, vcpu_clear_mmio_info
from ..spte.rmap import drop_spte
from ..spte.spte import (
    mmu_spte_clear_no_track,
    mmu_spte_update,
    page_access,
    page_gfn,
    set_page_translation,
    spte_to_pfn,
)
from ..spte.unsync import UnsyncWalk, kvm_unlink_unsync_page
from ..state.fault import LeafSpte
from ..state.memslots import MemSlot
from ..state.mmu import KvmMmu
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .walk_start import first_table
from .write_protect import kvm_mmu_slot_gfn_write_protect
from .zap import kvm_mmu_prepare_zap_page, kvm_mmu_remote_flush_or_zap, mmu_page_zap_pte


def prefetch_invalid_gpte(kvm: Kvm, mmu: KvmMmu, sptep: u64, gpte: u64) -> bool:
    """Return whether a gpte must not be mapped without a fault; then its SPTE is dropped."""
    if (
        gpte & P
        and gpte & A
        and (not is_rsvd_bits_set(mmu, gpte, 1) or kvm.design.defect == DEFECT_RESERVED_PREFETCHED)
    ):
        return False
    drop_spte(kvm, sptep)
    return True


def shadowed_access(sp: ShadowPage, gpte: u64) -> u32:
    """Return the ACC_* that a leaf gpte grants below `sp`; without Dirty a gpte is read-only."""
    access: u32 = ((sp.role & ROLE_ACCESS) >> ROLE_ACCESS_SHIFT) & gpte_access(gpte)
    if not gpte & D:
        access &= ~ACC_W
    return access


def level1_gpte_gpa(sp: ShadowPage, index: u32) -> u64:
    """Return the gpa of the gpte that SPTE `index` of a leaf page shadows."""
    wide: u64 = index
    if sp.role & ROLE_4BYTE_GPTE:
        quadrant: u64 = (sp.role & ROLE_QUADRANT) >> ROLE_QUADRANT_SHIFT
        return (sp.gfn << 12) + ((quadrant << 9) + wide) * 4
    return (sp.gfn << 12) + wide * 8


def _sync_mmio_spte(kvm: Kvm, sptep: u64, gfn: u64, access: u32) -> bool:
    """Rebuild an MMIO SPTE with the gpte's access, or empty it if the gpte has another gfn. Return False if
    the SPTE is not an MMIO SPTE.
    """
    spte: u64 = kvm.words[sptep >> 3]
    if not is_mmio_spte(kvm, spte):
        return False
    if gfn != get_mmio_spte_gfn(kvm, spte):
        mmu_spte_clear_no_track(kvm, sptep)
    else:
        mark_mmio_spte(kvm, sptep, gfn, access)
    return True


def sync_spte(vcpu: Vcpu, sp: ShadowPage, index: u32) -> i64:
    """Sync one SPTE with its gpte. Return -1: the gpte cannot be read, 1: a flush is needed, 0: no flush.

    An SPTE stays only if the gpte still maps the same gfn; new translations are never installed.
    """
    kvm: Kvm = vcpu.kvm
    sptep: u64 = sp.spt + index * 8
    spte: u64 = kvm.words[sptep >> 3]
    if spte == kvm.design.empty_spte:
        return 0
    four_byte: u32 = sp.role & ROLE_4BYTE_GPTE
    if not read_gpte_atomic(kvm, level1_gpte_gpa(sp, index), four_byte, vcpu.walker):
        return -1
    gpte: u64 = vcpu.walker.prefetch_ptes[0]
    if prefetch_invalid_gpte(kvm, vcpu.mmu, sptep, gpte):
        return 1
    gfn: u64 = (gpte & ADDR) >> 12
    access: u32 = shadowed_access(sp, gpte)
    if _sync_mmio_spte(kvm, sptep, gfn, access):
        return 0
    if gfn != page_gfn(kvm, sp, index):
        drop_spte(kvm, sptep)
        return 1
    if page_access(kvm, sp, index) == access and not kvm.design.sync_always_rebuilds:
        return 0
    set_page_translation(kvm, sp, index, gfn, access)
    slot: MemSlot = kvm.memslot_of(gfn)
    flags: u32 = MAKE_PREFETCH
    if kvm.design.defect == DEFECT_SYNC_WRITABLE:
        flags |= MAKE_CAN_UNSYNC
    if spte & kvm.shadow_host_writable_mask:
        flags |= MAKE_HOST_WRITABLE
    leaf: LeafSpte = vcpu.leaf
    make_spte(kvm, leaf, sp, slot, access, gfn, spte_to_pfn(spte), spte, flags)
    return 1 if mmu_spte_update(kvm, sptep, leaf.spte) else 0


def kvm_sync_page_check(vcpu: Vcpu, sp: ShadowPage) -> bool:
    """Return whether `sp` shadows tables of the vCPU's current paging mode, so that its gptes can be read."""
    ignored: u32 = ROLE_LEVEL | ROLE_ACCESS | ROLE_QUADRANT | ROLE_PASSTHROUGH
    if sp.role & ROLE_DIRECT or vcpu.mmu.direct():
        return False
    return (sp.role ^ vcpu.mmu.root_role) & ~ignored == 0


def kvm_sync_page(vcpu: Vcpu, sp: ShadowPage, invalid_list: list[ShadowPage]) -> i64:
    """Sync all SPTEs of a leaf page. Return -1: it had to be zapped (into the list), 1: a flush is needed,
    else 0.

    It neither write-protects the guest table nor clears `unsync`.
    """
    result: i64 = 0
    if kvm_sync_page_check(vcpu, sp):
        i: u32
        for i in range(512):
            result |= sync_spte(vcpu, sp, i)
    else:
        result = -1
    if result < 0:
        kvm_mmu_prepare_zap_page(vcpu.kvm, sp, invalid_list)
    elif vcpu.kvm.design.defect == DEFECT_SYNC_UNFLUSHED:
        result = 0
    return result


def kvm_vcpu_write_protect_gfn(kvm: Kvm, gfn: u64) -> bool:
    """Write-protect a shadowed guest table. Return whether a flush is needed."""
    return kvm_mmu_slot_gfn_write_protect(kvm, kvm.memslot_of(gfn), gfn, 1)


def mmu_sync_children(vcpu: Vcpu, parent: ShadowPage) -> None:
    """Sync every unsync page below `parent` and write-protect its guest table again.

    Protection and its flush come before `unsync` is cleared, and that before the gptes are read.
    """
    kvm: Kvm = vcpu.kvm
    invalid_list: list[ShadowPage] = []
    flush: u32 = 0
    walk: UnsyncWalk = UnsyncWalk(kvm)
    sp: ShadowPage | None
    while walk.collect(parent):
        protected: u32 = 0
        sp = walk.first_leaf()
        while sp is not None:
            protected |= kvm_vcpu_write_protect_gfn(kvm, sp.gfn)
            sp = walk.next_leaf()
        if protected:
            kvm_mmu_remote_flush_or_zap(kvm, invalid_list, 1)
            flush = 0
        sp = walk.first_leaf()
        while sp is not None:
            kvm_unlink_unsync_page(kvm, sp)
            if kvm_sync_page(vcpu, sp, invalid_list) > 0:
                flush = 1
            walk.clear_parents()
            sp = walk.next_leaf()
    kvm_mmu_remote_flush_or_zap(kvm, invalid_list, flush)


def kvm_mmu_sync_roots(vcpu: Vcpu) -> None:
    """Sync what the current root reaches; nothing for a direct MMU, no root or the dummy root."""
    mmu: KvmMmu = vcpu.mmu
    kvm: Kvm = vcpu.kvm
    if mmu.direct() or mmu.root_hpa == INVALID_PAGE:
        return
    vcpu_clear_mmio_info(vcpu, MMIO_GVA_ANY)
    if mmu.root_hpa == 0:
        return
    if not mmu.root_is_special():
        root: ShadowPage = kvm.sptep_to_sp(mmu.root_hpa)
        if root.unsync or root.unsync_children:
            mmu_sync_children(vcpu, root)
        return
    i: u32
    for i in range(4):
        entry: u64 = kvm.words[(mmu.pae_root >> 3) + i]
        if entry & P:
            mmu_sync_children(vcpu, kvm.sptep_to_sp(entry & ADDR))


def unsync_prev_roots(vcpu: Vcpu) -> u32:
    """Return a mask of the previous roots that are unsync or reach unsync pages (bit 1 + i)."""
    mask: u32 = 0
    i: u32
    for i in range(NUM_PREV_ROOTS):
        hpa: u64 = vcpu.mmu.prev_hpa[i]
        if hpa != INVALID_PAGE:
            sp: ShadowPage = vcpu.kvm.sptep_to_sp(hpa)
            if sp.unsync or sp.unsync_children:
                mask |= 2 << i
    return mask


def sync_on_invlpg(vcpu: Vcpu, mmu: KvmMmu, addr: u64, root_hpa: u64) -> None:
    """Sync the SPTE for addr in every unsync page on the way from a root (__kvm_mmu_invalidate_addr)."""
    kvm: Kvm = vcpu.kvm
    vcpu_clear_mmio_info(vcpu, addr)
    table: u64 = first_table(kvm, mmu, addr, root_hpa)
    while table:
        sp: ShadowPage = kvm.sptep_to_sp(table)
        level: u32 = sp.role & ROLE_LEVEL
        index: u32 = (addr >> (12 + 9 * (level - 1))) & 511
        sptep: u64 = table + index * 8
        if sp.unsync:
            result: i64 = sync_spte(vcpu, sp, index)
            if result < 0:
                mmu_page_zap_pte(kvm, sp, sptep, None)
            if result and kvm.design.defect != DEFECT_INVLPG_FLUSHES_LOCALLY:
                kvm_flush_remote_tlbs(kvm)
        if not sp.unsync_children:
            return
        spte: u64 = kvm.words[sptep >> 3]
        if level == 1 or not spte & SPTE_MMU_PRESENT or spte & PS:
            return
        table = spte & ADDR
