"""The dirty ring: every vCPU writes down which pages it made dirty (virt/kvm/dirty_ring.c, 6.12.111).

A ring is shared with user space, 16 bytes an entry as in struct kvm_dirty_gfn: flags (32 bits), slot (32
bits), page number in the slot (64 bits). KVM fills an entry and flags it dirty; user space takes it and flags
it harvested; KVM empties harvested entries and protects their pages again.
"""

from cython import uint as u32, ulonglong as u64

from ...host.memory import sparse_words
from ..bits import DIRTY_GFN_DIRTY, DIRTY_GFN_RESET, REQ_DIRTY_RING_SOFT_FULL
from ..state.vcpu import Vcpu
from ..state.vm import Kvm

RESERVED_ENTRIES = 64
MAX_ENTRIES = 65536
ENTRY_BYTES = 16


class DirtyRing:
    """The ring of one vCPU, with room for `size` entries (a power of two).

    dirty_index and reset_index count entries filled and emptied, 32 bits each. From soft_limit used entries
    on the vCPU may not enter the guest.
    """

    def __init__(self, index: int, size: u32, reserved: u32) -> None:
        self.index = index
        self.size = size
        self.soft_limit = size - reserved
        self.dirty_index = 0
        self.reset_index = 0
        self.words = sparse_words(2 * size)

    def used(self) -> u32:
        """Entries filled and not emptied yet."""
        return (self.dirty_index - self.reset_index) & 0xFFFFFFFF

    def is_soft_full(self) -> bool:
        return self.used() >= self.soft_limit

    def flags(self, index: u32) -> u64:
        """DIRTY_GFN_* of the entry at a count."""
        return self.words[2 * (index & (self.size - 1))] & 0xFFFFFFFF

    def slot(self, index: u32) -> u64:
        return self.words[2 * (index & (self.size - 1))] >> 32

    def offset(self, index: u32) -> u64:
        return self.words[2 * (index & (self.size - 1)) + 1]

    def set_flags(self, index: u32, flags: u64) -> None:
        at: u64 = 2 * (index & (self.size - 1))
        self.words[at] = (self.words[at] & ~0xFFFFFFFF) | flags

    def fill(self, slot: u64, offset: u64) -> None:
        """Write the next entry: what is in it first, then that it is dirty."""
        at: u64 = 2 * (self.dirty_index & (self.size - 1))
        self.words[at + 1] = offset
        self.words[at] = slot << 32
        self.set_flags(self.dirty_index, DIRTY_GFN_DIRTY)
        self.dirty_index = (self.dirty_index + 1) & 0xFFFFFFFF

    def entries(self) -> set[tuple[int, int]]:
        """Return (slot, page number) of every entry that was filled and not emptied yet."""
        counts = range(self.used())
        indices = [self.reset_index + n & 0xFFFFFFFF for n in counts]
        return {(self.slot(index), self.offset(index)) for index in indices}

    def harvest(self) -> list[tuple[int, int]]:
        """What user space does: take every dirty entry, as (slot, page number), and flag it so."""
        found = []
        index: u32 = self.reset_index
        while index != self.dirty_index and self.flags(index) == DIRTY_GFN_RESET:
            index = (index + 1) & 0xFFFFFFFF
        while index != self.dirty_index and self.flags(index) == DIRTY_GFN_DIRTY:
            found.append((self.slot(index), self.offset(index)))
            self.set_flags(index, DIRTY_GFN_RESET)
            index = (index + 1) & 0xFFFFFFFF
        return found


def dirty_ring_of(vcpu: Vcpu) -> DirtyRing:
    """The ring of a vCPU. Raises LookupError if the VM has no rings."""
    ring: DirtyRing | None = vcpu.dirty_ring
    if ring is None:
        raise LookupError("the VM has no dirty rings")
    return ring


def kvm_dirty_ring_alloc(vcpu: Vcpu) -> None:
    """Give a new vCPU its ring, if the VM uses rings."""
    parameters = vcpu.kvm.parameters
    if parameters.dirty_ring_size:
        reserved = RESERVED_ENTRIES + parameters.cpu_dirty_log_size
        vcpu.dirty_ring = DirtyRing(vcpu.id, parameters.dirty_ring_size // ENTRY_BYTES, reserved)


def kvm_dirty_ring_push(vcpu: Vcpu, slot: u64, offset: u64) -> None:
    """Write down that a page of a slot is dirty."""
    kvm: Kvm = vcpu.kvm
    ring: DirtyRing = dirty_ring_of(vcpu)
    ring.fill(slot, offset)
    if kvm.tracing:
        kvm.tracer.kvm_dirty_ring_push(ring.index, ring.dirty_index, ring.reset_index, slot, offset)
    if ring.is_soft_full():
        vcpu.requests |= REQ_DIRTY_RING_SOFT_FULL


def kvm_dirty_ring_check_request(vcpu: Vcpu) -> bool:
    """Whether the vCPU may not enter the guest because its ring is nearly full; it stays so until a reset."""
    if not vcpu.requests & REQ_DIRTY_RING_SOFT_FULL:
        return False
    vcpu.requests &= ~REQ_DIRTY_RING_SOFT_FULL
    if not dirty_ring_of(vcpu).is_soft_full():
        return False
    vcpu.requests |= REQ_DIRTY_RING_SOFT_FULL
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_dirty_ring_exit(vcpu.id)
    return True
