"""Ageing: the host asks which pages were accessed, and clears the record (tdp_mmu.c, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import PS
from ..bits import SPTE_MMU_PRESENT
from ..spte.spte import mark_spte_for_access_track
from ..state.shadow_page import ShadowPage
from ..state.tdp_iter import TdpIter
from ..state.vm import Kvm
from .rcu import rcu_read_lock, rcu_read_unlock
from .spte_changed import kvm_tdp_mmu_write_spte, tdp_mmu_clear_spte_bits


def kvm_tdp_mmu_age_gfn_range(kvm: Kvm, start: u64, end: u64) -> bool:
    """Mark the SPTEs that map [start, end) as not accessed, in all roots, without a flush. Return whether one
    of them was accessed.
    """
    return _look(kvm, start, end, 1)


def kvm_tdp_mmu_test_age_gfn(kvm: Kvm, start: u64, end: u64) -> bool:
    """Return whether a page of [start, end) was accessed through any root."""
    return _look(kvm, start, end, 0)


def _look(kvm: Kvm, start: u64, end: u64, clear: u32) -> bool:
    """Return whether an SPTE that maps [start, end) was accessed; `clear`: mark them as not accessed."""
    accessed: u32 = 0
    it: TdpIter = TdpIter(kvm)
    root: ShadowPage
    rcu_read_lock(kvm)
    for root in kvm.tdp_mmu_roots:
        it.start(root, 1, start)
        while it.valid and it.gfn < end:
            spte: u64 = it.old_spte
            if spte & SPTE_MMU_PRESENT and (it.level == 1 or spte & PS) and spte & kvm.spte_young_mask:
                accessed = 1
                if clear:
                    _clear(kvm, it)
            it.next()
    rcu_read_unlock(kvm)
    return accessed != 0


def _clear(kvm: Kvm, it: TdpIter) -> None:
    """Clear Accessed in the current SPTE, or access-track it where the processor does not set it."""
    if kvm.ad_enabled:
        tdp_mmu_clear_spte_bits(kvm, it, kvm.shadow_accessed_mask)
        return
    new: u64 = mark_spte_for_access_track(kvm, it.old_spte)
    it.old_spte = kvm_tdp_mmu_write_spte(kvm, it.sptep, it.old_spte, new, it.level)
    if kvm.tracing:
        kvm.tracer.kvm_tdp_mmu_spte_changed(0, it.gfn, it.level, it.old_spte, new)
