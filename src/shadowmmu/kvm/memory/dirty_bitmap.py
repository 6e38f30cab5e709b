"""The dirty bitmap of a slot as user space reads and clears it (virt/kvm/kvm_main.c, 6.12.111)."""

import errno
from collections.abc import Sequence

from cython import uint as u32, ulonglong as u64

from ...host.memory import sparse_words
from ...x86.bits import MASK64
from ..bits import DEFECT_LOG_UNFLUSHED
from ..registers.pml import kvm_arch_sync_dirty_log
from ..spte.flush import kvm_flush_remote_tlbs_memslot
from ..state.cond_resched import mmu_lock_dropped
from ..state.memslots import MemSlot
from ..state.vm import Kvm
from .dirty_log import kvm_arch_mmu_enable_log_dirty_pt_masked
from .memory_region import RegionError, id_to_memslot


def _check_bitmap_is_used(kvm: Kvm) -> None:
    """Raise RegionError(ENXIO) if the VM has dirty rings."""
    if kvm.parameters.dirty_ring_size:
        raise RegionError(errno.ENXIO, "the VM has dirty rings, and no bitmaps")


def _logging_slot(kvm: Kvm, id: int) -> MemSlot:
    """Return slot `id`. Raises RegionError(ENOENT) if it does not log."""
    slot = id_to_memslot(kvm, id)
    if slot is None or not slot.logs_dirty():
        raise RegionError(errno.ENOENT, f"slot {id} does not log dirty pages")
    return slot


def kvm_vm_ioctl_get_dirty_log(kvm: Kvm, id: int) -> list[int]:
    """Return the indices of the dirty pages of a slot (KVM_GET_DIRTY_LOG). Raises RegionError."""
    _check_bitmap_is_used(kvm)
    slot = _logging_slot(kvm, id)
    kvm_arch_sync_dirty_log(kvm)
    return kvm_get_dirty_log(kvm, slot)


def kvm_get_dirty_log(kvm: Kvm, slot: MemSlot) -> list[int]:
    """Return the indices of the dirty pages in the bitmap. Without manual protection clear and
    protect them.
    """
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
            flush = kvm.design.defect != DEFECT_LOG_UNFLUSHED
            words[i] = 0
            kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, i * 64, mask)
    mmu_lock_dropped(kvm)
    if flush:
        kvm_flush_remote_tlbs_memslot(kvm, slot)
    return pages


def kvm_vm_ioctl_clear_dirty_log(
    kvm: Kvm, id: int, first: int, count: int, pages: Sequence[int] | None = None
) -> None:
    """Clear the dirty bits of the given pages in [first, first + count), by default all
    (KVM_CLEAR_DIRTY_LOG).

    Raises RegionError.
    """
    _check_bitmap_is_used(kvm)
    if first % 64:
        raise RegionError(errno.EINVAL, "the first page must be a multiple of 64")
    slot = _logging_slot(kvm, id)
    if first > slot.npages or count > slot.npages - first:
        raise RegionError(errno.EINVAL, "the range must be inside the slot")
    if count % 64 and count < slot.npages - first:
        raise RegionError(errno.EINVAL, "the number of pages must be a multiple of 64, or end with the slot")
    kvm_arch_sync_dirty_log(kvm)
    kvm_clear_dirty_log(kvm, slot, first, _bitmap(first, count, pages))


def _bitmap(first: int, count: int, pages: Sequence[int] | None) -> memoryview:
    """Return pages of [first, first + count) as bits of u64 words; None: all."""
    words = sparse_words((count + 63) // 64)
    if pages is None:
        for i in range(count // 64):
            words[i] = MASK64
        pages = range(first + count // 64 * 64, first + count)
    for page in pages:
        if first <= page < first + count:
            words[page - first >> 6] |= 1 << (page - first & 63)
    return words


def kvm_clear_dirty_log(kvm: Kvm, slot: MemSlot, first: u64, bitmap: memoryview) -> None:
    """Clear the bits that `bitmap` and the log have in common, and protect their pages again.

    `bitmap`: u64 words, from page `first` (a multiple of 64) on.
    """
    words: memoryview = slot.log_words()
    wanted: memoryview = bitmap
    flush: u32 = 0
    i: u64
    for i in range(len(wanted)):
        mask: u64 = wanted[i]
        if mask:
            mask &= words[(first >> 6) + i]
        if mask:
            flush = 1
            words[(first >> 6) + i] &= ~mask
            kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, first + i * 64, mask)
    mmu_lock_dropped(kvm)
    if flush:
        kvm_flush_remote_tlbs_memslot(kvm, slot)
