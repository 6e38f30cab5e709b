"""Building the shadow of what the guest's tables say for one address (FNAME(fetch), 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR, PS
from ..bits import (
    DEFECT_LINK_UNSYNCED,
    DEFECT_RIGHTS_OF_LAST_TABLE,
    DEFECT_RIGHTS_OF_UPPER_TABLES,
    INVALID_PAGE,
    PT32_ROOT_LEVEL,
    PT32E_ROOT_LEVEL,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    RET_PF_EFAULT,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    SPTE_MMU_PRESENT,
)
from ..guest_access.guest_walk import gpte_changed
from ..pages.get_page import is_linked, kvm_mmu_get_child_sp, link_shadow_page
from ..pages.shadow_walk import shadow_walk_level, shadow_walk_root, shadow_walk_sptep
from ..pages.special_root import pdpte_changed
from ..pages.sync import mmu_sync_children
from ..pages.zap import drop_parent_pte
from ..spte.flush import kvm_flush_remote_tlbs
from ..spte.huge_page import (
    disallowed_hugepage_adjust,
    gfn_round_for_level,
    kvm_mmu_hugepage_adjust,
    trace_spte_requested,
)
from ..spte.nx_huge_page import account_nx_huge_page
from ..state.fault import GuestWalker, PageFault
from ..state.mmu import KvmMmu
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .prefetch import pte_prefetch
from .prefetch_designs import prefetch_around
from .set_spte import mmu_set_spte


def _validate_direct_spte(kvm: Kvm, sptep: u64, direct_access: u32) -> None:
    """Unlink a direct page whose rights are not those of the guest's huge page any more
    (validate_direct_spte).
    """
    spte: u64 = kvm.words[sptep >> 3]
    if spte & SPTE_MMU_PRESENT and not spte & PS:
        child: ShadowPage = kvm.sptep_to_sp(spte & ADDR)
        if (child.role & ROLE_ACCESS) >> ROLE_ACCESS_SHIFT != direct_access:
            drop_parent_pte(kvm, child, sptep)
            kvm_flush_remote_tlbs(kvm)


def _defective_rights(defect: u32, w: GuestWalker) -> u32:
    """Return the rights for tables below the guest's page; a defect takes those of a guest table.

    RIGHTS_OF_LAST_TABLE takes the rights that the last table inherits for those of all tables.
    """
    last: u32 = w.pt_access[w.level - 1]
    level: u32
    if defect == DEFECT_RIGHTS_OF_LAST_TABLE:
        for level in range(w.level + 1, w.max_level + 1):
            w.pt_access[level - 1] = last
    return last if defect == DEFECT_RIGHTS_OF_UPPER_TABLES else w.pte_access


def fetch(vcpu: Vcpu, fault: PageFault, w: GuestWalker) -> u32:
    """Make the shadow pages on the way and map the page (FNAME(fetch)). Return RET_PF_*.

    First the tables that shadow guest tables, down to the level of the guest's page; each is checked against
    the gpte that the walk saw. A walk without a root directory fails: it was not visible when the root was
    loaded. Then, if the page must be mapped smaller than the guest maps it, direct pages.
    """
    kvm: Kvm = vcpu.kvm
    mmu: KvmMmu = vcpu.mmu
    direct_access: u32 = w.pte_access
    if kvm.design.defect:
        direct_access = _defective_rights(kvm.design.defect, w)
    top_level: u32 = mmu.guest_level()
    if top_level == PT32E_ROOT_LEVEL:
        top_level = PT32_ROOT_LEVEL
    if gpte_changed(vcpu, w, top_level) or mmu.root_hpa == INVALID_PAGE:
        return RET_PF_RETRY
    if mmu.root_hpa == 0:
        vcpu.requests |= REQ_MMU_FREE_OBSOLETE_ROOTS
        return RET_PF_RETRY
    if kvm.design.special_roots and pdpte_changed(vcpu, w, fault.addr):
        return RET_PF_RETRY
    table: u64 = shadow_walk_root(vcpu, fault.addr)
    if table == 0:
        kvm_mmu_hugepage_adjust(kvm, fault)
        if kvm.tracing:
            trace_spte_requested(kvm, fault, w.pte_access)
        return RET_PF_EFAULT
    level: u32 = shadow_walk_level(vcpu)
    parent: ShadowPage = kvm.sptep_to_sp(table)
    sptep: u64 = shadow_walk_sptep(table, fault.addr, level)
    sp: ShadowPage
    linked: bool
    while True:
        parent.write_flooding_count = 0
        if level == w.level:
            break
        table_gfn: u64 = w.table_gfn[level - 2]
        sp = kvm_mmu_get_child_sp(vcpu, parent, sptep, table_gfn, 0, w.pt_access[level - 2])
        linked = is_linked(kvm, sptep, sp)
        if not linked and sp.unsync_children and kvm.design.defect != DEFECT_LINK_UNSYNCED:
            mmu_sync_children(vcpu, sp)
        if gpte_changed(vcpu, w, level - 1):
            return RET_PF_RETRY
        if not linked:
            link_shadow_page(kvm, sptep, sp)
        if fault.write and table_gfn == fault.gfn and not kvm.design.self_map_test_before_fetch:
            fault.write_fault_to_shadow_pgtable = True
        parent = sp
        level -= 1
        sptep = shadow_walk_sptep(sp.spt, fault.addr, level)
    kvm_mmu_hugepage_adjust(kvm, fault)
    if kvm.tracing:
        trace_spte_requested(kvm, fault, w.pte_access)
    while True:
        if fault.nx_huge_page_workaround_enabled:
            disallowed_hugepage_adjust(kvm, fault, kvm.words[sptep >> 3], level)
        if level == fault.goal_level:
            break
        _validate_direct_spte(kvm, sptep, direct_access)
        base_gfn: u64 = gfn_round_for_level(fault.gfn, level)
        sp = kvm_mmu_get_child_sp(vcpu, parent, sptep, base_gfn, 1, direct_access)
        if not is_linked(kvm, sptep, sp):
            link_shadow_page(kvm, sptep, sp)
            if fault.huge_page_disallowed:
                account_nx_huge_page(kvm, sp, fault.req_level >= level)
        parent = sp
        level -= 1
        sptep = shadow_walk_sptep(sp.spt, fault.addr, level)
    base_gfn = gfn_round_for_level(fault.gfn, level)
    result: u32 = mmu_set_spte(vcpu, fault.slot, parent, sptep, w.pte_access, base_gfn, fault.pfn, fault)
    if result == RET_PF_SPURIOUS:
        return result
    if kvm.design.merged_prefetch:
        pte_prefetch(vcpu, w, parent, sptep)
    else:
        prefetch_around(vcpu, w, parent, sptep)
    return result
