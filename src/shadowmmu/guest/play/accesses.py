"""The fast path of a guest: a stream of accesses, with KVM behind every fault (the loop of vcpu_run)."""

from collections.abc import Sequence

from cython import uint as u32, ulonglong as u64

from ...kvm.bits import INVALID_PAGE, RET_PF_EFAULT, RET_PF_EMULATE, RET_PF_ENOSPC
from ...kvm.exits.run import vcpu_enter_guest
from ...kvm.exits.vmx_exits import handle_ept_exit, handle_page_fault
from ...kvm.fault.page_fault import kvm_mmu_page_fault
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import NESTED_FAULT, PF_VECTOR

SVM_EXIT_EXCP_PF = 0x4E
SVM_EXIT_NPF = 0x400


def run_accesses(vcpu: Vcpu, gvas: Sequence[int], kinds: Sequence[int], start: u64) -> u64:
    """Make the accesses from index `start` on; `len(gvas)`, or the index of one that needs more than the MMU.

    `gvas` has format 'Q', `kinds` format 'B': 0 read, 1 write, 2 fetch, plus 4 for CPL 3. If it stops early,
    either an exception is pending for the guest (vcpu.exception; a #GP if there is none and
    vcpu.cpu.fault_vector is 13), or vcpu.last_result is RET_PF_EMULATE, RET_PF_EFAULT or RET_PF_ENOSPC.
    """
    if vcpu.kvm.parameters.vmx:
        return _run_on_vmx(vcpu, gvas, kinds, start)
    n: u64 = len(gvas)
    i: u64 = start
    result: u32
    exiting: u64 = NESTED_FAULT if vcpu.kvm.parameters.tdp_enabled else PF_VECTOR
    while True:
        if vcpu.requests or vcpu.mmu.root_hpa == INVALID_PAGE:
            vcpu_enter_guest(vcpu)
        i = vcpu.cpu.run(gvas, kinds, i)
        if i == n or vcpu.cpu.fault_vector != exiting:
            return i
        if vcpu.kvm.tracing:
            trace_page_fault_exit(vcpu)
        address: u64 = vcpu.cpu.fault_gva if exiting == PF_VECTOR else vcpu.cpu.fault_gpa
        result = kvm_mmu_page_fault(vcpu, address, vcpu.cpu.fault_error_code)
        vcpu.last_result = result
        if result in (RET_PF_EMULATE, RET_PF_EFAULT, RET_PF_ENOSPC):
            return i
        if vcpu.exception is not None:
            return i


def _run_on_vmx(vcpu: Vcpu, gvas: Sequence[int], kinds: Sequence[int], start: u64) -> u64:
    """The same loop with an Intel processor's exits."""
    n: u64 = len(gvas)
    i: u64 = start
    result: u32
    exiting: u64 = NESTED_FAULT if vcpu.kvm.parameters.tdp_enabled else PF_VECTOR
    while True:
        if vcpu.requests or vcpu.mmu.root_hpa == INVALID_PAGE:
            vcpu_enter_guest(vcpu)
        i = vcpu.cpu.run(gvas, kinds, i)
        if i == n or vcpu.cpu.fault_vector != exiting:
            return i
        if exiting == NESTED_FAULT:
            result = handle_ept_exit(vcpu, vcpu.cpu.fault_gpa, vcpu.cpu.fault_error_code & 0xFFFFFFFF)
        else:
            result = handle_page_fault(vcpu, vcpu.cpu.fault_gva, vcpu.cpu.fault_error_code)
        vcpu.last_result = result
        if result in (RET_PF_EMULATE, RET_PF_EFAULT, RET_PF_ENOSPC) or vcpu.exception is not None:
            return i


def trace_page_fault_exit(vcpu: Vcpu) -> None:
    """kvm_exit and kvm_page_fault of an intercepted #PF, or of a nested page fault."""
    nested = vcpu.cpu.fault_vector == NESTED_FAULT
    address = vcpu.cpu.fault_gpa if nested else vcpu.cpu.fault_gva
    error_code = vcpu.cpu.fault_error_code
    reason = SVM_EXIT_NPF if nested else SVM_EXIT_EXCP_PF
    vcpu.kvm.tracer.kvm_exit(vcpu.id, reason, vcpu.rip, error_code, address)
    vcpu.kvm.tracer.kvm_page_fault(vcpu.id, vcpu.rip, address, error_code)
