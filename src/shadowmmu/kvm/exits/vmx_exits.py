"""VM exits of an Intel processor (vmx.c, 6.12.111), with the interface of exits.py.

What differs from AMD's as far as memory is concerned: nested page faults are EPT violations and
misconfigurations, with an exit qualification instead of an error code; instructions that exit are carried out
without the emulator, which need not even find their end; CR0.TS, with EPT also CR0.WP and bits of CR4, are
the guest's own; and every exit empties the log of dirty pages.
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
    EPT_R,
    EPT_RWX,
    EPT_VIOLATION_GVA_TRANSLATED,
    EPT_VIOLATION_GVA_VALID,
    EPT_VIOLATION_RWX_SHIFT,
    EPT_W,
    EPT_X,
    EXIT_EPT_MISCONFIG,
    EXIT_PML_FULL,
    GP_VECTOR,
    PFERR_F,
    PFERR_GUEST_FINAL,
    PFERR_GUEST_PAGE,
    PFERR_P,
    PFERR_RSVD,
    PFERR_U,
    PFERR_W,
)
from ...x86.insn import Insn, Op
from ..bits import RET_PF_RETRY
from ..fault.page_fault import kvm_mmu_page_fault
from ..guest_access.pdptrs import read_pdptrs
from ..pages.role import kvm_init_mmu
from ..pages.unprotect import kvm_mmu_unprotect_page_virt
from ..registers.invlpg import kvm_mmu_invlpg
from ..registers.msr import SYSENTER_MSRS, set_msr
from ..registers.pml import vmx_flush_pml_buffer
from ..registers.regs import kvm_set_cr0, kvm_set_cr3, kvm_set_cr4
from ..state.vcpu import QueuedException, Vcpu
from ..tracepoints.reasons import KVM_ISA_VMX
from .emulate import Emulator
from .run import TripleFault, configure_cpu
from .svm_exits import EntryFailed, finish_page_fault

EXIT_EXCEPTION_NMI, EXIT_TRIPLE_FAULT, EXIT_INVLPG, EXIT_CR_ACCESS = 0, 2, 14, 28
EXIT_IO_INSTRUCTION, EXIT_MSR_WRITE, EXIT_INVALID_STATE = 30, 32, 33
FAILED_VMENTRY = 1 << 31
INTR_INFO_PF = 0x80000B0E
"""Valid, a hardware exception with error code, vector 14."""
RDI = 7
CR4_GUEST_OWNED = CR4_PVI | CR4_DE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_PGE | CR4_TSD | CR4_FSGSBASE
PASSTHROUGH_MSRS = (*SYSENTER_MSRS, 0x10, 0xC0000100, 0xC0000101, 0xC0000102)
"""SYSENTER_*, TSC, FS_BASE, GS_BASE, KERNEL_GS_BASE."""


def _exit(vcpu: Vcpu, reason: int, info1: int, intr_info: int = 0, error_code: int = 0) -> None:
    """The guest left hardware; with EPT with the CR3 that it has."""
    if vcpu.kvm.parameters.tdp_enabled:
        vcpu.cr3 = vcpu.cpu.root
    vcpu.exit_code, vcpu.exit_info1, vcpu.exit_info2 = reason, info1, 0
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_exit(vcpu.id, reason, vcpu.rip, info1, 0, KVM_ISA_VMX, intr_info, error_code)
    vmx_flush_pml_buffer(vcpu)


def check_entry(vcpu: Vcpu) -> None:
    """VM entry's check of the guest's registers. Raises EntryFailed."""
    if vcpu.efer & vcpu.efer_missing:
        _exit(vcpu, FAILED_VMENTRY | EXIT_INVALID_STATE, 0)
        raise EntryFailed


# -- page faults -------------------------------------------------------------------------------------------


def ept_violation_error_code(qualification: int) -> int:
    """The error code that stands for an exit qualification (__vmx_handle_ept_violation).

    U stands for a read; P is set if the tables grant anything.
    """
    error_code = 0
    for bit, meaning in ((EPT_R, PFERR_U), (EPT_W, PFERR_W), (EPT_X, PFERR_F)):
        if qualification & bit:
            error_code |= meaning
    if qualification & EPT_RWX << EPT_VIOLATION_RWX_SHIFT:
        error_code |= PFERR_P
    if qualification & EPT_VIOLATION_GVA_VALID:
        final = qualification & EPT_VIOLATION_GVA_TRANSLATED
        error_code |= PFERR_GUEST_FINAL if final else PFERR_GUEST_PAGE
    return error_code


def handle_page_fault(vcpu: Vcpu, address: int, error_code: int) -> int:
    """An intercepted #PF (handle_exception_nmi); a RET_PF_* code."""
    _exit(vcpu, EXIT_EXCEPTION_NMI, address, INTR_INFO_PF, error_code)
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_page_fault(vcpu.id, vcpu.rip, address, error_code)
    if vcpu.kvm.design.reinjection_unprotects_first and vcpu.needs_reinjection():
        kvm_mmu_unprotect_page_virt(vcpu, address)
    return kvm_mmu_page_fault(vcpu, address, error_code)


def handle_ept_exit(vcpu: Vcpu, gpa: int, qualification: int) -> int:
    """The processor's walk of EPT tables to `gpa` came to an end; a RET_PF_* code.

    A misconfiguration is an MMIO SPTE, of which the processor does not even say whether it is a write. A full
    log has been emptied by the exit as such.
    """
    reason = vcpu.cpu.ept.exit
    _exit(vcpu, reason, qualification)
    if reason == EXIT_PML_FULL:
        if vcpu.kvm.tracing:
            vcpu.kvm.tracer.kvm_pml_full(vcpu.id)
        return RET_PF_RETRY
    if reason == EXIT_EPT_MISCONFIG:
        return kvm_mmu_page_fault(vcpu, gpa, PFERR_RSVD)
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_page_fault(vcpu.id, vcpu.rip, gpa, qualification)
    return kvm_mmu_page_fault(vcpu, gpa, ept_violation_error_code(qualification))


def page_fault_exit(
    vcpu: Vcpu, emulator: Emulator, insn: Insn, address: int, error_code: int, *, nested: bool = False
) -> bool:
    """An intercepted #PF, or an exit of the walk of EPT tables (`error_code`: its exit qualification below
    bit 32); whether the instruction was completed by emulation.

    Raises KvmRunError, TripleFault or EmulationError when KVM_RUN ends.
    """
    before = vcpu.exception
    if nested:
        result = handle_ept_exit(vcpu, address, error_code & 0xFFFFFFFF)
    else:
        result = handle_page_fault(vcpu, address, error_code)
    return finish_page_fault(vcpu, emulator, insn, address, before, result)


# -- instructions ------------------------------------------------------------------------------------------


def port_exit(vcpu: Vcpu, port: int, length: int) -> None:
    """OUT of one byte to an immediate port: user space takes over."""
    _exit(vcpu, EXIT_IO_INSTRUCTION, port << 16 | 0x40)


def set_cr0_in_guest(vcpu: Vcpu, value: int) -> bool:
    """MOV to CR0 as far as it does not exit: bits that are the guest's own; whether it was that."""
    owned = CR0_TS | (CR0_WP if vcpu.kvm.parameters.tdp_enabled else 0)
    if (vcpu.cr0 ^ value) & ~owned & 0xFFFFFFFF:
        return False
    vcpu.cr0 = (vcpu.cr0 & ~owned) | (value & owned)
    _use_new_registers(vcpu)
    return True


def _move_to_cr4(vcpu: Vcpu, value: int) -> bool:
    """MOV to CR4 exits unless it changes the guest's own bits only; it checks the PDPTEs if PGE changes."""
    owned = CR4_GUEST_OWNED & (-1 if vcpu.kvm.parameters.tdp_enabled else ~CR4_PGE)
    changed = (vcpu.cr4 ^ value) & 0xFFFFFFFF
    if changed & ~owned:
        return _write_cr(vcpu, 4, value)
    if changed & CR4_PGE:
        if vcpu.is_pae_paging() and read_pdptrs(vcpu, vcpu.cr3) is None:
            return _complete(vcpu, accepted=False)
        vcpu.cpu.flush_all()
    vcpu.cr4 ^= changed
    _use_new_registers(vcpu)
    return True


def _use_new_registers(vcpu: Vcpu) -> None:
    """The processor works with them at once, KVM's walks of the guest's tables from the next exit on."""
    if vcpu.kvm.parameters.tdp_enabled:
        kvm_init_mmu(vcpu)
    configure_cpu(vcpu)


def intercept(vcpu: Vcpu, emulator: Emulator, insn: Insn) -> bool:
    """An instruction that exits, or may; whether it is completed, else an exception is pending."""
    match insn.op:
        case Op.INVLPG:
            _exit(vcpu, EXIT_INVLPG, insn.address)
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
    _exit(vcpu, EXIT_CR_ACCESS, number | RDI << 8)
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_cr(True, number, value)
    setter = {0: kvm_set_cr0, 3: kvm_set_cr3, 4: kvm_set_cr4}[number]
    return _complete(vcpu, accepted=setter(vcpu, value))


def _write_msr(vcpu: Vcpu, insn: Insn) -> bool:
    _exit(vcpu, EXIT_MSR_WRITE, 0)
    accepted = set_msr(vcpu, insn.count, insn.value)
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_msr(True, insn.count, insn.value, not accepted)
    return _complete(vcpu, accepted=accepted)


def _complete(vcpu: Vcpu, *, accepted: bool) -> bool:
    """kvm_complete_insn_gp."""
    if not accepted:
        vcpu.exception = QueuedException(GP_VECTOR, 0, None)
    return accepted


def reserved_cr3(vcpu: Vcpu) -> None:
    """The guest loads a CR3 beyond the processor's MAXPHYADDR, which KVM does not see under nested paging."""
    vcpu.exception = QueuedException(GP_VECTOR, 0, None)


def shutdown_exit(vcpu: Vcpu) -> None:
    """The guest cannot take an exception: KVM_RUN ends, the vCPU stays as it is. Raises TripleFault."""
    _exit(vcpu, EXIT_TRIPLE_FAULT, 0)
    raise TripleFault
