"""Events of the part of KVM that all architectures share (include/trace/events/kvm.h, 6.12.111)."""

from __future__ import annotations

from .event import Event, Tracepoint
from .fields import Gpa, Hva, Word


class Mmio(Event):
    """MMIO was emulated.

    type  0 a read that needs userspace, 1 a read completed, 2 a write
    len   bytes
    gpa   guest physical address
    val   value, 0 where it is not known
    """

    ftrace = "mmio {type:unsatisfied-read|read|write} len {len} gpa {gpa:#x} val {val:#x}"
    recorded = "text"
    type: int
    len: int
    gpa: Gpa
    val: Word


class UnmapHvaRange(Event):
    """The host is about to change its mappings of a range.

    start  first host virtual address
    end    the address after the last one
    """

    ftrace = "mmu notifier unmap range: {start:#016x} -- {end:#016x}"
    recorded = "start end"
    start: Hva
    end: Hva


class SetSpteHva(Event):
    """The host replaced a page in place (6.1).

    hva  host virtual address of the page
    """

    ftrace = "mmu notifier set pte hva: {hva:#016x}"
    recorded = "text"
    hva: Hva


class AgeHva(Event):
    """The host asks whether a range was accessed since it last asked.

    start  first host virtual address
    end    the address after the last one
    """

    ftrace = "mmu notifier age hva: {start:#016x} -- {end:#016x}"
    recorded = "start end"
    start: Hva
    end: Hva


class TestAgeHva(Event):
    """The host asks whether a page was accessed, and does not clear that.

    hva  host virtual address of the page
    """

    ftrace = "mmu notifier test age hva: {hva:#016x}"
    recorded = "hva"
    hva: Hva


class DirtyRingPush(Event):
    """A vCPU noted in its ring that a page is dirty.

    index        number of the vCPU
    dirty_index  entries ever pushed
    reset_index  entries ever emptied
    slot         memslot of the page, address space in bits 31:16
    offset       frame of the page in the slot
    """

    ftrace = (
        "ring {index}: dirty {dirty_index:#x} reset {reset_index:#x} slot {slot} offset {offset:#x}"
        " (used {used})"
    )
    recorded = "text"
    index: int
    dirty_index: Word
    reset_index: Word
    slot: int
    offset: Word

    @property
    def used(self) -> int:
        """Entries that are not empty."""
        return self.dirty_index - self.reset_index & 0xFFFFFFFF


class DirtyRingReset(Event):
    """The harvested entries of a ring were emptied; there may have been none.

    index        number of the vCPU
    dirty_index  entries ever pushed
    reset_index  entries ever emptied
    """

    ftrace = "ring {index}: dirty {dirty_index:#x} reset {reset_index:#x} (used {used})"
    recorded = "text"
    index: int
    dirty_index: Word
    reset_index: Word

    @property
    def used(self) -> int:
        """Entries that are not empty."""
        return self.dirty_index - self.reset_index & 0xFFFFFFFF


class DirtyRingExit(Event):
    """KVM_RUN ends because the vCPU's ring is nearly full.

    vcpu_id  number of the vCPU
    """

    ftrace = "vcpu {vcpu_id}"
    recorded = "text"
    vcpu_id: int


class HostTracepoints:
    """The tracepoints of memory and its notifiers."""

    kvm_mmio = Tracepoint(Mmio)
    kvm_unmap_hva_range = Tracepoint(UnmapHvaRange)
    kvm_set_spte_hva = Tracepoint(SetSpteHva, kernels="6.1.176")
    kvm_age_hva = Tracepoint(AgeHva)
    kvm_test_age_hva = Tracepoint(TestAgeHva)
    kvm_dirty_ring_push = Tracepoint(DirtyRingPush)
    kvm_dirty_ring_reset = Tracepoint(DirtyRingReset)
    kvm_dirty_ring_exit = Tracepoint(DirtyRingExit)
