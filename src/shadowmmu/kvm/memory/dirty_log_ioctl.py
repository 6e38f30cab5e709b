"""Dirty logging as user space sees it: the ioctls (virt/kvm/kvm_main.c, 6.12.111)."""

import errno
from collections.abc import Sequence

from ...host.memory import sparse_words
from ...x86.bits import MASK64
from ..bits import DIRTY_GFN_RESET, MEMSLOT_INVALID
from ..guest_access.dirty_ring import ENTRY_BYTES, MAX_ENTRIES, RESERVED_ENTRIES, DirtyRing, dirty_ring_of
from ..registers.pml import kvm_arch_sync_dirty_log
from ..spte.flush import kvm_flush_remote_tlbs
from ..state.memslots import MemSlot
from ..state.vm import Kvm
from .dirty_log import kvm_arch_mmu_enable_log_dirty_pt_masked, kvm_clear_dirty_log, kvm_get_dirty_log
from .memory_region import RegionError, id_to_memslot

PAGE_SIZE = 4096
MANUAL_PROTECT, INITIALLY_SET = 1, 2


def enable_manual_dirty_log_protect(kvm: Kvm, flags: int) -> None:
    """Enable KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. Raises RegionError."""
    if flags & ~(MANUAL_PROTECT | INITIALLY_SET) or flags == INITIALLY_SET:
        raise RegionError(errno.EINVAL, "flags must be 0, 1 (manual protection) or 3 (and initially set)")
    kvm.parameters.manual_dirty_log_protect = bool(flags & MANUAL_PROTECT)
    kvm.parameters.dirty_log_initially_set = bool(flags & INITIALLY_SET)


def enable_dirty_log_ring(kvm: Kvm, size: int) -> None:
    """Enable KVM_CAP_DIRTY_LOG_RING: rings of `size` bytes for the vCPUs to come. Raises RegionError."""
    reserved = (RESERVED_ENTRIES + kvm.parameters.cpu_dirty_log_size) * ENTRY_BYTES
    if not size or size & (size - 1) or size < PAGE_SIZE or size < reserved:
        least = max(PAGE_SIZE, reserved)
        raise RegionError(
            errno.EINVAL, f"a dirty ring of {size} bytes: must be a power of two, at least {least}"
        )
    if size > MAX_ENTRIES * ENTRY_BYTES:
        most = MAX_ENTRIES * ENTRY_BYTES
        raise RegionError(errno.E2BIG, f"a dirty ring of {size} bytes: must be at most {most}")
    if kvm.parameters.dirty_ring_size or kvm.vcpus:
        raise RegionError(errno.EINVAL, "dirty rings must be chosen once, before the first vCPU")
    kvm.parameters.dirty_ring_size = size


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


# -- rings -------------------------------------------------------------------------------------------------


def kvm_vm_ioctl_reset_dirty_pages(kvm: Kvm) -> int:
    """Empty the harvested entries of all rings and protect their pages again (KVM_RESET_DIRTY_RINGS).

    Return the number of entries emptied. Raises RegionError if the VM has no rings.
    """
    if not kvm.parameters.dirty_ring_size:
        raise RegionError(errno.EINVAL, "the VM has no dirty rings")
    cleared = sum(kvm_dirty_ring_reset(kvm, dirty_ring_of(vcpu)) for vcpu in kvm.vcpus)
    if cleared:
        kvm_flush_remote_tlbs(kvm)
    return cleared


def kvm_dirty_ring_reset(kvm: Kvm, ring: DirtyRing) -> int:
    """Empty the harvested entries at the front of a ring. Return their number.

    An entry is emptied before its page is protected. Pages close to each other are protected together.
    """
    count = 0
    slot, offset, mask = 0, 0, 0
    while ring.flags(ring.reset_index) & DIRTY_GFN_RESET:
        next_slot, next_offset = ring.slot(ring.reset_index), ring.offset(ring.reset_index)
        ring.set_flags(ring.reset_index, 0)
        ring.reset_index = (ring.reset_index + 1) & 0xFFFFFFFF
        count += 1
        if mask and next_slot == slot:
            delta = next_offset - offset
            if 0 <= delta < 64:
                mask |= 1 << delta
                continue
            if -64 < delta < 0 and not mask << -delta >> 64:
                mask = mask << -delta | 1
                offset = next_offset
                continue
        _reset_dirty_gfn(kvm, slot, offset, mask)
        slot, offset, mask = next_slot, next_offset, 1
    _reset_dirty_gfn(kvm, slot, offset, mask)
    if kvm.tracing:
        kvm.tracer.kvm_dirty_ring_reset(ring.index, ring.dirty_index, ring.reset_index)
    return count


def _reset_dirty_gfn(kvm: Kvm, id: int, offset: int, mask: int) -> None:
    """Protect pages offset + i of slot `id`, for every bit i; do nothing if the slot was deleted."""
    slot = id_to_memslot(kvm, id)
    if not mask or slot is None or slot.flags & MEMSLOT_INVALID:
        return
    if offset + mask.bit_length() <= slot.npages:
        kvm_arch_mmu_enable_log_dirty_pt_masked(kvm, slot, offset, mask)
