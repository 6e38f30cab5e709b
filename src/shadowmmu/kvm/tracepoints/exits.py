"""Events of exits, entries and what is emulated for the guest (arch/x86/kvm/trace.h, 6.12.111)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from ...x86.svm import exit_reason
from ...x86.vmx import vmx_exit_reason
from .event import Event, Tracepoint
from .fields import Gpa, Gva, Word
from .reasons import KVM_ISA_SVM, KVM_ISA_VMX, svm_exit_code, vmx_exit_code


class Entry(Event):
    """The guest is about to run.

    vcpu_id         number of the vCPU
    rip             instruction pointer
    immediate_exit  1 if it must exit before its first instruction
    """

    ftrace = "vcpu {vcpu_id}, rip {rip:#x}{immediate_exit:|[immediate exit]}"
    vcpu_id: int
    rip: Gva
    immediate_exit: int


class Exit(Event):
    """The guest left hardware.

    vcpu_id      number of the vCPU
    exit_reason  SVM's exit code (0x4e is #PF) or, by `isa`, VMX's exit reason
    guest_rip    instruction pointer
    info1        EXITINFO1, or the exit qualification
    info2        EXITINFO2, or the IDT-vectoring information
    isa          1 for VMX, 2 for SVM
    intr_info    VM-exit interruption information (VMX)
    error_code   error code of an exception that was intercepted (VMX)
    """

    ftrace = (
        "vcpu {vcpu_id} reason {reason_name:s} rip {guest_rip:#x} info1 {info1:#018x} info2 {info2:#018x}"
        " intr_info {intr_info:#010x} error_code {error_code:#010x}"
    )
    recorded = "reason=reason_name rip=guest_rip:#x info1 info2"
    vcpu_id: int
    exit_reason: Word
    guest_rip: Gva
    info1: Word
    info2: Word
    isa: int = KVM_ISA_SVM
    intr_info: Word = 0
    error_code: Word = 0

    @property
    def reason_name(self) -> str:
        """The exit reason as the event prints it."""
        return vmx_exit_reason(self.exit_reason) if self.isa == KVM_ISA_VMX else exit_reason(self.exit_reason)

    @classmethod
    def assemble(cls, shown: Mapping[str, Any]) -> Self:
        """Return the event, of the processor that has an exit of this name."""
        name = shown["reason_name"]
        for isa, code in ((KVM_ISA_SVM, svm_exit_code(name)), (KVM_ISA_VMX, vmx_exit_code(name))):
            if code is not None:
                return super().assemble({"vcpu_id": 0, **shown, "exit_reason": code, "isa": isa})
        raise ValueError(f"no processor has an exit {name!r}")


class PageFault(Event):
    """An intercepted #PF, or an EPT violation, reached KVM, before anything is done about it.

    vcpu_id        number of the vCPU
    guest_rip      instruction pointer
    fault_address  address of the fault, guest physical with nested paging
    error_code     of the fault, or the exit qualification
    """

    ftrace = "vcpu {vcpu_id} rip {guest_rip:#x} address {fault_address:#018x} error_code {error_code:#x}"
    recorded = "text"
    vcpu_id: int
    guest_rip: Gva
    fault_address: Gva
    error_code: Word


class PmlFull(Event):
    """The vCPU's log of dirty pages was full; the exit emptied it.

    vcpu_id  number of the vCPU
    """

    ftrace = "vcpu {vcpu_id}: PML full"
    recorded = "text"
    vcpu_id: int


class ControlRegister(Event):
    """An intercepted MOV to a control register is about to be carried out (VMX).

    rw   1 for a write
    cr   number of the register
    val  value
    """

    ftrace = "cr_{rw:read|write} {cr:x} = {val:#x}"
    recorded = "text"
    rw: int
    cr: int
    val: Word


class Msr(Event):
    """An intercepted RDMSR or WRMSR was carried out, or faulted.

    write      1 for WRMSR
    ecx        number of the register
    data       value
    exception  1 if it faulted
    """

    ftrace = "msr_{write:read|write} {ecx:x} = {data:#x}{exception:| (#GP)}"
    recorded = "text"
    write: int
    ecx: Word
    data: Word
    exception: int


class InjException(Event):
    """An exception is injected into the guest.

    exception   vector
    has_error   1 if it has an error code
    error_code  the error code
    reinjected  1 if it was injected before and not delivered
    """

    ftrace = "{exception:vector}{error:s}{reinjected:| [reinjected]}"
    recorded = "text"
    exception: int
    has_error: int
    error_code: Word
    reinjected: int

    @property
    def error(self) -> str:
        """The error code as the event prints it."""
        return f" ({self.error_code:#x})" if self.has_error else ""

    @classmethod
    def assemble(cls, shown: Mapping[str, Any]) -> Self:
        """Return the event."""
        error = shown["error"].strip(" ()")
        return super().assemble({**shown, "has_error": int(bool(error)), "error_code": int(error or "0", 16)})


class InjVirq(Event):
    """An interrupt is injected into the guest.

    vector      its vector
    soft        1 for an INT n that could not be delivered before
    reinjected  1 if it was injected before and not delivered
    """

    ftrace = "{soft:IRQ|Soft/INTn} {vector:#x}{reinjected:| [reinjected]}"
    recorded = "text"
    vector: int
    soft: int
    reinjected: int


class EmulateInsn(Event):
    """An instruction is about to be emulated, or could not be.

    rip     instruction pointer
    csbase  base of CS
    insn    bytes of the instruction
    mode    `prot64` or `prot32`
    failed  1 if it could not be emulated
    """

    ftrace = "{csbase:x}:{rip:x}:{insn:bytes} ({mode:s}){failed:| failed}"
    recorded = "text"
    rip: Gva
    csbase: Gva
    insn: bytes
    mode: str
    failed: int


class VcpuMatchMmio(Event):
    """The emulator hit the vCPU's record of its last MMIO.

    gva        address accessed
    gpa        guest physical address
    write      1 for a write
    gpa_match  1 if it was found by gpa, 0 if by gva
    """

    ftrace = "gva {gva:#x} gpa {gpa:#x} {write:Read|Write} {gpa_match:GVA|GPA}"
    recorded = "text"
    gva: Gva
    gpa: Gpa
    write: int
    gpa_match: int


class NestedVmexit(Exit):
    """L2 left hardware; whether L1 or KVM handles it is not decided yet."""


class NestedVmenter(Event):
    """L1 starts L2.

    rip          instruction pointer of L1 after its VMRUN
    vmcb         guest physical address of L1's VMCB
    nested_rip   instruction pointer of L2
    int_ctl      INT_CTL of the VMCB
    event_inj    EVENT_INJ of the VMCB
    tdp_enabled  1 if L1 uses nested paging
    guest_pgd    the nested CR3
    """

    ftrace = (
        "rip: {rip:#018x} vmcb: {vmcb:#018x} nested_rip: {nested_rip:#018x} int_ctl: {int_ctl:#010x}"
        " event_inj: {event_inj:#010x} nested_npt={tdp_enabled:n|y}"
        " {tdp_enabled:guest_cr3|nested_cr3}: {guest_pgd:#018x}"
    )
    recorded = "text"
    rip: Gva
    vmcb: Gpa
    nested_rip: Gva
    int_ctl: Word
    event_inj: Word
    tdp_enabled: int
    guest_pgd: Gpa


class NestedVmenterFailed(Event):
    """A consistency check of nested virtualisation failed.

    msg  the condition, in the kernel's words
    """

    ftrace = "{msg:s}"
    recorded = "text"
    msg: str


class NestedIntercepts(Event):
    """What L1 intercepts of L2.

    cr_read     reads of control registers, a bit each
    cr_write    writes of control registers, a bit each
    exceptions  exceptions, a bit each
    intercept1  word 3 of the VMCB's intercepts
    intercept2  word 4
    intercept3  word 5
    """

    ftrace = (
        "cr_read: {cr_read:04x} cr_write: {cr_write:04x} excp: {exceptions:08x}"
        " intercepts: {intercept1:08x} {intercept2:08x} {intercept3:08x}"
    )
    recorded = "text"
    cr_read: Word
    cr_write: Word
    exceptions: Word
    intercept1: Word
    intercept2: Word
    intercept3: Word


class NestedVmexitInject(Event):
    """An exit of L2 is reported to L1.

    exit_code          SVM's exit code
    exit_info1         EXITINFO1
    exit_info2         EXITINFO2
    exit_int_info      EXITINTINFO
    exit_int_info_err  its error code
    """

    ftrace = (
        "reason: {exit_code:svm_exit} ext_inf1: {exit_info1:#018x} ext_inf2: {exit_info2:#018x}"
        " ext_int: {exit_int_info:#010x} ext_int_err: {exit_int_info_err:#010x}"
    )
    recorded = "text"
    exit_code: Word
    exit_info1: Word
    exit_info2: Word
    exit_int_info: Word = 0
    exit_int_info_err: Word = 0


class Invlpga(Event):
    """INVLPGA of L1.

    rip      instruction pointer
    asid     address space of the translation
    address  address to drop
    """

    ftrace = "rip: {rip:#018x} asid: {asid} address: {address:#018x}"
    recorded = "text"
    rip: Gva
    asid: int
    address: Gva


class ExitTracepoints:
    """The tracepoints of exits and emulation."""

    kvm_entry = Tracepoint(Entry)
    kvm_exit = Tracepoint(Exit)
    kvm_page_fault = Tracepoint(PageFault)
    kvm_pml_full = Tracepoint(PmlFull)
    kvm_cr = Tracepoint(ControlRegister)
    kvm_msr = Tracepoint(Msr)
    kvm_inj_exception = Tracepoint(InjException)
    kvm_inj_virq = Tracepoint(InjVirq)
    kvm_emulate_insn = Tracepoint(EmulateInsn)
    vcpu_match_mmio = Tracepoint(VcpuMatchMmio)
    kvm_nested_vmexit = Tracepoint(NestedVmexit)
    kvm_nested_vmenter = Tracepoint(NestedVmenter)
    kvm_nested_vmenter_failed = Tracepoint(NestedVmenterFailed)
    kvm_nested_intercepts = Tracepoint(NestedIntercepts)
    kvm_nested_vmexit_inject = Tracepoint(NestedVmexitInject)
    kvm_invlpga = Tracepoint(Invlpga)
