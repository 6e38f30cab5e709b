"""A TLB flush of a range of gfns, done at once by the hypervisor that KVM runs on (kvm_x86_ops.
tlb_remote_flush_with_range, hv_remote_flush_tlb_with_range; before 6.3).

A TLB knows neither gfns nor SPTEs, so the entries are dropped that lead to the frames which back the gfns
now: whenever the host puts another frame there, KVM flushes everything.
"""

from cython import ulonglong as u64

from ...x86.bits import ADDR
from ..state.memslots import MemSlot
from ..state.vcpu import Vcpu
from ..state.vm import Kvm


def flush_gfn_range(kvm: Kvm, gfn: u64, pages: u64) -> None:
    """Drop the TLB entries of all vCPUs that lead to gfns [gfn, gfn + pages), as far as memslots
    back them.
    """
    first: u64 = 0
    count: u64 = 0
    end: u64 = gfn + pages
    while gfn < end:
        frame: u64 = _frame_behind(kvm, gfn)
        if count and frame == first + count:
            count += 1
        else:
            _flush_frames(kvm, first, count)
            first = frame
            count = 1 if frame else 0
        gfn += 1
    _flush_frames(kvm, first, count)


def _frame_behind(kvm: Kvm, gfn: u64) -> u64:
    """Return the host frame that backs a gfn; 0 if there is none."""
    slot: MemSlot | None = kvm.gfn_to_memslot(gfn)
    if slot is None:
        return 0
    return (slot.mapping.page(slot.page_index(gfn)) & ADDR) >> 12


def _flush_frames(kvm: Kvm, first: u64, count: u64) -> None:
    """Drop the TLB entries of all vCPUs that lead to `count` host frames; 0 frames: nothing."""
    vcpu: Vcpu
    if count:
        for vcpu in kvm.vcpus:
            vcpu.cpu.flush_frames(first << 12, count << 12)
