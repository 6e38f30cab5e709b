"""Faults fixed without mmu_lock: a write to an SPTE that only logging or tracking made read-only.

Direct MMUs only: the gfn behind an indirect SPTE is not stable (fast_page_fault, 6.12.111).
"""

from cython import uint as u32, ulonglong as u64

from ..x86.bits import ADDR, W
from .atomic import cmpxchg64
from .bits import (
    MEM_LOG_DIRTY_PAGES,
    RET_PF_FIXED,
    RET_PF_INVALID,
    RET_PF_SPURIOUS,
    SPTE_MMU_PRESENT,
    SPTE_MMU_WRITABLE,
)
from .fault import PageFault
from .fetch import shadow_walk_level, shadow_walk_root, shadow_walk_sptep
from .mark_dirty import mark_page_dirty_in_slot
from .memslots import MemSlot
from .spte import is_executable, is_last_spte
from .vcpu import Vcpu
from .vm import Kvm

ATTEMPTS = 5


def last_sptep_lockless(vcpu: Vcpu, addr: u64) -> u64:
    """Address of the last SPTE on the walk for addr; 0 if the walk has none."""
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


def is_access_allowed(fault: PageFault, spte: u64) -> bool:
    """Whether a leaf SPTE allows what faulted: somebody else has fixed it."""
    if fault.exec:
        return is_executable(spte)
    return not fault.write or spte & W != 0


def fast_page_fault(vcpu: Vcpu, fault: PageFault) -> u32:
    """RET_PF_FIXED, RET_PF_SPURIOUS, or RET_PF_INVALID if the fault must take the slow path."""
    kvm: Kvm = vcpu.kvm
    if fault.rsvd or not fault.present or not fault.write or not kvm.design.fast_page_fault:
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
        if is_access_allowed(fault, spte):
            result = RET_PF_SPURIOUS
            break
        if not spte & SPTE_MMU_WRITABLE or (level > 1 and slot.flags & MEM_LOG_DIRTY_PAGES):
            break
        if cmpxchg64(kvm, sptep, spte, spte | W) == spte:
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
