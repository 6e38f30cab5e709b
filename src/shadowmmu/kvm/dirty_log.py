"""Dirty logging on shadow tables: switching it on and off, reading and clearing the log (6.12.111).

Without PML every page is write-protected; the write fault that follows marks it dirty. MMU-writable stays
set, so that whoever protects the page for another reason knows that a flush is due.
"""

from cython import uint as u32, ulonglong as u64

from .bits import ROLE_DIRECT, ROLE_LEVEL
from .flush import kvm_flush_remote_tlbs
from .huge_page import kvm_mmu_max_mapping_level
from .memslots import MemSlot
from .rmap import RmapIterator, drop_spte, rmap_write_protect
from .shadow_page import ShadowPage
from .vm import Kvm


def kvm_mmu_slot_remove_write_access(kvm: Kvm, slot: MemSlot) -> None:
    """Take W from every SPTE of the slot, at all levels. The caller flushes."""
    level: u32
    index: u64
    for level in range(1, 4):
        heads: memoryview = slot.rmap_heads(level)
        for index in range(len(heads)):
            if heads[index]:
                rmap_write_protect(kvm, heads[index], 0)


def kvm_mmu_slot_enable_log(kvm: Kvm, slot: MemSlot) -> None:
    """Logging was switched on. With initially-all-set nothing needs protection yet."""
    if kvm.parameters.dirty_log_initially_set:
        return
    kvm_mmu_slot_remove_write_access(kvm, slot)
    kvm_flush_remote_tlbs(kvm)


def kvm_mmu_zap_collapsible_sptes(kvm: Kvm, slot: MemSlot) -> None:
    """Logging was switched off: drop small SPTEs of direct pages where a larger one is possible now."""
    flush: u32 = 0
    level: u32
    index: u64
    for level in range(1, 3):
        heads: memoryview = slot.rmap_heads(level)
        for index in range(len(heads)):
            if heads[index]:
                flush |= _zap_collapsible(kvm, slot, level, index)
    if flush:
        kvm_flush_remote_tlbs(kvm)


def _zap_collapsible(kvm: Kvm, slot: MemSlot, level: u32, index: u64) -> bool:
    heads: memoryview = slot.rmap_heads(level)
    zapped: u32 = 0
    it: RmapIterator = RmapIterator(kvm)
    sptep: u64 = it.first(heads[index])
    while sptep:
        sp: ShadowPage = kvm.sptep_to_sp(sptep)
        if (
            sp.role & ROLE_DIRECT
            and slot.base_gfn <= sp.gfn < slot.base_gfn + slot.npages
            and sp.role & ROLE_LEVEL < kvm_mmu_max_mapping_level(kvm, slot, sp.gfn, 3)
        ):
            drop_spte(kvm, sptep)
            zapped = 1
            sptep = it.first(heads[index])
        else:
            sptep = it.next()
    return zapped != 0


def kvm_arch_mmu_enable_log_dirty_pt_masked(kvm: Kvm, slot: MemSlot, first: u64, mask: u64) -> None:
    """Protect the pages first + i of the slot for every bit i of the mask, so that their next write is seen.

    With initially-all-set, huge SPTEs over the first and the last page are protected as for page tables.
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
    if kvm.parameters.dirty_log_initially_set:
        start: u64 = slot.base_gfn + first + low
        end: u64 = slot.base_gfn + first + high
        _protect_huge(kvm, slot, start)
        if (start + 511) >> 9 != (end + 511) >> 9:
            _protect_huge(kvm, slot, end)
    i: u64
    for i in range(low, high + 1):
        if mask & (one << i):
            rmap_write_protect(kvm, slot.rmap_head(slot.base_gfn + first + i, 1), 0)


def _protect_huge(kvm: Kvm, slot: MemSlot, gfn: u64) -> None:
    rmap_write_protect(kvm, slot.rmap_head(gfn, 2), 1)
    rmap_write_protect(kvm, slot.rmap_head(gfn, 3), 1)


def kvm_get_dirty_log(kvm: Kvm, slot: MemSlot) -> list[int]:
    """KVM_GET_DIRTY_LOG: numbers of the dirty pages. Without manual protection they are protected again."""
    words: memoryview = slot.log_words()
    pages: list[int] = []
    flush: u32 = 0
    i: u64
    bit: u64
    one: u64 = 1
    for i in range(len(words)):
        mask: u64 = words[i]
        if mask == 0:
            continue
        for bit in range(64):
            if mask & (one << bit):
                pages.append(i * 64 + bit)
        if not kvm.parameters.manual_dirty_log_protect:
            flush = 1
            words[i] = 0
            kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, i * 64, mask)
    if flush:
        kvm_flush_remote_tlbs(kvm)
    return pages


def kvm_clear_dirty_log(kvm: Kvm, slot: MemSlot, first: u64, count: u64) -> None:
    """KVM_CLEAR_DIRTY_LOG of all pages [first, first + count); first is a multiple of 64."""
    words: memoryview = slot.log_words()
    flush: u32 = 0
    i: u64
    for i in range(first >> 6, (first + count + 63) >> 6):
        mask: u64 = words[i]
        if mask:
            flush = 1
            words[i] = 0
            kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, i * 64, mask)
    if flush:
        kvm_flush_remote_tlbs(kvm)
