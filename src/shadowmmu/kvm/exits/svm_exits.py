"""VM exits of an AMD processor without decode assists (svm.c, 6.12.111)."""

from cython import ulonglong as u64

from ...x86.bits import CR0_CD, CR0_MP, CR0_NW, CR0_PG, CR0_TS, CR0_WP, GP_VECTOR
from ...x86.insn import Insn, Op
from ...x86.svm import (
    SVM_EXIT_CR0_SEL_WRITE,
    SVM_EXIT_ERR,
    SVM_EXIT_INVLPG,
    SVM_EXIT_INVLPGA,
    SVM_EXIT_IOIO,
    SVM_EXIT_MSR,
    SVM_EXIT_SHUTDOWN,
    SVM_EXIT_VMMCALL,
    SVM_EXIT_VMRUN,
    SVM_EXIT_WRITE_CR0,
)
from ..registers.invlpg import kvm_mmu_invlpg
from ..registers.msr import is_intercepted, set_msr
from ..registers.nested import (
    nested_svm_can_vmrun,
    nested_svm_check_permissions,
    nested_svm_vmexit,
    nested_svm_vmrun,
)
from ..registers.regs import kvm_vcpu_reset
from ..state.vcpu import QueuedException, Vcpu
from .emulate import Emulator
from .run import TripleFault


class EntryFailed(Exception):
    """The processor refuses the guest's registers: KVM_RUN ends with KVM_EXIT_FAIL_ENTRY."""


def record_exit(vcpu: Vcpu, reason: u64, info1: u64, info2: u64) -> int:
    """Record a VM exit; with nested paging first read back CR3, which changes without exits."""
    if vcpu.kvm.parameters.tdp_enabled:
        vcpu.cr3 = vcpu.cpu.root
    vcpu.exit_code = reason
    vcpu.exit_info1 = info1
    vcpu.exit_info2 = info2
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_exit(vcpu.id, reason, vcpu.rip, info1, info2)
        if vcpu.guest_mode:
            vcpu.kvm.tracer.kvm_nested_vmexit(vcpu.id, reason, vcpu.rip, info1, info2)
    return 0


def check_entry(vcpu: Vcpu) -> None:
    """Check the guest's registers as the processor does at VMRUN (VMEXIT_INVALID); a failed entry of L2 is
    reported to L1.

    A VMRUN of L1 is counted once its L2 has passed. Raises EntryFailed.
    """
    pending, vcpu.nested_run_pending = vcpu.nested_run_pending, False
    if not vcpu.efer & vcpu.efer_missing:
        vcpu.stat.nested_run += pending
        return
    record_exit(vcpu, SVM_EXIT_ERR & 0xFFFFFFFF, 0, 0)
    if not vcpu.guest_mode:
        raise EntryFailed
    nested_svm_vmexit(vcpu)


def port_exit(vcpu: Vcpu, port: int, length: int) -> None:
    """Record the exit of an OUT of one byte by an instruction of `length` bytes, which user space
    completes.
    """
    record_exit(vcpu, SVM_EXIT_IOIO, port << 16 | 0x10, vcpu.rip + length)


def cr0_exit_reason(vcpu: Vcpu, value: int) -> int | None:
    """Return why MOV to CR0 exits: always if the processor's CR0 is not the guest's, else if it changes more
    than TS and MP; None if it does not exit.
    """
    forced = 0 if vcpu.kvm.parameters.tdp_enabled else CR0_PG | CR0_WP
    if (vcpu.cr0 | forced) & ~(CR0_CD | CR0_NW) != vcpu.cr0:
        return SVM_EXIT_WRITE_CR0
    if (vcpu.cr0 ^ value) & ~(CR0_TS | CR0_MP) & 0xFFFFFFFF:
        return SVM_EXIT_CR0_SEL_WRITE
    return None


def set_cr0_in_guest(vcpu: Vcpu, value: int) -> bool:
    """Execute a MOV to CR0 that does not exit. Return False if it exits."""
    if cr0_exit_reason(vcpu, value) is not None:
        return False
    keep = ~(CR0_TS | CR0_MP)
    vcpu.cr0 = (vcpu.cr0 & keep) | (value & ~keep)
    return True


def intercept(vcpu: Vcpu, emulator: Emulator, insn: Insn) -> bool:
    """Execute an instruction that exits: INVLPG and MOV to control registers are emulated, others are
    handled.

    Return whether it is completed; if not, an exception is pending, or the vCPU is L1 now.
    """
    if insn.op in _NESTED_INSTRUCTIONS:
        return _NESTED_INSTRUCTIONS[insn.op](vcpu, emulator, insn)
    reason = {
        Op.INVLPG: SVM_EXIT_INVLPG,
        Op.MOV_CR0: cr0_exit_reason(vcpu, insn.value) or 0,
        Op.MOV_CR3: SVM_EXIT_WRITE_CR0 + 3,
        Op.MOV_CR4: SVM_EXIT_WRITE_CR0 + 4,
    }
    if insn.op in reason:
        record_exit(vcpu, reason[insn.op], 0, 0)
        return emulator.emulate(insn)
    if not is_intercepted(insn.count):
        return True
    record_exit(vcpu, SVM_EXIT_MSR, 1, 0)
    return _write_msr(vcpu, emulator, insn)


def _vmrun(vcpu: Vcpu, emulator: Emulator, insn: Insn) -> bool:
    """Execute VMRUN of L1."""
    record_exit(vcpu, SVM_EXIT_VMRUN, 0, 0)
    if not nested_svm_check_permissions(vcpu) or not nested_svm_can_vmrun(vcpu, insn.value):
        return False
    emulator.skip(insn)
    vcpu.rip += len(insn.code)
    nested_svm_vmrun(vcpu, insn.value)
    return True


def _vmmcall(vcpu: Vcpu, emulator: Emulator, insn: Insn) -> bool:
    """Execute VMMCALL of L2, which L1 intercepts."""
    record_exit(vcpu, SVM_EXIT_VMMCALL, 0, 0)
    nested_svm_vmexit(vcpu)
    return False


def _invlpga(vcpu: Vcpu, emulator: Emulator, insn: Insn) -> bool:
    """Execute INVLPGA of L1: as INVLPG, whatever the ASID."""
    record_exit(vcpu, SVM_EXIT_INVLPGA, 0, 0)
    if not nested_svm_check_permissions(vcpu):
        return False
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_invlpga(vcpu.rip, insn.count, insn.value)
    kvm_mmu_invlpg(vcpu, insn.value)
    emulator.skip(insn)
    return True


_NESTED_INSTRUCTIONS = {Op.VMRUN: _vmrun, Op.VMMCALL: _vmmcall, Op.INVLPGA: _invlpga}


def reserved_cr3(vcpu: Vcpu) -> None:
    """Queue #GP for a CR3 beyond the processor's MAXPHYADDR, which KVM does not see with two-dimensional
    paging.

    Raises EntryFailed instead on a processor that refuses to enter such a guest.
    """
    if not vcpu.bad_cr3_fails_entry:
        vcpu.exception = QueuedException(GP_VECTOR, 0, None)
        return
    record_exit(vcpu, SVM_EXIT_ERR & 0xFFFFFFFF, 0, 0)
    raise EntryFailed


def shutdown_exit(vcpu: Vcpu) -> None:
    """Handle a shutdown: L2's is reported to L1; else KVM_RUN ends and the vCPU is reset.

    Raises TripleFault unless it was L2.
    """
    record_exit(vcpu, SVM_EXIT_SHUTDOWN, 0, 0)
    if vcpu.guest_mode:
        nested_svm_vmexit(vcpu)
        return
    kvm_vcpu_reset(vcpu)
    raise TripleFault


def _write_msr(vcpu: Vcpu, emulator: Emulator, insn: Insn) -> bool:
    """Execute WRMSR. Return whether it is completed; else #GP is pending."""
    accepted = set_msr(vcpu, insn.count, insn.value)
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_msr(True, insn.count, insn.value, not accepted)
    if not accepted:
        vcpu.exception = QueuedException(GP_VECTOR, 0, None)
        return False
    emulator.skip(insn)
    return True
