"""The dirty ring: a list of dirty pages for each vCPU, shared with user space (virt/kvm/dirty_ring.c,
6.12.111).

An entry has 16 bytes, as in struct kvm_dirty_gfn: flags (32 bits), slot (32 bits), page index in the slot (64
bits). KVM fills an entry and flags it DIRTY; user space reads it and flags it RESET (harvested); KVM empties
harvested entries and write-protects their pages again.
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
    """The ring of one vCPU (struct kvm_dirty_ring).

    Attributes:
        index: Number of the vCPU.
        size: Number of entries, a power of two.
        soft_limit: Number of used entries from which on the vCPU must not enter the guest.
        dirty_index: Number of entries filled so far, modulo 2^32.
        reset_index: Number of entries emptied so far, modulo 2^32; dirty_index - reset_index is at most size.
        words: u64 words of the entries, two each: flags | slot << 32, then the page index (dirty_gfns).
    """

    def __init__(self, index: int, size: u32, reserved: u32) -> None:
        self.index = index
        self.size = size
        self.soft_limit = size - reserved
        self.dirty_index = 0
        self.reset_index = 0
        self.words = sparse_words(2 * size)

    def used(self) -> u32:
        """Return the number of entries that are filled and not emptied yet."""
        return (self.dirty_index - self.reset_index) & 0xFFFFFFFF

    def is_soft_full(self) -> bool:
        """Return whether the vCPU must not enter the guest until entries are emptied
        (kvm_dirty_ring_soft_full).
        """
        return self.used() >= self.soft_limit

    def flags(self, index: u32) -> u64:
        """Return DIRTY_GFN_* of an entry; `index` counts as dirty_index does."""
        return self.words[2 * (index & (self.size - 1))] & 0xFFFFFFFF

    def slot(self, index: u32) -> u64:
        """Return the slot's number in an entry; `index` counts as dirty_index does."""
        return self.words[2 * (index & (self.size - 1))] >> 32

    def offset(self, index: u32) -> u64:
        """Return the page index in an entry; `index` counts as dirty_index does."""
        return self.words[2 * (index & (self.size - 1)) + 1]

    def set_flags(self, index: u32, flags: u64) -> None:
        """Store DIRTY_GFN_* in an entry."""
        at: u64 = 2 * (index & (self.size - 1))
        self.words[at] = (self.words[at] & ~0xFFFFFFFF) | flags

    def fill(self, slot: u64, offset: u64) -> None:
        """Write the next entry: its contents first, then the flag that makes them valid
        (kvm_dirty_ring_push).
        """
        at: u64 = 2 * (self.dirty_index & (self.size - 1))
        self.words[at + 1] = offset
        self.words[at] = slot << 32
        self.set_flags(self.dirty_index, DIRTY_GFN_DIRTY)
        self.dirty_index = (self.dirty_index + 1) & 0xFFFFFFFF

    def entries(self) -> set[tuple[int, int]]:
        """Return (slot, page index) of every entry that is filled and not emptied yet."""
        counts = range(self.used())
        indices = [self.reset_index + n & 0xFFFFFFFF for n in counts]
        return {(self.slot(index), self.offset(index)) for index in indices}

    def harvest(self) -> list[tuple[int, int]]:
        """Flag all dirty entries as harvested, as user space does, and return their (slot, page index)."""
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
    """Return the ring of a vCPU. Raises LookupError if the VM has no rings."""
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
    """Add a page of a slot to the vCPU's ring; a ring that is nearly full requests an exit."""
    kvm: Kvm = vcpu.kvm
    ring: DirtyRing = dirty_ring_of(vcpu)
    ring.fill(slot, offset)
    if kvm.tracing:
        kvm.tracer.kvm_dirty_ring_push(ring.index, ring.dirty_index, ring.reset_index, slot, offset)
    if ring.is_soft_full():
        vcpu.requests |= REQ_DIRTY_RING_SOFT_FULL


def kvm_dirty_ring_check_request(vcpu: Vcpu) -> bool:
    """Return whether the vCPU must not enter the guest because its ring is nearly full.

    The request stays pending until entries are emptied.
    """
    if not vcpu.requests & REQ_DIRTY_RING_SOFT_FULL:
        return False
    vcpu.requests &= ~REQ_DIRTY_RING_SOFT_FULL
    if not dirty_ring_of(vcpu).is_soft_full():
        return False
    vcpu.requests |= REQ_DIRTY_RING_SOFT_FULL
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_dirty_ring_exit(vcpu.id)
    return True
