"""Exceptions for the guest (kvm_inject_emulated_page_fault, 6.12.111)."""

from cython import ulonglong as u64

from ..x86.bits import PF_VECTOR, PFERR_P, PFERR_RSVD
from .invlpg import invalidate_addr_in_current_root
from .vcpu import QueuedException, Vcpu


def kvm_inject_page_fault(vcpu: Vcpu, addr: u64, error_code: u64) -> None:
    """Queue the #PF that a guest walk ended in.

    A permission fault means that the guest's tables may have changed under a cached translation: what is
    cached for the address is dropped and its SPTE synced first.
    """
    if error_code & PFERR_P and not error_code & PFERR_RSVD:
        invalidate_addr_in_current_root(vcpu, addr)
    vcpu.stat.pf_guest += 1
    vcpu.exception = QueuedException(PF_VECTOR, error_code, addr)
