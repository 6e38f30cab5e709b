"""Faults fixed without mmu_lock, where only dirty logging or access tracking took rights away (6.12.111).

Direct MMUs only: the gfn of an SPTE in an indirect page is not stable (fast_page_fault).
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR, W
from ..bits import (
    DEFECT_FAST_HUGE_LOGGED,
    MEM_LOG_DIRTY_PAGES,
    RET_PF_FIXED,
    RET_PF_INVALID,
    RET_PF_SPURIOUS,
    SPTE_MMU_PRESENT,
)
from ..guest_access.mark_dirty import mark_page_dirty_in_slot
from ..pages.shadow_walk import shadow_walk_level, shadow_walk_root, shadow_walk_sptep
from ..spte.atomic import cmpxchg64
from ..spte.spte import is_access_allowed, is_access_track_spte, is_last_spte, restore_acc_track_spte
from ..state.fault import PageFault
from ..state.memslots import MemSlot
from ..state.vcpu import Vcpu
from ..state.vm import Kvm

ATTEMPTS = 5


def last_sptep_lockless(vcpu: Vcpu, addr: u64) -> u64:
    """Return the address of the last SPTE on the walk for addr; 0 if the walk has none."""
    kvm: Kvm = vcpu.kvm
    table: u64 = shadow_walk_root(vcpu, addr)
    level: u32 = shadow_walk_level(vcpu)
    if table == 0:
        return 0
    while True:
        sptep: u64 = shadow_walk_sptep(table, addr, level)
        spte: u64 = kvm.words[sptep >> 3]
        if not spte & SPTE_MMU_PRESENT or is_last_spte(spte, level):
            return sptep
        table = spte & ADDR
        level -= 1


def page_fault_can_be_fast(kvm: Kvm, fault: PageFault) -> bool:
    """Return whether a fault may be due to a cleared W or, where Accessed is not used, to access tracking."""
    if fault.rsvd:
        return False
    return fault.write if fault.present else not kvm.ad_enabled


def fast_page_fault(vcpu: Vcpu, fault: PageFault) -> u32:
    """Try to fix a fault without mmu_lock. Return RET_PF_FIXED, RET_PF_SPURIOUS, or RET_PF_INVALID: take the
    slow path.
    """
    kvm: Kvm = vcpu.kvm
    if not kvm.design.fast_page_fault or not page_fault_can_be_fast(kvm, fault):
        return RET_PF_INVALID
    slot: MemSlot | None = fault.slot
    result: u32 = RET_PF_INVALID
    sptep: u64 = 0
    spte: u64 = 0
    _attempt: u32
    for _attempt in range(ATTEMPTS):
        sptep = last_sptep_lockless(vcpu, fault.addr)
        spte = kvm.words[sptep >> 3]
        level: u32 = kvm.sptep_to_sp(sptep).level()
        if slot is None or not spte & SPTE_MMU_PRESENT or not is_last_spte(spte, level):
            break
        if is_access_allowed(kvm, fault, spte):
            result = RET_PF_SPURIOUS
            break
        new: u64 = restore_acc_track_spte(kvm, spte) if is_access_track_spte(kvm, spte) else spte
        if fault.write and spte & kvm.shadow_mmu_writable_mask:
            logged: bool = slot.flags & MEM_LOG_DIRTY_PAGES != 0
            if level > 1 and logged and kvm.design.defect != DEFECT_FAST_HUGE_LOGGED:
                break
            new |= W
        if not is_access_allowed(kvm, fault, new):
            break
        if cmpxchg64(kvm, sptep, spte, new) == spte:
            if new & ~spte & W:
                mark_page_dirty_in_slot(kvm, slot, fault.gfn)
            result = RET_PF_FIXED
            break
    if kvm.tracing:
        kvm.tracer.fast_page_fault(
            vcpu.id,
            fault.addr,
            fault.error_code,
            sptep,
            spte,
            kvm.words[sptep >> 3],
            result == RET_PF_SPURIOUS,
            result == RET_PF_FIXED,
        )
    if result != RET_PF_INVALID:
        vcpu.stat.pf_fast += 1
    return result
