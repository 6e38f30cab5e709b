"""TLB flush requests. The MMU requests; each vCPU serves its requests at its next entry (kvm/run.py).

No vCPU is ever inside the guest while the MMU works, so no CPU is kicked: `remote_tlb_flush` stays, and
`remote_tlb_flush_requests` counts. Without Hyper-V a ranged flush is a full one.
"""

from cython import uint as u32

from .bits import REQ_TLB_FLUSH
from .vcpu import Vcpu
from .vm import Kvm


def kvm_make_all_cpus_request(kvm: Kvm, request: u32) -> None:
    """Make a request to all vCPUs (kvm_make_all_cpus_request, 6.12.111)."""
    vcpu: Vcpu
    for vcpu in kvm.vcpus:
        vcpu.requests |= request


def kvm_flush_remote_tlbs(kvm: Kvm) -> None:
    """Ask every vCPU to flush its whole TLB before it enters the guest again (6.12.111)."""
    kvm.stat.remote_tlb_flush_requests += 1
    kvm_make_all_cpus_request(kvm, REQ_TLB_FLUSH)
