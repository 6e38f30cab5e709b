"""Exceptions injected into the guest (kvm_inject_emulated_page_fault, 6.12.111)."""

from cython import ulonglong as u64

from ...x86.bits import PF_VECTOR, PFERR_P, PFERR_RSVD
from ..state.vcpu import QueuedException, Vcpu
from .invlpg import kvm_mmu_invalidate_addr
from .nested import nested_svm_inject_npf_exit


def kvm_inject_page_fault(vcpu: Vcpu, addr: u64, error_code: u64) -> None:
    """Queue the #PF of a failed guest walk; for an L2 address exit to L1 instead.

    A permission fault means that the guest's tables may have changed under a cached translation: first the
    address is flushed and its SPTE synced.
    """
    nested = vcpu.mmu_is_nested()
    if error_code & PFERR_P and not error_code & PFERR_RSVD:
        mmu = vcpu.guest_mmu if nested else vcpu.walk_mmu
        kvm_mmu_invalidate_addr(vcpu, mmu, addr, prev_roots=False)
    if nested:
        nested_svm_inject_npf_exit(vcpu, addr, error_code)
        return
    vcpu.stat.pf_guest += 1
    vcpu.exception = QueuedException(PF_VECTOR, error_code, addr)
