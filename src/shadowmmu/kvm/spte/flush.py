"""TLB flush requests. The MMU makes them; each vCPU serves its own at its next entry (kvm/exits/run.py).

No vCPU is inside the guest while the MMU works, so no CPU is interrupted: `remote_tlb_flush` stays 0, only
`remote_tlb_flush_requests` counts. A flush of a range is a full one, except on Hyper-V (`ranged_flush`):
there a hypercall does it at once, and nothing is requested or counted.
"""

from cython import uint as u32, ulonglong as u64

from ..bits import REQ_TLB_FLUSH
from ..state.memslots import MemSlot
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .ranged_flush import flush_gfn_range


def kvm_make_all_cpus_request(kvm: Kvm, request: u32) -> None:
    """Make a request to all vCPUs (kvm_make_all_cpus_request, 6.12.111)."""
    vcpu: Vcpu
    for vcpu in kvm.vcpus:
        vcpu.requests |= request


def kvm_flush_remote_tlbs(kvm: Kvm) -> None:
    """Request every vCPU to flush its whole TLB before it enters the guest again (6.12.111)."""
    kvm.stat.remote_tlb_flush_requests += 1
    kvm_make_all_cpus_request(kvm, REQ_TLB_FLUSH)


def kvm_flush_remote_tlbs_range(kvm: Kvm, gfn: u64, pages: u64) -> None:
    """Flush at least the translations to gfns [gfn, gfn + pages) from the TLBs of all vCPUs (6.12.111)."""
    if kvm.design.ranged_flush:
        flush_gfn_range(kvm, gfn, pages)
    else:
        kvm_flush_remote_tlbs(kvm)


def kvm_flush_remote_tlbs_memslot(kvm: Kvm, slot: MemSlot) -> None:
    """Flush at least the translations to a slot's pages from the TLBs of all vCPUs (6.12.111)."""
    kvm_flush_remote_tlbs_range(kvm, slot.base_gfn, slot.npages)
