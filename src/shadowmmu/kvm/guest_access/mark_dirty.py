"""Recording that a page is dirty (mark_page_dirty_in_slot, virt/kvm/kvm_main.c, 6.12.111)."""

from cython import ulonglong as u64

from ..bits import MEM_LOG_DIRTY_PAGES
from ..state.memslots import MemSlot
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .dirty_ring import kvm_dirty_ring_push


def mark_page_dirty_in_slot(kvm: Kvm, slot: MemSlot, gfn: u64) -> int:
    """Record in the ring of the running vCPU, or in the slot's bitmap, that a page is dirty, if the slot
    logs.

    With rings a write while no vCPU runs is lost. A page freed by MADV_FREE is kept if it is written; the
    kernel learns that later, from the SPTE's Dirty bit (kvm_set_pfn_dirty), with the same result.
    """
    if slot.mapping.frees_lazily:
        slot.mapping.written(slot.page_index(gfn))
    if not slot.flags & MEM_LOG_DIRTY_PAGES:
        return 0
    if kvm.parameters.dirty_ring_size:
        vcpu: Vcpu | None = kvm.running_vcpu
        if vcpu is not None:
            kvm_dirty_ring_push(vcpu, slot.id, gfn - slot.base_gfn)
    else:
        slot.set_dirty_bit(gfn - slot.base_gfn)
    return 0


def kvm_release_page_dirty(kvm: Kvm, slot: MemSlot, gfn: u64) -> int:
    """Tell the host that a page is dirty, because it has been mapped, or may be made, writable.

    Without the switch mapping_dirties_page the kernel waits until an SPTE was written (kvm_set_pfn_dirty).
    Source: kvm_release_page_dirty, 7.3.
    """
    if slot.mapping.frees_lazily and kvm.design.mapping_dirties_page:
        slot.mapping.written(slot.page_index(gfn))
    return 0
