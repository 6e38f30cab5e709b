"""Page faults: from the intercepted fault to RET_PF_* (kvm_mmu_page_fault,
arch/x86/kvm/mmu/mmu.c, 6.12.111).
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import (
    ACC_ALL,
    ACC_U,
    ACC_W,
    ACC_X,
    ADDR,
    MASK64,
    PFERR_F,
    PFERR_GUEST_PAGE,
    PFERR_P,
    PFERR_RSVD,
    PFERR_U,
    PFERR_W,
)
from ..bits import (
    DEFECT_MMU_SEQ_SIGNED,
    EMULTYPE_ALLOW_RETRY_PF,
    EMULTYPE_PF,
    EMULTYPE_WRITE_PF_TO_SP,
    EXT_CR4_SMEP,
    INVALID_PAGE,
    MEM_READONLY,
    MEMSLOT_INVALID,
    NO_PFN,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    RET_PF_CONTINUE,
    RET_PF_EFAULT,
    RET_PF_EMULATE,
    RET_PF_ENOSPC,
    RET_PF_FIXED,
    RET_PF_INVALID,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    RET_PF_WRITE_PROTECTED,
    ROLE_CR0_WP,
)
from ..guest_access.guest_memory import fault_in_page
from ..guest_access.guest_walk import walk_addr
from ..guest_access.mark_dirty import kvm_release_page_dirty
from ..map.direct_map import direct_map
from ..map.fetch import fetch
from ..pages.unprotect import kvm_mmu_unprotect_gfn, kvm_mmu_unprotect_gfn_and_retry
from ..pages.write_flooding import shadow_page_table_clear_flood
from ..pages.zap import make_mmu_pages_available
from ..registers.inject import kvm_inject_page_fault
from ..spte.huge_page import pages_per_hpage
from ..spte.mmio import (
    check_mmio_spte,
    get_mmio_spte_access,
    get_mmio_spte_gfn,
    is_mmio_spte,
    mmio_info_in_cache,
    vcpu_cache_mmio_info,
)
from ..state.fault import GuestWalker, PageFault
from ..state.memslots import MemSlot
from ..state.mmu import KvmMmu
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from ..tdp.map import kvm_tdp_mmu_map
from .fast_fault import fast_page_fault, last_sptep_lockless

TABLE_WRITE = PFERR_GUEST_PAGE | PFERR_W | PFERR_P
"""Error code of the processor's walk of guest tables through write-protected nested tables."""


def handle_mmio_page_fault(vcpu: Vcpu, addr: u64) -> u32:
    """Handle a fault with RSVD. Return RET_PF_EMULATE, RET_PF_INVALID (the generation is stale) or
    RET_PF_RETRY (the SPTE is not an MMIO SPTE any more).
    """
    kvm: Kvm = vcpu.kvm
    if kvm.design.vcpu_mmio_cache and mmio_info_in_cache(vcpu, addr):
        return RET_PF_EMULATE
    sptep: u64 = last_sptep_lockless(vcpu, addr)
    spte: u64 = kvm.words[sptep >> 3] if sptep else 0
    if not is_mmio_spte(kvm, spte):
        return RET_PF_RETRY
    gfn: u64 = get_mmio_spte_gfn(kvm, spte)
    access: u32 = get_mmio_spte_access(kvm, spte)
    if not check_mmio_spte(kvm, spte):
        return RET_PF_INVALID
    if vcpu.mmu.direct():
        addr = 0
    if kvm.tracing:
        kvm.tracer.handle_mmio_page_fault(addr, gfn, access)
    vcpu_cache_mmio_info(vcpu, addr, gfn, access)
    return RET_PF_EMULATE


def _page_fault_handle_page_track(kvm: Kvm, fault: PageFault) -> bool:
    """Return whether the fault writes to a present page that holds a shadowed upper-level table."""
    if fault.rsvd or not fault.present or not fault.write or fault.slot is None:
        return False
    return kvm.write_tracked(fault.slot, fault.gfn)


SHORT_SEQ_SIGN = 1 << 3
"""Sign bit of the sequence's copy where that is too short (DEFECT_MMU_SEQ_SIGNED): bit 31 in KVM."""


def _sign_extended(seq: u64) -> u64:
    """Return a copy of the sequence in a signed type that is too short for it."""
    low: u64 = seq & (2 * SHORT_SEQ_SIGN - 1)
    return low | MASK64 & ~(2 * SHORT_SEQ_SIGN - 1) if low & SHORT_SEQ_SIGN else low


def mmu_invalidate_retry(kvm: Kvm, fault: PageFault) -> bool:
    """Return whether the host invalidated memory that the fault may have seen before
    (mmu_invalidate_retry_gfn).
    """
    if (
        kvm.mmu_invalidate_in_progress
        and kvm.mmu_invalidate_start <= fault.gfn
        and fault.gfn < kvm.mmu_invalidate_end
    ):
        return True
    return kvm.mmu_invalidate_seq != fault.mmu_seq


def kvm_handle_noslot_fault(vcpu: Vcpu, fault: PageFault, access: u32) -> u32:
    """Record an MMIO access where no memslot is. Return RET_PF_CONTINUE if an MMIO SPTE can hold the address,
    else RET_PF_EMULATE.
    """
    vcpu_cache_mmio_info(vcpu, 0 if fault.is_tdp else fault.addr, fault.gfn, access & (ACC_W | ACC_U))
    if not vcpu.kvm.enable_mmio_caching or fault.gfn > vcpu.kvm.max_gfn():
        return RET_PF_EMULATE
    fault.slot = None
    fault.pfn = NO_PFN
    fault.map_writable = False
    return RET_PF_CONTINUE


def kvm_faultin_pfn(vcpu: Vcpu, fault: PageFault, access: u32) -> u32:
    """Find the host page of fault.gfn. Return RET_PF_CONTINUE with pfn and map_writable set, or the RET_PF_*
    of the fault.
    """
    kvm: Kvm = vcpu.kvm
    slot: MemSlot | None = fault.slot
    fault.mmu_seq = kvm.mmu_invalidate_seq
    if slot is None:
        return kvm_handle_noslot_fault(vcpu, fault, access)
    early: bool = kvm.design.early_invalidation_check != 0
    if slot.flags & MEMSLOT_INVALID or (early and mmu_invalidate_retry(kvm, fault)):
        return RET_PF_RETRY
    index: u64 = slot.page_index(fault.gfn)
    writable: bool = not slot.flags & MEM_READONLY
    if fault.write and not writable:
        return RET_PF_EMULATE
    page: u64 = slot.mapping.fast_page(index, 1) if writable else 0
    fault.map_writable = page != 0
    if page == 0:
        page = fault_in_page(slot, index, fault.write)
        if page == 0:
            return RET_PF_EFAULT
        fault.map_writable = writable and slot.mapping.fast_page(index, 1) != 0
    fault.pfn = (page & ADDR) >> 12
    if early and mmu_invalidate_retry(kvm, fault):
        return RET_PF_RETRY
    return RET_PF_CONTINUE


def is_page_fault_stale(vcpu: Vcpu, fault: PageFault) -> bool:
    """Return whether the root was zapped, or the host page invalidated, since the fault began."""
    mmu: KvmMmu = vcpu.mmu
    if mmu.root_is_special() or mmu.root_hpa == 0:
        if vcpu.requests & REQ_MMU_FREE_OBSOLETE_ROOTS:
            return True
    elif vcpu.kvm.is_obsolete(vcpu.kvm.sptep_to_sp(mmu.root_hpa)):
        return True
    if vcpu.kvm.design.defect == DEFECT_MMU_SEQ_SIGNED:
        fault.mmu_seq = _sign_extended(fault.mmu_seq)
    return fault.slot is not None and mmu_invalidate_retry(vcpu.kvm, fault)


def _prepare_to_map(vcpu: Vcpu, fault: PageFault) -> u32:
    """Return RET_PF_CONTINUE if there is room for new pages and the fault is not stale, else RET_PF_*.
    mmu_lock is held.
    """
    first: bool = vcpu.kvm.design.stale_check_before_recycling != 0
    if first and is_page_fault_stale(vcpu, fault):
        return RET_PF_RETRY
    if not make_mmu_pages_available(vcpu.kvm):
        return RET_PF_ENOSPC
    if not first and is_page_fault_stale(vcpu, fault):
        return RET_PF_RETRY
    return RET_PF_CONTINUE


def mmu_topup_memory_caches(vcpu: Vcpu, maybe_indirect: u32) -> int:
    """Set frames aside for what one fault may need."""
    vcpu.shadow_page_cache.top_up(5)
    if maybe_indirect:
        vcpu.translation_cache.top_up(5)
    return 0


def _direct_faultin(vcpu: Vcpu, fault: PageFault) -> u32:
    """Do what comes before mmu_lock where fault addresses are gpas. Return RET_PF_CONTINUE if the page can be
    mapped.
    """
    if _page_fault_handle_page_track(vcpu.kvm, fault):
        return RET_PF_WRITE_PROTECTED
    result: u32 = fast_page_fault(vcpu, fault)
    if result != RET_PF_INVALID:
        return result
    mmu_topup_memory_caches(vcpu, 0)
    return kvm_faultin_pfn(vcpu, fault, ACC_ALL)


def direct_page_fault(vcpu: Vcpu, fault: PageFault) -> u32:
    """Handle a fault of a guest without paging, or a nested page fault without the TDP MMU.
    Return RET_PF_*.
    """
    result: u32 = _direct_faultin(vcpu, fault)
    if result == RET_PF_CONTINUE:
        result = _prepare_to_map(vcpu, fault)
    return direct_map(vcpu, fault) if result == RET_PF_CONTINUE else result


def _is_self_change_mapping(vcpu: Vcpu, fault: PageFault, w: GuestWalker) -> bool:
    """Return whether the guest's page holds a table of its own walk and can be written.

    If a table is in the very frame, mark the fault as a write to a shadowed table.
    FNAME(is_self_change_mapping), 6.1.176.
    """
    if not w.pte_access & ACC_W and (vcpu.mmu.cpu_role & ROLE_CR0_WP or fault.user):
        return False
    inside: bool = False
    level: u32
    for level in range(w.level, w.max_level + 1):
        distance: u64 = w.gfn ^ w.table_gfn[level - 1]
        if distance < pages_per_hpage(w.level):
            inside = True
        if distance == 0:
            fault.write_fault_to_shadow_pgtable = True
    return inside


def kvm_tdp_mmu_page_fault(vcpu: Vcpu, fault: PageFault) -> u32:
    """Handle a nested page fault with the TDP MMU; mmu_lock is held for reading from the stale check on.
    Return RET_PF_*.
    """
    result: u32 = _direct_faultin(vcpu, fault)
    if result != RET_PF_CONTINUE:
        return result
    return RET_PF_RETRY if is_page_fault_stale(vcpu, fault) else kvm_tdp_mmu_map(vcpu, fault)


def paging_page_fault(vcpu: Vcpu, fault: PageFault) -> u32:
    """Handle a fault of a paging guest: walk its tables, then shadow them (FNAME(page_fault)). Return
    RET_PF_*.
    """
    kvm: Kvm = vcpu.kvm
    mmu: KvmMmu = vcpu.mmu
    w: GuestWalker = vcpu.walker
    if not walk_addr(vcpu, mmu, w, fault.addr, fault.error_code & ~PFERR_RSVD):
        kvm_inject_page_fault(vcpu, fault.addr, w.error_code)
        return RET_PF_RETRY
    fault.gfn = w.gfn
    fault.max_level = w.level
    fault.slot = kvm.gfn_to_memslot(fault.gfn)
    if _page_fault_handle_page_track(kvm, fault):
        shadow_page_table_clear_flood(vcpu, fault.addr)
        return RET_PF_WRITE_PROTECTED
    mmu_topup_memory_caches(vcpu, 1)
    if kvm.design.self_map_test_before_fetch and _is_self_change_mapping(vcpu, fault, w):
        fault.max_level = 1
    result: u32 = kvm_faultin_pfn(vcpu, fault, w.pte_access)
    if result != RET_PF_CONTINUE:
        return result
    if (
        fault.write
        and not w.pte_access & ACC_W
        and not mmu.cpu_role & ROLE_CR0_WP
        and not fault.user
        and fault.slot is not None
    ):
        w.pte_access = (w.pte_access | ACC_W) & ~ACC_U
        if mmu.cpu_ext & EXT_CR4_SMEP:
            w.pte_access &= ~ACC_X
    result = _prepare_to_map(vcpu, fault)
    return fetch(vcpu, fault, w) if result == RET_PF_CONTINUE else result


def kvm_mmu_do_page_fault(vcpu: Vcpu, addr: u64, error_code: u64, prefetch: u32) -> u32:
    """Fill the fault record from the error code and run the MMU's handler. Return RET_PF_*.

    `prefetch`: KVM maps the page ahead of an access (KVM_PRE_FAULT_MEMORY).
    """
    result: u32
    fault: PageFault = vcpu.fault
    fault.addr = addr
    fault.error_code = error_code
    fault.exec = error_code & PFERR_F != 0
    fault.write = error_code & PFERR_W != 0
    fault.present = error_code & PFERR_P != 0
    fault.rsvd = error_code & PFERR_RSVD != 0
    fault.user = error_code & PFERR_U != 0
    fault.is_tdp = vcpu.kvm.parameters.tdp_enabled and vcpu.mmu.direct()
    fault.nx_huge_page_workaround_enabled = vcpu.kvm.is_nx_huge_page_enabled()
    fault.huge_page_disallowed = False
    fault.write_fault_to_shadow_pgtable = False
    fault.map_writable = False
    fault.prefetch = prefetch != 0
    fault.req_level = 1
    fault.goal_level = 1
    fault.slot = None
    if vcpu.mmu.direct():
        fault.max_level = 3 if fault.is_tdp else 2
        fault.gfn = addr >> 12
        fault.slot = vcpu.kvm.gfn_to_memslot(fault.gfn)
        if vcpu.kvm.tdp_mmu_enabled():
            result = kvm_tdp_mmu_page_fault(vcpu, fault)
        else:
            result = direct_page_fault(vcpu, fault)
    else:
        result = paging_page_fault(vcpu, fault)
    if fault.map_writable and result != RET_PF_RETRY and fault.slot is not None:
        kvm_release_page_dirty(vcpu.kvm, fault.slot, fault.gfn)
    return result


def _was_retried(vcpu: Vcpu, addr: u64) -> bool:
    """Return whether this instruction was retried at this address just before; if not, forget the last retry.

    It must not be retried again: the zapped table may be the one that maps the instruction itself, and is
    shadowed and write-protected anew before each attempt.
    """
    if vcpu.last_retry_rip == vcpu.rip and vcpu.last_retry_addr == addr:
        return True
    vcpu.last_retry_rip = 0
    vcpu.last_retry_addr = 0
    return False


def _write_protect_fault(vcpu: Vcpu, addr: u64, error_code: u64) -> u32:
    """Handle a write to a shadowed table: emulate it, or unprotect the table and retry if an event awaits
    reinjection, or if the processor's walk wrote to a guest table that L1 shares with its nested tables.
    """
    if _was_retried(vcpu, addr):
        return RET_PF_EMULATE
    retry: bool = error_code & TABLE_WRITE == TABLE_WRITE if vcpu.mmu.direct() else vcpu.needs_reinjection()
    if retry and kvm_mmu_unprotect_gfn_and_retry(vcpu, addr):
        return RET_PF_RETRY
    if not vcpu.guest_mode:
        vcpu.emulation_type |= EMULTYPE_ALLOW_RETRY_PF
    return RET_PF_EMULATE


def _emulate_without_reason(vcpu: Vcpu, addr: u64, error_code: u64, result: u32) -> u32:
    """Return the result in kernels without RET_PF_WRITE_PROTECTED: all emulation but MMIO's may be retried.

    For L1 a write by the processor's walk is retried at once, whatever shadows the table. Whether the
    instruction was retried just before is seen here, unless retry_instruction sees to it (6.1).
    """
    if result == RET_PF_WRITE_PROTECTED:
        result = RET_PF_EMULATE
    if result != RET_PF_EMULATE:
        return result
    if vcpu.mmu.direct() and error_code & TABLE_WRITE == TABLE_WRITE:
        vcpu.stat.pf_emulate += 1
        kvm_mmu_unprotect_gfn(vcpu.kvm, addr >> 12)
        return RET_PF_RETRY
    if vcpu.guest_mode or mmio_info_in_cache(vcpu, addr):
        return RET_PF_EMULATE
    if vcpu.kvm.design.retry_without_zapping or not _was_retried(vcpu, addr):
        vcpu.emulation_type |= EMULTYPE_ALLOW_RETRY_PF
    return RET_PF_EMULATE


def kvm_mmu_page_fault(vcpu: Vcpu, addr: u64, error_code: u64) -> u32:
    """Handle an intercepted page fault.

    Return RET_PF_EMULATE (with vcpu.emulation_type) if the instruction must be emulated; RET_PF_EFAULT or
    RET_PF_ENOSPC if KVM_RUN fails; any other code: enter the guest again.
    """
    vcpu.emulation_type = EMULTYPE_PF
    if vcpu.mmu.root_hpa == INVALID_PAGE:
        return RET_PF_RETRY
    result: u32 = RET_PF_INVALID
    if error_code & PFERR_RSVD:
        result = handle_mmio_page_fault(vcpu, addr)
        if result == RET_PF_EMULATE:
            return result
    if result == RET_PF_INVALID:
        vcpu.stat.pf_taken += 1
        result = kvm_mmu_do_page_fault(vcpu, addr, error_code, 0)
        if vcpu.fault.write_fault_to_shadow_pgtable:
            vcpu.emulation_type |= EMULTYPE_WRITE_PF_TO_SP
    if vcpu.kvm.design.write_protected_is_emulate:
        result = _emulate_without_reason(vcpu, addr, error_code, result)
    elif result == RET_PF_WRITE_PROTECTED:
        result = _write_protect_fault(vcpu, addr, error_code)
    if result == RET_PF_FIXED:
        vcpu.stat.pf_fixed += 1
    elif result == RET_PF_EMULATE:
        vcpu.stat.pf_emulate += 1
    elif result == RET_PF_SPURIOUS:
        vcpu.stat.pf_spurious += 1
    return result
