"""Mapping for a guest without paging, or with two-dimensional paging without the TDP MMU: a direct shadow of
guest-physical memory (direct_map, 6.12.111).
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ACC_ALL
from ..bits import RET_PF_SPURIOUS
from ..pages.get_page import is_linked, kvm_mmu_get_child_sp, link_shadow_page
from ..pages.shadow_walk import shadow_walk_level, shadow_walk_root, shadow_walk_sptep
from ..spte.huge_page import (
    disallowed_hugepage_adjust,
    gfn_round_for_level,
    kvm_mmu_hugepage_adjust,
    trace_spte_requested,
)
from ..spte.nx_huge_page import account_nx_huge_page
from ..state.fault import PageFault
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .prefetch import direct_pte_prefetch
from .prefetch_designs import direct_prefetch_around
from .set_spte import mmu_set_spte


def direct_map(vcpu: Vcpu, fault: PageFault) -> u32:
    """Make the direct pages on the way and map the page. Return RET_PF_*."""
    kvm: Kvm = vcpu.kvm
    kvm_mmu_hugepage_adjust(kvm, fault)
    if kvm.tracing:
        trace_spte_requested(kvm, fault, ACC_ALL)
    table: u64 = shadow_walk_root(vcpu, fault.addr)
    level: u32 = shadow_walk_level(vcpu)
    parent: ShadowPage = kvm.sptep_to_sp(table)
    sptep: u64 = shadow_walk_sptep(table, fault.addr, level)
    sp: ShadowPage
    while True:
        if fault.nx_huge_page_workaround_enabled:
            disallowed_hugepage_adjust(kvm, fault, kvm.words[sptep >> 3], level)
        if level == fault.goal_level:
            break
        base_gfn: u64 = gfn_round_for_level(fault.gfn, level)
        sp = kvm_mmu_get_child_sp(vcpu, parent, sptep, base_gfn, 1, ACC_ALL)
        if not is_linked(kvm, sptep, sp):
            link_shadow_page(kvm, sptep, sp)
            if fault.huge_page_disallowed and kvm.design.nx_marks_without_paging:
                account_nx_huge_page(kvm, sp, fault.req_level >= level)
        parent = sp
        level -= 1
        sptep = shadow_walk_sptep(sp.spt, fault.addr, level)
    base_gfn = gfn_round_for_level(fault.gfn, level)
    result: u32 = mmu_set_spte(vcpu, fault.slot, parent, sptep, ACC_ALL, base_gfn, fault.pfn, fault)
    if result == RET_PF_SPURIOUS:
        return result
    if not kvm.design.merged_prefetch:
        direct_prefetch_around(vcpu, parent, sptep)
    elif level == 1 and not kvm.mmu_invalidate_in_progress:
        direct_pte_prefetch(vcpu, parent, sptep)
    return result
