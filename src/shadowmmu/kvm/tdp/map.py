"""Mapping the page of a fault (kvm_tdp_mmu_map, tdp_mmu.c, 6.12.111 and 7.3.4)."""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ACC_ALL, PS
from ..bits import (
    MAKE_CAN_UNSYNC,
    MAKE_HOST_WRITABLE,
    MAKE_PREFETCH,
    RET_PF_EMULATE,
    RET_PF_FIXED,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    RET_PF_WRITE_PROTECTED,
    SPTE_MMU_PRESENT,
)
from ..spte.flush import kvm_flush_remote_tlbs
from ..spte.huge_page import disallowed_hugepage_adjust, kvm_mmu_hugepage_adjust, trace_spte_requested
from ..spte.make_spte import make_spte
from ..spte.mmio import get_mmio_spte_generation, make_mmio_spte
from ..spte.nx_huge_page import track_possible_nx_huge_page
from ..spte.spte import is_access_allowed, is_last_spte
from ..state.fault import LeafSpte, PageFault
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.tdp_iter import TdpIter
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .rcu import rcu_read_lock, rcu_read_unlock, tdp_mmu_free_sp
from .roots import tdp_mmu_alloc_sp
from .split import tdp_mmu_link_sp, tdp_mmu_split_huge_page
from .spte_changed import tdp_mmu_set_spte_atomic, tdp_mmu_zap_spte_atomic


def kvm_tdp_mmu_map(vcpu: Vcpu, fault: PageFault) -> u32:
    """Make the tables on the way and map the page, with mmu_lock held for reading. Return RET_PF_*.

    The fault is retried wherever another CPU changed an SPTE first.
    """
    kvm: Kvm = vcpu.kvm
    kvm_mmu_hugepage_adjust(kvm, fault)
    if kvm.tracing:
        trace_spte_requested(kvm, fault, ACC_ALL)
    it: TdpIter = vcpu.tdp_iter
    result: u32 = RET_PF_RETRY
    rcu_read_lock(kvm)
    it.start(kvm.sptep_to_sp(vcpu.mmu.root_hpa), 1, fault.gfn)
    while it.valid and it.gfn <= fault.gfn:
        if fault.nx_huge_page_workaround_enabled:
            disallowed_hugepage_adjust(kvm, fault, it.old_spte, it.level)
        if it.old_spte == kvm.frozen_spte:
            break
        if it.level == fault.goal_level:
            result = _map_target_level(vcpu, fault, it)
            break
        missing: bool = not it.old_spte & SPTE_MMU_PRESENT or it.old_spte & PS != 0
        if missing and not _add_table(vcpu, fault, it):
            break
        it.next()
    rcu_read_unlock(kvm)
    return result


def _add_table(vcpu: Vcpu, fault: PageFault, it: TdpIter) -> bool:
    """Link a new table, empty or in place of a huge page. Return False if another CPU changed the
    SPTE first.
    """
    kvm: Kvm = vcpu.kvm
    if it.old_spte & SPTE_MMU_PRESENT and not kvm.design.tdp_fault_splits:
        if not tdp_mmu_zap_spte_atomic(kvm, it):
            return False
        it.old_spte = kvm.words[it.sptep >> 3]
    sp: ShadowPage = tdp_mmu_alloc_sp(vcpu, it.gfn, kvm.sptep_to_sp(it.sptep).role - 1, it.sptep)
    possible: bool = fault.req_level >= it.level or not kvm.design.nx_marks_only_possible_huge_pages
    sp.nx_huge_page_disallowed = fault.huge_page_disallowed and possible
    linked: bool
    if it.old_spte & SPTE_MMU_PRESENT:
        linked = tdp_mmu_split_huge_page(kvm, it, sp, 1)
    else:
        linked = tdp_mmu_link_sp(kvm, it, sp, 1)
    if not linked:
        tdp_mmu_free_sp(kvm, sp)
        return False
    if fault.huge_page_disallowed and fault.req_level >= it.level and sp.nx_huge_page_disallowed:
        track_possible_nx_huge_page(kvm, sp)
    return True


def _map_target_level(vcpu: Vcpu, fault: PageFault, it: TdpIter) -> u32:
    """Store the leaf SPTE, or an MMIO SPTE if there is no memslot (tdp_mmu_map_handle_target_level). Return
    RET_PF_*.
    """
    kvm: Kvm = vcpu.kvm
    slot: MemSlot | None = fault.slot
    if slot is None:
        return _map_mmio(vcpu, it)
    if kvm.design.tdp_keeps_allowed_leaf and _leaf_is_right(kvm, fault, it):
        return RET_PF_SPURIOUS
    flags: u32 = MAKE_CAN_UNSYNC
    if fault.map_writable:
        flags |= MAKE_HOST_WRITABLE
    if fault.prefetch:
        flags |= MAKE_PREFETCH
    leaf: LeafSpte = vcpu.leaf
    make_spte(kvm, leaf, kvm.sptep_to_sp(it.sptep), slot, ACC_ALL, it.gfn, fault.pfn, it.old_spte, flags)
    result: u32 = RET_PF_FIXED
    if leaf.spte == it.old_spte:
        result = RET_PF_SPURIOUS
    elif not tdp_mmu_set_spte_atomic(kvm, it, leaf.spte):
        return RET_PF_RETRY
    elif it.old_spte & SPTE_MMU_PRESENT and it.level > 1 and not it.old_spte & PS:
        kvm_flush_remote_tlbs(kvm)
    if leaf.wrprot and fault.write:
        result = RET_PF_WRITE_PROTECTED
    if kvm.tracing:
        kvm.tracer.kvm_mmu_set_spte(it.gfn, kvm.words[it.sptep >> 3], it.sptep, it.level, kvm.shadow_x_mask)
    return result


def _leaf_is_right(kvm: Kvm, fault: PageFault, it: TdpIter) -> bool:
    """Return whether the SPTE maps the page already as the fault needs it; of a prefault, in any way."""
    spte: u64 = it.old_spte
    if not spte & SPTE_MMU_PRESENT or not is_last_spte(spte, it.level):
        return False
    return fault.prefetch or is_access_allowed(kvm, fault, spte)


def _map_mmio(vcpu: Vcpu, it: TdpIter) -> u32:
    """Store an MMIO SPTE. It is traced and counted even if it is there already. Return RET_PF_*."""
    kvm: Kvm = vcpu.kvm
    spte: u64 = make_mmio_spte(kvm, it.gfn, ACC_ALL)
    if spte != it.old_spte and not tdp_mmu_set_spte_atomic(kvm, it, spte):
        return RET_PF_RETRY
    vcpu.stat.pf_mmio_spte_created += 1
    if kvm.tracing:
        kvm.tracer.mark_mmio_spte(it.sptep, it.gfn, spte & 7, get_mmio_spte_generation(kvm, spte))
    return RET_PF_EMULATE
