"""KVM_RESET_DIRTY_RINGS: protecting again what user space has harvested (virt/kvm/dirty_ring.c, 6.12.111)."""

import errno

from ..bits import DIRTY_GFN_RESET, MEMSLOT_INVALID
from ..guest_access.dirty_ring import DirtyRing, dirty_ring_of
from ..spte.flush import kvm_flush_remote_tlbs
from ..state.vm import Kvm
from .dirty_log import kvm_arch_mmu_enable_log_dirty_pt_masked
from .memory_region import RegionError, id_to_memslot


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
