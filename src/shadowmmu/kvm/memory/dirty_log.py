"""Dirty logging in the MMU: switching it on and off, protecting logged pages again (mmu.c, 6.12.111).

The next write to a page must be seen. Without PML its SPTEs lose W and the write faults; MMU_WRITABLE stays
set, so that write-protecting the page for another reason flushes. With PML (VMX only) they lose Dirty, and
the processor logs every page whose Dirty it sets. The shadow MMU finds SPTEs by the slot's rmaps, the TDP MMU
in its trees; both are done, the shadow MMU first. The flush comes after mmu_lock is released.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import PML_ENTRIES
from ..bits import (
    DEFECT_HUGE_LOGGED,
    DEFECT_LOG_START_UNFLUSHED,
    ROLE_DIRECT,
    ROLE_LEVEL,
)
from ..pages.write_protect import kvm_mmu_slot_gfn_write_protect
from ..spte.flush import kvm_flush_remote_tlbs_memslot
from ..spte.huge_page import kvm_mmu_max_mapping_level
from ..spte.rmap import RmapIterator, drop_spte, rmap_write_protect
from ..spte.spte import mmu_spte_update
from ..state.cond_resched import mmu_lock_dropped
from ..state.memslots import MemSlot
from ..state.oops import KernelOops
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from ..tdp.collapse import kvm_tdp_mmu_zap_collapsible_sptes
from ..tdp.dirty_log import (
    kvm_tdp_mmu_clear_dirty_pt_masked,
    kvm_tdp_mmu_clear_dirty_slot,
    kvm_tdp_mmu_wrprot_slot,
)
from .split_huge_page import kvm_mmu_try_split_huge_pages


def cpu_dirty_log_size(*, vmx: bool, ept: bool, ept_ad_bits: bool, pml: bool) -> int:
    """Return the entries of the processor's own log of dirty pages; 0 if pages must be write-protected to be
    logged.

    SVM has none. VMX has page-modification logging if nested page tables with Accessed and Dirty bits are
    used and both the processor and the administrator (`pml`) allow it.
    """
    return PML_ENTRIES if vmx and ept and ept_ad_bits and pml else 0


def kvm_mmu_slot_remove_write_access(kvm: Kvm, slot: MemSlot, start_level: u32) -> bool:
    """Clear W in every SPTE of the slot, from start_level up. Return whether one had it; then the caller must
    flush.
    """
    changed: u32 = 0
    if kvm.have_rmaps():
        level: u32
        index: u64
        for level in range(start_level, 2 if kvm.design.defect == DEFECT_HUGE_LOGGED else 4):
            heads: memoryview = slot.rmap_heads(level)
            for index in range(len(heads)):
                if heads[index]:
                    changed |= rmap_write_protect(kvm, heads[index], 0)
    if kvm.tdp_mmu_enabled():
        changed |= kvm_tdp_mmu_wrprot_slot(kvm, slot, start_level)
    return changed != 0


def kvm_mmu_slot_leaf_clear_dirty(kvm: Kvm, slot: MemSlot) -> None:
    """Clear Dirty in every SPTE of the slot that maps 4 KiB or is the TDP MMU's. The caller flushes."""
    if kvm.have_rmaps():
        index: u64
        heads: memoryview = slot.rmap_heads(1)
        for index in range(len(heads)):
            if heads[index]:
                _rmap_clear_dirty(kvm, heads[index])
    if kvm.tdp_mmu_enabled():
        kvm_tdp_mmu_clear_dirty_slot(kvm, slot)


def _rmap_clear_dirty(kvm: Kvm, head: u64) -> None:
    """Clear Dirty in every SPTE of a head."""
    it: RmapIterator = RmapIterator(kvm)
    sptep: u64 = it.first(head)
    while sptep:
        mmu_spte_update(kvm, sptep, kvm.words[sptep >> 3] & ~kvm.shadow_dirty_mask)
        sptep = it.next()


def kvm_mmu_slot_enable_log(kvm: Kvm, slot: MemSlot) -> None:
    """Protect the pages of a slot whose logging was switched on. With initially-all-set nothing
    needs it yet.
    """
    if kvm.parameters.dirty_log_initially_set:
        return
    if kvm.parameters.eager_page_split:
        kvm_mmu_try_split_huge_pages(kvm, slot, slot.base_gfn, slot.base_gfn + slot.npages, 1, 1)
    flush: u32 = 1
    if kvm.parameters.cpu_dirty_log_size:
        kvm_mmu_slot_leaf_clear_dirty(kvm, slot)
        kvm_mmu_slot_remove_write_access(kvm, slot, 2)
    elif not kvm_mmu_slot_remove_write_access(kvm, slot, 1):
        flush = kvm.design.defect != DEFECT_LOG_START_UNFLUSHED
    mmu_lock_dropped(kvm)
    if flush:
        kvm_flush_remote_tlbs_memslot(kvm, slot)


def kvm_mmu_zap_collapsible_sptes(kvm: Kvm, slot: MemSlot) -> None:
    """Zap small SPTEs of direct pages, in a slot whose logging was switched off, where a larger page is
    possible now.
    """
    if kvm.have_rmaps():
        flush: u32 = 0
        level: u32
        index: u64
        for level in range(1, 3):
            heads: memoryview = slot.rmap_heads(level)
            for index in range(len(heads)):
                if heads[index]:
                    flush |= _zap_collapsible(kvm, slot, level, index)
        if flush:
            kvm_flush_remote_tlbs_memslot(kvm, slot)
    if kvm.tdp_mmu_enabled():
        kvm_tdp_mmu_zap_collapsible_sptes(kvm, slot)


def _zap_collapsible(kvm: Kvm, slot: MemSlot, level: u32, index: u64) -> bool:
    """Zap those of one rmap. Return whether there was one."""
    heads: memoryview = slot.rmap_heads(level)
    zapped: u32 = 0
    it: RmapIterator = RmapIterator(kvm)
    sptep: u64 = it.first(heads[index])
    while sptep:
        sp: ShadowPage = kvm.sptep_to_sp(sptep)
        if sp.role & ROLE_DIRECT and sp.role & ROLE_LEVEL < _mapping_level(kvm, slot, sp.gfn):
            drop_spte(kvm, sptep)
            zapped = 1
            sptep = it.first(heads[index])
        else:
            sptep = it.next()
    return zapped != 0


def _mapping_level(kvm: Kvm, slot: MemSlot, gfn: u64) -> u32:
    """Return the largest level at which a direct page's gfn may be mapped; 0 for a gfn below the slot.

    With lpage_info_below_slot the kernel does not check for that and reads lpage_info before its beginning,
    where anything may be. Raises KernelOops.
    """
    if gfn >= slot.base_gfn:
        return kvm_mmu_max_mapping_level(kvm, slot, gfn, 3)
    if kvm.design.lpage_info_below_slot:
        _read_lpage_info_below(kvm, slot, gfn)
    return 0


def _read_lpage_info_below(kvm: Kvm, slot: MemSlot, gfn: u64) -> None:
    """Search for the largest level from the top as ever: an index that is not negative finds the slot's first
    huge page, which is not allowed because it begins below the slot. Raises KernelOops for a negative one.
    """
    level: u32 = 3 if kvm.max_level() > 3 else kvm.max_level()
    while level > 1:
        if gfn >> (9 * (level - 1)) < slot.base_gfn >> (9 * (level - 1)):
            raise KernelOops(
                f"KVM reads beyond lpage_info here: slot {slot.id} begins at gfn {slot.base_gfn:#x}, the "
                f"entry of level {level} for gfn {gfn:#x} lies below (kvm_mmu_zap_collapsible_spte)"
            )
        level -= 1


def kvm_arch_mmu_enable_log_dirty_pt_masked(kvm: Kvm, slot: MemSlot, first: u64, mask: u64) -> None:
    """Protect pages first + i of the slot, for every bit i of the mask, so that the next write to them is
    seen.

    With initially-all-set, huge SPTEs over them are split first if eager splitting is on, and those over the
    first and the last page are write-protected. Other huge SPTEs stay as they are. These lose MMU-writable
    too, so that a flush would be due before mmu_lock is released; KVM leaves it to the ioctl's end
    (clear_log_flushes_under_lock).
    """
    if mask == 0:
        return
    low: u64 = 0
    one: u64 = 1
    while not mask & (one << low):
        low += 1
    high: u64 = 63
    while not mask & (one << high):
        high -= 1
    gfn: u64 = slot.base_gfn + first
    if kvm.parameters.dirty_log_initially_set:
        if kvm.parameters.eager_page_split:
            kvm_mmu_try_split_huge_pages(kvm, slot, gfn + low, gfn + high + 1, 1, 0)
        protected: u32 = kvm_mmu_slot_gfn_write_protect(kvm, slot, gfn + low, 2)
        if (gfn + low + 511) >> 9 != (gfn + high + 511) >> 9:
            protected |= kvm_mmu_slot_gfn_write_protect(kvm, slot, gfn + high, 2)
        if protected and kvm.design.clear_log_flushes_under_lock:
            kvm_flush_remote_tlbs_memslot(kvm, slot)
    wrprot: u32 = kvm.parameters.cpu_dirty_log_size == 0
    if kvm.tdp_mmu_enabled():
        kvm_tdp_mmu_clear_dirty_pt_masked(kvm, gfn, mask, wrprot)
    if not kvm.have_rmaps():
        return
    i: u64
    for i in range(low, high + 1):
        if mask & (one << i):
            head: u64 = slot.rmap_head(gfn + i, 1)
            if wrprot:
                rmap_write_protect(kvm, head, 0)
            else:
                _rmap_clear_dirty(kvm, head)
