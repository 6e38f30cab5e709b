"""VM exits of an Intel processor (vmx.c, 6.12.111), with the interface of svm_exits.py.

What differs from AMD's as far as memory is concerned: nested page faults are EPT violations and
misconfigurations, with an exit qualification instead of an error code; instructions that exit are carried out
without the emulator, which need not even find their end; the guest owns CR0.TS, with EPT also CR0.WP and bits
of CR4; and every exit empties the log of dirty pages.
"""

from ...x86.bits import (
    CR0_TS,
    CR0_WP,
    CR4_DE,
    CR4_FSGSBASE,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PCE,
    CR4_PGE,
    CR4_PVI,
    CR4_TSD,
    GP_VECTOR,
)
from ...x86.insn import Insn, Op
from ...x86.vmx import (
    EXIT_REASON_CR_ACCESS,
    EXIT_REASON_INVALID_STATE,
    EXIT_REASON_INVLPG,
    EXIT_REASON_IO_INSTRUCTION,
    EXIT_REASON_MSR_WRITE,
    EXIT_REASON_TRIPLE_FAULT,
    FAILED_VMENTRY,
    INTR_INFO_DELIVER_CODE,
    INTR_INFO_VALID,
    INTR_TYPE_HARD_EXCEPTION,
    INTR_TYPE_SOFT_INTR,
)
from ..registers.invlpg import kvm_mmu_invlpg
from ..registers.msr import SYSENTER_MSRS, set_msr
from ..registers.pml import vmx_flush_pml_buffer
from ..registers.regs import kvm_set_cr0, kvm_set_cr3, kvm_set_cr4
from ..state.vcpu import QueuedException, Vcpu
from ..tracepoints.reasons import KVM_ISA_VMX
from .emulate import Emulator
from .run import TripleFault, configure_cpu
from .svm_exits import EntryFailed


class PdpteFault(Exception):
    """The PDPTEs of a guest could not be loaded: they are not valid, or EPT does not map their table."""


RDI = 7
CR4_GUEST_OWNED = CR4_PVI | CR4_DE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_PGE | CR4_TSD | CR4_FSGSBASE
PASSTHROUGH_MSRS = (*SYSENTER_MSRS, 0x10, 0xC0000100, 0xC0000101, 0xC0000102)
"""SYSENTER_*, TSC, FS_BASE, GS_BASE, KERNEL_GS_BASE."""


def record_vmx_exit(vcpu: Vcpu, reason: int, info1: int, intr_info: int = 0, error_code: int = 0) -> None:
    """Record a VM exit and empty the log of dirty pages; with EPT first read back CR3."""
    if vcpu.kvm.parameters.tdp_enabled:
        vcpu.cr3 = vcpu.cpu.root
    info2 = 0 if reason == EXIT_REASON_TRIPLE_FAULT else _idt_vectoring_info(vcpu)
    vcpu.exit_code, vcpu.exit_info1, vcpu.exit_info2 = reason, info1, info2
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_exit(vcpu.id, reason, vcpu.rip, info1, info2, KVM_ISA_VMX, intr_info, error_code)
    vmx_flush_pml_buffer(vcpu)


def _idt_vectoring_info(vcpu: Vcpu) -> int:
    """Return the IDT-vectoring information: the event whose delivery the exit interrupted, else 0
    (Intel SDM vol. 3C, 25.9.3).
    """
    if vcpu.exception is not None:
        with_code = 0 if vcpu.exception.error_code is None else INTR_INFO_DELIVER_CODE
        return INTR_INFO_VALID | INTR_TYPE_HARD_EXCEPTION | with_code | vcpu.exception.vector
    if vcpu.soft_interrupt is not None:
        return INTR_INFO_VALID | INTR_TYPE_SOFT_INTR | vcpu.soft_interrupt.vector
    return 0


def check_entry(vcpu: Vcpu) -> None:
    """Check the guest's registers as VM entry does. Raises EntryFailed."""
    if vcpu.efer & vcpu.efer_missing:
        record_vmx_exit(vcpu, FAILED_VMENTRY | EXIT_REASON_INVALID_STATE, 0)
        raise EntryFailed


# -- instructions ------------------------------------------------------------------------------------------


def port_exit(vcpu: Vcpu, port: int, length: int) -> None:
    """Handle OUT of one byte to an immediate port: user space takes over."""
    record_vmx_exit(vcpu, EXIT_REASON_IO_INSTRUCTION, port << 16 | 0x40)


def set_cr0_in_guest(vcpu: Vcpu, value: int) -> bool:
    """Execute a MOV to CR0 that changes only bits owned by the guest. Return False if it exits. Raises
    PdpteFault.
    """
    owned = CR0_TS | (CR0_WP if vcpu.kvm.parameters.tdp_enabled else 0)
    if (vcpu.cr0 ^ value) & ~owned & 0xFFFFFFFF:
        return False
    if vcpu.cpu.walker.implementation.mov_cr0_loads_pdptes and vcpu.kvm.parameters.tdp_enabled:
        load_pdptes(vcpu, vcpu.cr3)
    vcpu.cr0 = (vcpu.cr0 & ~owned) | (value & owned)
    configure_cpu(vcpu)
    return True


def _move_to_cr4(vcpu: Vcpu, value: int) -> bool:
    """Execute MOV to CR4; it exits unless it changes only bits owned by the guest, and checks the PDPTEs if
    PGE changes.
    """
    owned = CR4_GUEST_OWNED & (-1 if vcpu.kvm.parameters.tdp_enabled else ~CR4_PGE)
    changed = (vcpu.cr4 ^ value) & 0xFFFFFFFF
    if changed & ~owned:
        return _write_cr(vcpu, 4, value)
    if changed & CR4_PGE:
        load_pdptes(vcpu, vcpu.cr3)
        vcpu.cpu.flush_all()
    vcpu.cr4 ^= changed
    configure_cpu(vcpu)
    return True


def load_pdptes(vcpu: Vcpu, cr3: int) -> None:
    """Load the PDPTE registers, if the guest's paging has any. Raises PdpteFault; vcpu.cpu says how."""
    if vcpu.is_pae_paging() and not vcpu.cpu.load_pdptes(cr3):
        raise PdpteFault


def intercept(vcpu: Vcpu, emulator: Emulator, insn: Insn) -> bool:
    """Execute an instruction that exits, or may. Return whether it is completed; else an exception is
    pending.
    """
    match insn.op:
        case Op.INVLPG:
            record_vmx_exit(vcpu, EXIT_REASON_INVLPG, insn.address)
            kvm_mmu_invlpg(vcpu, insn.address)
            return True
        case Op.MOV_CR0:
            return _write_cr(vcpu, 0, insn.value)
        case Op.MOV_CR3:
            return _write_cr(vcpu, 3, insn.value)
        case Op.MOV_CR4:
            return _move_to_cr4(vcpu, insn.value)
        case Op.WRMSR:
            return insn.count in PASSTHROUGH_MSRS or _write_msr(vcpu, insn)
        case _:
            raise NotImplementedError(f"{insn.op.name} on an Intel processor")


def _write_cr(vcpu: Vcpu, number: int, value: int) -> bool:
    record_vmx_exit(vcpu, EXIT_REASON_CR_ACCESS, number | RDI << 8)
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_cr(True, number, value)
    setter = {0: kvm_set_cr0, 3: kvm_set_cr3, 4: kvm_set_cr4}[number]
    return _complete(vcpu, accepted=setter(vcpu, value))


def _write_msr(vcpu: Vcpu, insn: Insn) -> bool:
    record_vmx_exit(vcpu, EXIT_REASON_MSR_WRITE, 0)
    accepted = set_msr(vcpu, insn.count, insn.value)
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_msr(True, insn.count, insn.value, not accepted)
    return _complete(vcpu, accepted=accepted)


def _complete(vcpu: Vcpu, *, accepted: bool) -> bool:
    """Queue #GP for a value that was not accepted (kvm_complete_insn_gp)."""
    if not accepted:
        vcpu.exception = QueuedException(GP_VECTOR, 0, None)
    return accepted


def reserved_cr3(vcpu: Vcpu) -> None:
    """Queue #GP for a CR3 beyond the processor's MAXPHYADDR, which KVM does not see with EPT."""
    vcpu.exception = QueuedException(GP_VECTOR, 0, None)


def shutdown_exit(vcpu: Vcpu) -> None:
    """Record a triple fault: KVM_RUN ends, the vCPU stays as it is. Raises TripleFault."""
    record_vmx_exit(vcpu, EXIT_REASON_TRIPLE_FAULT, 0)
    raise TripleFault
