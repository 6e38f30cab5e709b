"""The exit of a page fault, from the processor through KVM's MMU to what the guest has to see of it.

All guests leave on this way: scenarios and `Vm`, streams of accesses, random guests, programs. svm.c:
pf_interception, npf_interception; vmx.c: handle_exception_nmi, handle_ept_violation, handle_ept_misconfig,
handle_pml_full; 6.12.111.
"""

import errno

from cython import uint as u32, ulonglong as u64

from ...x86.bits import (
    EPT_R,
    EPT_RWX,
    EPT_VIOLATION_GVA_TRANSLATED,
    EPT_VIOLATION_GVA_USER,
    EPT_VIOLATION_GVA_VALID,
    EPT_VIOLATION_RWX_SHIFT,
    EPT_W,
    EPT_X,
    PF_VECTOR,
    PFERR_F,
    PFERR_GUEST_FINAL,
    PFERR_GUEST_PAGE,
    PFERR_P,
    PFERR_RSVD,
    PFERR_U,
    PFERR_W,
)
from ...x86.insn import Insn
from ...x86.svm import SVM_EXIT_EXCP_BASE, SVM_EXIT_NPF
from ...x86.vmx import EXIT_REASON_EPT_MISCONFIG, EXIT_REASON_EXCEPTION_NMI, EXIT_REASON_PML_FULL
from ..bits import RET_PF_EFAULT, RET_PF_EMULATE, RET_PF_ENOSPC, RET_PF_RETRY
from ..fault.page_fault import kvm_mmu_page_fault
from ..pages.unprotect import kvm_mmu_unprotect_page_virt
from ..state.vcpu import QueuedException, Vcpu
from ..state.vm import Kvm
from .emulate import Emulator
from .run import TripleFault
from .svm_exits import record_exit
from .vmx_exits import record_vmx_exit

SVM_EXIT_EXCP_PF = SVM_EXIT_EXCP_BASE + PF_VECTOR
INTR_INFO_PF = 0x80000B0E
"""Valid, a hardware exception with error code, vector 14."""
DF_VECTOR = 8
CONTRIBUTORY = (0, 10, 11, 12, 13)
ENDLESS = 10_000
"""Faults of one access, or of one instruction, after which they count as endless."""


class EndlessFaults(Exception):
    """KVM enters the guest again and again and the guest makes no progress: user space has to stop it."""


class KvmRunError(OSError):
    """KVM_RUN failed; `errno` says how."""


def page_fault_exit(vcpu: Vcpu, address: u64, error_code: u64, nested: u32) -> u32:
    """Handle an intercepted #PF, or with `nested` a fault of nested tables or of EPT; a RET_PF_* code.

    `address` is linear, or guest-physical with `nested`. `error_code` is the processor's; of EPT the exit
    qualification, in the low 32 bits. The result is kept in vcpu.last_result.

    The guest may have an exception afterwards (vcpu.exception). Raises TripleFault.
    """
    before: QueuedException | None = vcpu.exception
    result: u32 = handle_page_fault(vcpu, address, error_code, nested)
    if before is not None and vcpu.exception is not None and vcpu.exception is not before:
        second: QueuedException = vcpu.exception
        vcpu.exception = before
        vcpu.exception = merge_exceptions(before, second)
    return result


def handle_page_fault(vcpu: Vcpu, address: u64, error_code: u64, nested: u32) -> u32:
    """Do the same for a vCPU without an exception to deliver: record the exit, give the fault to the MMU."""
    result: u32
    vcpu.kvm.tally.page_fault_exits += 1
    if vcpu.kvm.parameters.vmx:
        result = _handle_vmx_exit(vcpu, address, error_code, nested)
    else:
        record_exit(vcpu, SVM_EXIT_NPF if nested else SVM_EXIT_EXCP_PF, error_code, address)
        if vcpu.kvm.tracing:
            vcpu.kvm.tracer.kvm_page_fault(vcpu.id, vcpu.rip, address, error_code)
        if not nested and vcpu.kvm.design.reinjection_unprotects_first:
            _unprotect_if_reinjecting(vcpu, address)
        result = kvm_mmu_page_fault(vcpu, address, error_code)
    vcpu.last_result = result
    return result


def _unprotect_if_reinjecting(vcpu: Vcpu, address: u64) -> None:
    """Zap what shadows the table at a linear address, if an event is to be delivered again (6.1)."""
    if vcpu.needs_reinjection():
        kvm_mmu_unprotect_page_virt(vcpu, address)


def _handle_vmx_exit(vcpu: Vcpu, address: u64, error_code: u64, nested: u32) -> u32:
    if nested:
        return _handle_ept_exit(vcpu, address, error_code & 0xFFFFFFFF)
    record_vmx_exit(vcpu, EXIT_REASON_EXCEPTION_NMI, address, INTR_INFO_PF, error_code)
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_page_fault(vcpu.id, vcpu.rip, address, error_code)
    if vcpu.kvm.design.reinjection_unprotects_first:
        _unprotect_if_reinjecting(vcpu, address)
    return kvm_mmu_page_fault(vcpu, address, error_code)


def _handle_ept_exit(vcpu: Vcpu, gpa: u64, qualification: u64) -> u32:
    """Handle the end of the processor's walk of EPT tables to `gpa`.

    A misconfiguration is an MMIO SPTE, of which the processor does not even say whether it is a write. A full
    log of dirty pages has been emptied by the exit as such.
    """
    reason: u64 = vcpu.cpu.ept.exit
    record_vmx_exit(vcpu, reason, qualification)
    if reason == EXIT_REASON_PML_FULL:
        if vcpu.kvm.tracing:
            vcpu.kvm.tracer.kvm_pml_full(vcpu.id)
        return RET_PF_RETRY
    if reason == EXIT_REASON_EPT_MISCONFIG:
        return kvm_mmu_page_fault(vcpu, gpa, PFERR_RSVD)
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_page_fault(vcpu.id, vcpu.rip, gpa, qualification)
    return kvm_mmu_page_fault(vcpu, gpa, ept_violation_error_code(vcpu.kvm, qualification))


def ept_violation_error_code(kvm: Kvm, qualification: u64) -> u64:
    """Return the error code that stands for an exit qualification (__vmx_handle_ept_violation).

    U stands for a read, or since 7.3 for an access to a user address, where the processor says so; P is set
    if the tables grant anything.
    """
    error_code: u64 = 0
    user: u64 = EPT_R if kvm.design.ept_read_is_user else EPT_VIOLATION_GVA_USER
    if qualification & user:
        error_code |= PFERR_U
    if qualification & EPT_W:
        error_code |= PFERR_W
    if qualification & EPT_X:
        error_code |= PFERR_F
    if qualification & EPT_RWX << EPT_VIOLATION_RWX_SHIFT:
        error_code |= PFERR_P
    if qualification & EPT_VIOLATION_GVA_VALID:
        final: bool = qualification & EPT_VIOLATION_GVA_TRANSLATED != 0
        error_code |= PFERR_GUEST_FINAL if final else PFERR_GUEST_PAGE
    return error_code


def must_emulate(vcpu: Vcpu, address: u64) -> bool:
    """Return whether the fault at `address` is for the emulator. Raises KvmRunError if KVM_RUN fails."""
    if vcpu.last_result == RET_PF_EFAULT:
        raise KvmRunError(errno.EFAULT, f"the host refuses the page that backs {address:#x}")
    if vcpu.last_result == RET_PF_ENOSPC:
        raise KvmRunError(errno.ENOSPC, "no shadow page is left")
    return vcpu.last_result == RET_PF_EMULATE


def complete_page_fault(vcpu: Vcpu, emulator: Emulator, insn: Insn, address: u64) -> bool:
    """Do what the last page_fault_exit asks for; return whether the instruction was completed by emulation.

    Raises KvmRunError or EmulationError when KVM_RUN ends.
    """
    return must_emulate(vcpu, address) and emulator.emulate(insn, address, vcpu.emulation_type)


def merge_exceptions(first: QueuedException, second: QueuedException) -> QueuedException:
    """Return what the guest gets when `second` happens while `first` is delivered. Raises TripleFault."""
    if first.vector == DF_VECTOR:
        raise TripleFault
    if first.vector == PF_VECTOR:
        double = second.vector == PF_VECTOR or second.vector in CONTRIBUTORY
    else:
        double = first.vector in CONTRIBUTORY and second.vector in CONTRIBUTORY
    return QueuedException(DF_VECTOR, 0, None) if double else second
