"""TLB flush requests. The MMU requests; each vCPU serves its requests at its next entry (kvm/exits/run.py).

No vCPU is ever inside the guest while the MMU works, so no CPU is kicked: `remote_tlb_flush` stays, and
`remote_tlb_flush_requests` counts. A flush of a range is a full one, except on Hyper-V (`ranged_flush`):
there a call of the hypervisor does it at once, and nothing is requested nor counted.
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
    """Ask every vCPU to flush its whole TLB before it enters the guest again (6.12.111)."""
    kvm.stat.remote_tlb_flush_requests += 1
    kvm_make_all_cpus_request(kvm, REQ_TLB_FLUSH)


def kvm_flush_remote_tlbs_range(kvm: Kvm, gfn: u64, pages: u64) -> None:
    """Let every vCPU forget at least what leads to gfns [gfn, gfn + pages) (6.12.111)."""
    if kvm.design.ranged_flush:
        flush_gfn_range(kvm, gfn, pages)
    else:
        kvm_flush_remote_tlbs(kvm)


def kvm_flush_remote_tlbs_memslot(kvm: Kvm, slot: MemSlot) -> None:
    """The same for all pages of a slot (6.12.111)."""
    kvm_flush_remote_tlbs_range(kvm, slot.base_gfn, slot.npages)
