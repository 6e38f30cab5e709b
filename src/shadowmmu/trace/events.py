"""What each tracepoint reports, as values, and the log that collects them.

One class per tracepoint, raw integers as fields. `text()` is the body the kernel's ftrace prints (6.12.111).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from shadowmmu.kvm.design.design import Design
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.kvm.state.tracepoints import KVM_ISA_SVM, KVM_ISA_VMX, Log
from shadowmmu.trace.role_layout import THREE_ACCESS_BITS, RoleLayout, layout_of
from shadowmmu.x86.bits import EPT_R, EPT_VIOLATION_GVA_TRANSLATED, EPT_VIOLATION_RWX_SHIFT, EPT_W, EPT_X

__all__ = [
    "PAGE_OFFSET",
    "SVM_EXIT_NPF",
    "AgeHva",
    "CheckMmioSpte",
    "ControlRegister",
    "DirtyRingExit",
    "DirtyRingPush",
    "DirtyRingReset",
    "EmulateInsn",
    "Event",
    "EventLog",
    "Exit",
    "FastPageFault",
    "GetPage",
    "HandleMmioPageFault",
    "InjException",
    "Invlpga",
    "MarkMmioSpte",
    "Mmio",
    "Msr",
    "NestedIntercepts",
    "NestedVmenter",
    "NestedVmenterFailed",
    "NestedVmexit",
    "NestedVmexitInject",
    "PageEvent",
    "PageFault",
    "PagetableWalk",
    "PagingElement",
    "PmlFull",
    "PrepareZapPage",
    "SetAccessedBit",
    "SetDirtyBit",
    "SetSpte",
    "SetSpteHva",
    "SplitHugePage",
    "SpteRequested",
    "SyncPage",
    "TdpMmuSpteChanged",
    "TestAgeHva",
    "UnmapHvaRange",
    "UnsyncPage",
    "VcpuMatchMmio",
    "WalkerError",
    "ZapAllFast",
    "ept_violation_text",
    "exit_reason",
    "pferr_flags",
    "vmx_exit_reason",
]

PAGE_OFFSET = 0xFFFF888000000000
"""Where the kernel maps physical memory without KASLR: pointers in event texts are physical + this."""

_PFERR = ((0x1, "P"), (0x2, "W"), (0x4, "U"), (0x8, "RSVD"), (0x10, "F"))
_VECTORS = {
    0: "#DE", 1: "#DB", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP",
    12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC",
}  # fmt: skip
_SVM_EXITS = {
    **{base + n: f"{verb}_{kind}{n}" for base, verb, kind, registers in (
        (0x00, "read", "cr", (0, 2, 3, 4, 8)), (0x10, "write", "cr", (0, 2, 3, 4, 8)),
        (0x20, "read", "dr", range(8)), (0x30, "write", "dr", range(8)),
    ) for n in registers},
    **{0x40 + vector: f"{name[1:]} excp" for vector, name in _VECTORS.items()},
    0x60: "interrupt", 0x61: "nmi", 0x62: "smi", 0x63: "init", 0x64: "vintr", 0x65: "cr0_sel_write",
    0x66: "read_idtr", 0x67: "read_gdtr", 0x68: "read_ldtr", 0x69: "read_rt", 0x6A: "write_idtr",
    0x6B: "write_gdtr", 0x6C: "write_ldtr", 0x6D: "write_rt", 0x6E: "rdtsc", 0x6F: "rdpmc", 0x70: "pushf",
    0x71: "popf", 0x72: "cpuid", 0x73: "rsm", 0x74: "iret", 0x75: "swint", 0x76: "invd", 0x77: "pause",
    0x78: "hlt", 0x79: "invlpg", 0x7A: "invlpga", 0x7B: "io", 0x7C: "msr", 0x7D: "task_switch",
    0x7E: "ferr_freeze", 0x7F: "shutdown", 0x80: "vmrun", 0x81: "hypercall", 0x82: "vmload", 0x83: "vmsave",
    0x84: "stgi", 0x85: "clgi", 0x86: "skinit", 0x87: "rdtscp", 0x89: "wbinvd", 0x8A: "monitor",
    0x8B: "mwait", 0x8D: "xsetbv", 0xA2: "invpcid", 0x400: "npf",
}  # fmt: skip
_VMX_EXITS = {
    0: "EXCEPTION_NMI", 1: "EXTERNAL_INTERRUPT", 2: "TRIPLE_FAULT", 3: "INIT_SIGNAL", 4: "SIPI_SIGNAL",
    7: "INTERRUPT_WINDOW", 8: "NMI_WINDOW", 9: "TASK_SWITCH", 10: "CPUID", 12: "HLT", 13: "INVD",
    14: "INVLPG", 15: "RDPMC", 16: "RDTSC", 18: "VMCALL", 19: "VMCLEAR", 20: "VMLAUNCH", 21: "VMPTRLD",
    22: "VMPTRST", 23: "VMREAD", 24: "VMRESUME", 25: "VMWRITE", 26: "VMOFF", 27: "VMON", 28: "CR_ACCESS",
    29: "DR_ACCESS", 30: "IO_INSTRUCTION", 31: "MSR_READ", 32: "MSR_WRITE", 33: "INVALID_STATE",
    34: "MSR_LOAD_FAIL", 36: "MWAIT_INSTRUCTION", 37: "MONITOR_TRAP_FLAG", 39: "MONITOR_INSTRUCTION",
    40: "PAUSE_INSTRUCTION", 41: "MCE_DURING_VMENTRY", 43: "TPR_BELOW_THRESHOLD", 44: "APIC_ACCESS",
    45: "EOI_INDUCED", 46: "GDTR_IDTR", 47: "LDTR_TR", 48: "EPT_VIOLATION", 49: "EPT_MISCONFIG",
    50: "INVEPT", 51: "RDTSCP", 52: "PREEMPTION_TIMER", 53: "INVVPID", 54: "WBINVD", 55: "XSETBV",
    56: "APIC_WRITE", 57: "RDRAND", 58: "INVPCID", 59: "VMFUNC", 60: "ENCLS", 61: "RDSEED", 62: "PML_FULL",
    63: "XSAVES", 64: "XRSTORS", 67: "UMWAIT", 68: "TPAUSE", 74: "BUS_LOCK", 75: "NOTIFY",
}  # fmt: skip
SVM_EXIT_NPF = 0x400
_MMIO_KINDS = ("unsatisfied-read", "read", "write")
_SPTE_W = 1 << 1
_SPTE_U = 1 << 2
_SPTE_NX = 1 << 63
EPT_SUPPRESS_VE = 1 << 63
_U32 = (1 << 32) - 1


def pferr_flags(error_code: int) -> str:
    """Names of a page fault's error bits, the rest in hexadecimal (`P|W|0x100000000`)."""
    names = [name for bit, name in _PFERR if error_code & bit]
    rest = error_code & ~0x1F
    return "|".join([*names, f"{rest:#x}"] if rest else names)


def exit_reason(code: int) -> str:
    """Name of an SVM exit code (kernel SVM_EXIT_REASONS)."""
    return _SVM_EXITS.get(code, f"{code:#x}")


def vmx_exit_reason(reason: int) -> str:
    """Name of a VMX exit reason (kernel VMX_EXIT_REASONS, VMX_EXIT_REASON_FLAGS)."""
    name = _VMX_EXITS.get(reason & 0xFFFF, f"{reason & 0xFFFF:#x}")
    flags = reason & ~0xFFFF
    if not flags:
        return name
    names = ["FAILED_VMENTRY"] if flags & 1 << 31 else []
    rest = flags & ~(1 << 31)
    return f"{name} {'|'.join([*names, f'{rest:#x}'] if rest else names)}"


def _alternate(value: int) -> str:
    """The kernel's %#llx; unlike C's it has a prefix for 0 too."""
    return f"{value:#x}"


def _padded(value: int) -> str:
    """The kernel's %#016lx: 16 characters with the prefix."""
    return f"{value:#016x}"


def _pointer(physical: int) -> str:
    """C's %p of a pointer into the direct map; the null pointer stays null."""
    return f"{PAGE_OFFSET + physical if physical else 0:016x}"


def ept_violation_text(qualification: int) -> str:
    """The exit qualification of an EPT violation in words: what was tried, and what the tables grant."""

    def rights(bits: int) -> str:
        return "".join(name for bit, name in ((EPT_R, "r"), (EPT_W, "w"), (EPT_X, "x")) if bits & bit) or "-"

    of_a_table = "" if qualification & EPT_VIOLATION_GVA_TRANSLATED else "a table of the guest, "
    granted = rights(qualification >> EPT_VIOLATION_RWX_SHIFT)
    return f"{of_a_table}{rights(qualification)} where {granted} is granted"


class Event(ABC):
    """One tracepoint that fired."""

    __slots__ = ()
    name: ClassVar[str]

    @abstractmethod
    def text(self) -> str:
        """The body of the kernel's line for it, after `name: `."""

    def __str__(self) -> str:
        return f"{self.name}: {self.text()}"


@dataclass(frozen=True, slots=True)
class PageEvent(Event):
    """Base of the events about a shadow page: its state when the event fired.

    `role` is the model's word, `layout` says how the kernel shows it.
    """

    gen: int
    gfn: int
    role: int
    root_count: int
    unsync: int
    layout: RoleLayout = field(default=THREE_ACCESS_BITS, kw_only=True, repr=False, compare=False)

    @property
    def level(self) -> int:
        """Level of the page."""
        return self.role & 15

    @property
    def quadrant(self) -> int:
        """Which part of a 4-byte table it shadows."""
        return self.role >> 5 & 3

    @property
    def access(self) -> str:
        """Access of its parents, a letter for each right."""
        return self.layout.letters(self.role)

    def text(self) -> str:
        role = self.role
        return (
            f"sp gen {self.gen} gfn {self.gfn:x} l{self.level}"
            f" {4 if role & 1 << 4 else 8}-byte q{self.quadrant}{' direct' if role & 1 << 7 else ''}"
            f" {self.access}{' invalid' if role & 1 << 11 else ''}"
            f" {'' if role & 1 << 12 else '!'}nxe {'!' if role & 1 << 16 else ''}ad"
            f" root {self.root_count} {'unsync' if self.unsync else 'sync'}"
        )


@dataclass(frozen=True, slots=True)
class GetPage(PageEvent):
    """kvm_mmu_get_page."""

    name: ClassVar[str] = "kvm_mmu_get_page"
    created: int

    def text(self) -> str:
        return f"{PageEvent.text(self)} {'new' if self.created else 'existing'}"


@dataclass(frozen=True, slots=True)
class SyncPage(PageEvent):
    """kvm_mmu_sync_page."""

    name: ClassVar[str] = "kvm_mmu_sync_page"


@dataclass(frozen=True, slots=True)
class UnsyncPage(PageEvent):
    """kvm_mmu_unsync_page."""

    name: ClassVar[str] = "kvm_mmu_unsync_page"


@dataclass(frozen=True, slots=True)
class PrepareZapPage(PageEvent):
    """kvm_mmu_prepare_zap_page."""

    name: ClassVar[str] = "kvm_mmu_prepare_zap_page"


@dataclass(frozen=True, slots=True)
class PagetableWalk(Event):
    """kvm_mmu_pagetable_walk."""

    name: ClassVar[str] = "kvm_mmu_pagetable_walk"
    addr: int
    pferr: int

    def text(self) -> str:
        return f"addr {self.addr:x} pferr {self.pferr & _U32:x} {pferr_flags(self.pferr & _U32)}"


@dataclass(frozen=True, slots=True)
class PagingElement(Event):
    """kvm_mmu_paging_element."""

    name: ClassVar[str] = "kvm_mmu_paging_element"
    pte: int
    level: int

    def text(self) -> str:
        return f"pte {self.pte:x} level {self.level}"


@dataclass(frozen=True, slots=True)
class SetAccessedBit(Event):
    """kvm_mmu_set_accessed_bit."""

    name: ClassVar[str] = "kvm_mmu_set_accessed_bit"
    gpa: int

    def text(self) -> str:
        return f"gpa {self.gpa:x}"


@dataclass(frozen=True, slots=True)
class SetDirtyBit(Event):
    """kvm_mmu_set_dirty_bit."""

    name: ClassVar[str] = "kvm_mmu_set_dirty_bit"
    gpa: int

    def text(self) -> str:
        return f"gpa {self.gpa:x}"


@dataclass(frozen=True, slots=True)
class WalkerError(Event):
    """kvm_mmu_walker_error."""

    name: ClassVar[str] = "kvm_mmu_walker_error"
    pferr: int

    def text(self) -> str:
        return f"pferr {self.pferr & _U32:x} {pferr_flags(self.pferr & _U32)}"


@dataclass(frozen=True, slots=True)
class MarkMmioSpte(Event):
    """mark_mmio_spte."""

    name: ClassVar[str] = "mark_mmio_spte"
    sptep: int
    gfn: int
    access: int
    gen: int

    def text(self) -> str:
        return f"sptep:{_pointer(self.sptep)} gfn {self.gfn:x} access {self.access:x} gen {self.gen:x}"


@dataclass(frozen=True, slots=True)
class HandleMmioPageFault(Event):
    """handle_mmio_page_fault."""

    name: ClassVar[str] = "handle_mmio_page_fault"
    addr: int
    gfn: int
    access: int

    def text(self) -> str:
        return f"addr:{self.addr:x} gfn {self.gfn:x} access {self.access:x}"


@dataclass(frozen=True, slots=True)
class CheckMmioSpte(Event):
    """check_mmio_spte."""

    name: ClassVar[str] = "check_mmio_spte"
    spte: int
    kvm_gen: int
    spte_gen: int

    def text(self) -> str:
        valid = int(self.kvm_gen == self.spte_gen)
        return f"spte {self.spte:x} kvm_gen {self.kvm_gen:x} spte-gen {self.spte_gen:x} valid {valid}"


@dataclass(frozen=True, slots=True)
class ZapAllFast(Event):
    """kvm_mmu_zap_all_fast."""

    name: ClassVar[str] = "kvm_mmu_zap_all_fast"
    mmu_valid_gen: int
    used_pages: int

    def text(self) -> str:
        return f"kvm-mmu-valid-gen {self.mmu_valid_gen} used_pages {self.used_pages:x}"


@dataclass(frozen=True, slots=True)
class FastPageFault(Event):
    """fast_page_fault."""

    name: ClassVar[str] = "fast_page_fault"
    vcpu_id: int
    gva: int
    error_code: int
    sptep: int
    old_spte: int
    new_spte: int
    spurious: int
    fixed: int

    def text(self) -> str:
        return (
            f"vcpu {self.vcpu_id} gva {self.gva:x} error_code {pferr_flags(self.error_code)}"
            f" sptep {_pointer(self.sptep)} old {_alternate(self.old_spte)} new {self.new_spte:x}"
            f" spurious {int(self.spurious)} fixed {int(self.fixed)}"
        )


@dataclass(frozen=True, slots=True)
class SetSpte(Event):
    """kvm_mmu_set_spte."""

    name: ClassVar[str] = "kvm_mmu_set_spte"
    gfn: int
    spte: int
    sptep: int
    level: int
    ept: int = 0

    @property
    def permissions(self) -> str:
        """`rwxu` with `-` for what the SPTE does not allow.

        r always shows if shadow_present_mask is not 0, as it is but for EPT without suppress #VE (6.1); u is
        R of EPT.
        """
        spte = self.spte
        if self.ept:
            always = spte & EPT_SUPPRESS_VE
            rights = always or spte & EPT_R, spte & EPT_W, spte & EPT_X, spte & EPT_R
        else:
            rights = 1, spte & _SPTE_W, not spte & _SPTE_NX, spte & _SPTE_U
        return "".join(name if right else "-" for name, right in zip("rwxu", rights, strict=True))

    def text(self) -> str:
        return (
            f"gfn {self.gfn:x} spte {self.spte:x} ({self.permissions}) level {self.level} at {self.sptep:x}"
        )


@dataclass(frozen=True, slots=True)
class SpteRequested(Event):
    """kvm_mmu_spte_requested."""

    name: ClassVar[str] = "kvm_mmu_spte_requested"
    gfn: int
    pfn: int
    level: int
    access: int | None = None
    """As the kernel shows it; None if it does not (before 7.3)."""

    def text(self) -> str:
        access = "" if self.access is None else f" access {self.access:x}"
        return f"gfn {self.gfn:x} pfn {self.pfn:x} level {self.level}{access}"


@dataclass(frozen=True, slots=True)
class PageFault(Event):
    """kvm_page_fault."""

    name: ClassVar[str] = "kvm_page_fault"
    vcpu_id: int
    rip: int
    address: int
    error_code: int

    def text(self) -> str:
        where = f"rip {self.rip:#x} address {self.address:#018x}"
        return f"vcpu {self.vcpu_id} {where} error_code {self.error_code:#x}"


@dataclass(frozen=True, slots=True)
class Exit(Event):
    """kvm_exit."""

    name: ClassVar[str] = "kvm_exit"
    vcpu_id: int
    reason: int
    rip: int
    info1: int
    info2: int
    isa: int = KVM_ISA_SVM
    intr_info: int = 0
    error_code: int = 0

    @property
    def reason_name(self) -> str:
        """The exit reason as the event prints it."""
        return vmx_exit_reason(self.reason) if self.isa == KVM_ISA_VMX else exit_reason(self.reason)

    def text(self) -> str:
        return (
            f"vcpu {self.vcpu_id} reason {self.reason_name} rip {self.rip:#x}"
            f" info1 {self.info1:#018x} info2 {self.info2:#018x}"
            f" intr_info {self.intr_info:#010x} error_code {self.error_code:#010x}"
        )


@dataclass(frozen=True, slots=True)
class PmlFull(Event):
    """kvm_pml_full."""

    name: ClassVar[str] = "kvm_pml_full"
    vcpu_id: int

    def text(self) -> str:
        return f"vcpu {self.vcpu_id}: PML full"


@dataclass(frozen=True, slots=True)
class ControlRegister(Event):
    """kvm_cr."""

    name: ClassVar[str] = "kvm_cr"
    write: int
    cr: int
    value: int

    def text(self) -> str:
        return f"cr_{'write' if self.write else 'read'} {self.cr:x} = 0x{self.value:x}"


@dataclass(frozen=True, slots=True)
class NestedVmexit(Exit):
    """kvm_nested_vmexit."""

    name: ClassVar[str] = "kvm_nested_vmexit"


@dataclass(frozen=True, slots=True)
class NestedVmenter(Event):
    """kvm_nested_vmenter."""

    name: ClassVar[str] = "kvm_nested_vmenter"
    rip: int
    vmcb: int
    nested_rip: int
    int_ctl: int
    event_inj: int
    tdp_enabled: int
    guest_pgd: int

    def text(self) -> str:
        pgd = "nested_cr3" if self.tdp_enabled else "guest_cr3"
        return (
            f"rip: {self.rip:#018x} vmcb: {self.vmcb:#018x} nested_rip: {self.nested_rip:#018x}"
            f" int_ctl: {self.int_ctl:#010x} event_inj: {self.event_inj:#010x}"
            f" nested_npt={'y' if self.tdp_enabled else 'n'} {pgd}: {self.guest_pgd:#018x}"
        )


@dataclass(frozen=True, slots=True)
class NestedVmenterFailed(Event):
    """kvm_nested_vmenter_failed."""

    name: ClassVar[str] = "kvm_nested_vmenter_failed"
    message: str

    def text(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class NestedIntercepts(Event):
    """kvm_nested_intercepts."""

    name: ClassVar[str] = "kvm_nested_intercepts"
    cr_read: int
    cr_write: int
    exceptions: int
    word1: int
    word2: int
    word3: int

    def text(self) -> str:
        return (
            f"cr_read: {self.cr_read:04x} cr_write: {self.cr_write:04x} excp: {self.exceptions:08x}"
            f" intercepts: {self.word1:08x} {self.word2:08x} {self.word3:08x}"
        )


@dataclass(frozen=True, slots=True)
class NestedVmexitInject(Event):
    """kvm_nested_vmexit_inject."""

    name: ClassVar[str] = "kvm_nested_vmexit_inject"
    exit_code: int
    exit_info1: int
    exit_info2: int

    def text(self) -> str:
        return (
            f"reason: {exit_reason(self.exit_code)} ext_inf1: {self.exit_info1:#018x}"
            f" ext_inf2: {self.exit_info2:#018x} ext_int: 0x00000000 ext_int_err: 0x00000000"
        )


@dataclass(frozen=True, slots=True)
class Invlpga(Event):
    """kvm_invlpga."""

    name: ClassVar[str] = "kvm_invlpga"
    rip: int
    asid: int
    address: int

    def text(self) -> str:
        return f"rip: {self.rip:#018x} asid: {self.asid} address: {self.address:#018x}"


@dataclass(frozen=True, slots=True)
class Mmio(Event):
    """kvm_mmio."""

    name: ClassVar[str] = "kvm_mmio"
    kind: int
    length: int
    gpa: int
    value: int

    def text(self) -> str:
        return f"mmio {_MMIO_KINDS[self.kind]} len {self.length} gpa {self.gpa:#x} val {self.value:#x}"


@dataclass(frozen=True, slots=True)
class VcpuMatchMmio(Event):
    """vcpu_match_mmio."""

    name: ClassVar[str] = "vcpu_match_mmio"
    gva: int
    gpa: int
    write: int
    gpa_match: int

    def text(self) -> str:
        direction, by = "Write" if self.write else "Read", "GPA" if self.gpa_match else "GVA"
        return f"gva {_alternate(self.gva)} gpa {_alternate(self.gpa)} {direction} {by}"


@dataclass(frozen=True, slots=True)
class EmulateInsn(Event):
    """kvm_emulate_insn."""

    name: ClassVar[str] = "kvm_emulate_insn"
    rip: int
    csbase: int
    insn: bytes
    mode: str
    failed: int

    def text(self) -> str:
        failed = " failed" if self.failed else ""
        return f"{self.csbase:x}:{self.rip:x}:{self.insn.hex(' ')} ({self.mode}){failed}"


@dataclass(frozen=True, slots=True)
class InjException(Event):
    """kvm_inj_exception."""

    name: ClassVar[str] = "kvm_inj_exception"
    vector: int
    has_error: int
    error_code: int
    reinjected: int

    def text(self) -> str:
        error = f" ({self.error_code:#x})" if self.has_error else ""
        again = " [reinjected]" if self.reinjected else ""
        return f"{_VECTORS.get(self.vector, f'{self.vector:#x}')}{error}{again}"


@dataclass(frozen=True, slots=True)
class InjVirq(Event):
    """kvm_inj_virq."""

    name: ClassVar[str] = "kvm_inj_virq"
    vector: int
    soft: int
    reinjected: int

    def text(self) -> str:
        kind = "Soft/INTn" if self.soft else "IRQ"
        return f"{kind} {self.vector:#x}{' [reinjected]' if self.reinjected else ''}"


@dataclass(frozen=True, slots=True)
class Msr(Event):
    """kvm_msr."""

    name: ClassVar[str] = "kvm_msr"
    write: int
    index: int
    data: int
    exception: int

    def text(self) -> str:
        fault = " (#GP)" if self.exception else ""
        return f"msr_{'write' if self.write else 'read'} {self.index:x} = {self.data:#x}{fault}"


@dataclass(frozen=True, slots=True)
class TdpMmuSpteChanged(Event):
    """kvm_tdp_mmu_spte_changed."""

    name: ClassVar[str] = "kvm_tdp_mmu_spte_changed"
    as_id: int
    gfn: int
    level: int
    old_spte: int
    new_spte: int

    def text(self) -> str:
        return (
            f"as id {self.as_id} gfn {self.gfn:x} level {self.level}"
            f" old_spte {self.old_spte:x} new_spte {self.new_spte:x}"
        )


@dataclass(frozen=True, slots=True)
class SplitHugePage(Event):
    """kvm_mmu_split_huge_page."""

    name: ClassVar[str] = "kvm_mmu_split_huge_page"
    gfn: int
    spte: int
    level: int
    errno: int

    def text(self) -> str:
        return f"gfn {self.gfn:x} spte {self.spte:x} level {self.level} errno {self.errno}"


@dataclass(frozen=True, slots=True)
class DirtyRingPush(Event):
    """kvm_dirty_ring_push."""

    name: ClassVar[str] = "kvm_dirty_ring_push"
    index: int
    dirty_index: int
    reset_index: int
    slot: int
    offset: int

    def text(self) -> str:
        used = self.dirty_index - self.reset_index & _U32
        return (
            f"ring {self.index}: dirty {self.dirty_index:#x} reset {self.reset_index:#x}"
            f" slot {self.slot} offset {self.offset:#x} (used {used})"
        )


@dataclass(frozen=True, slots=True)
class DirtyRingReset(Event):
    """kvm_dirty_ring_reset."""

    name: ClassVar[str] = "kvm_dirty_ring_reset"
    index: int
    dirty_index: int
    reset_index: int

    def text(self) -> str:
        used = self.dirty_index - self.reset_index & _U32
        return f"ring {self.index}: dirty {self.dirty_index:#x} reset {self.reset_index:#x} (used {used})"


@dataclass(frozen=True, slots=True)
class DirtyRingExit(Event):
    """kvm_dirty_ring_exit."""

    name: ClassVar[str] = "kvm_dirty_ring_exit"
    vcpu_id: int

    def text(self) -> str:
        return f"vcpu {self.vcpu_id}"


@dataclass(frozen=True, slots=True)
class AgeHva(Event):
    """kvm_age_hva."""

    name: ClassVar[str] = "kvm_age_hva"
    start: int
    end: int

    def text(self) -> str:
        return f"mmu notifier age hva: {_padded(self.start)} -- {_padded(self.end)}"


@dataclass(frozen=True, slots=True)
class TestAgeHva(Event):
    """kvm_test_age_hva."""

    name: ClassVar[str] = "kvm_test_age_hva"
    hva: int

    def text(self) -> str:
        return f"mmu notifier test age hva: {_padded(self.hva)}"


@dataclass(frozen=True, slots=True)
class UnmapHvaRange(Event):
    """kvm_unmap_hva_range."""

    name: ClassVar[str] = "kvm_unmap_hva_range"
    start: int
    end: int

    def text(self) -> str:
        return f"mmu notifier unmap range: {_padded(self.start)} -- {_padded(self.end)}"


@dataclass(frozen=True, slots=True)
class SetSpteHva(Event):
    """kvm_set_spte_hva."""

    name: ClassVar[str] = "kvm_set_spte_hva"
    hva: int

    def text(self) -> str:
        return f"mmu notifier set pte hva: {_padded(self.hva)}"


@dataclass(frozen=True, slots=True)
class ByTask(Event):
    """An event that fired in a kernel thread, not in the task that runs the VM."""

    task: str
    event: Event

    @property
    def name(self) -> str:  # type: ignore[override]  # a class variable of every other event
        """The tracepoint."""
        return self.event.name

    def text(self) -> str:
        return self.event.text()


def _state_of(sp: ShadowPage) -> tuple[int, int, int, int, bool]:
    return sp.mmu_valid_gen, sp.gfn, sp.role, sp.root_count, sp.unsync


class EventLog(Log):
    """Collects every event in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._layout: RoleLayout = THREE_ACCESS_BITS
        self._requested_access = False

    def attached(self, design: Design) -> None:
        self._layout = layout_of(design)
        self._requested_access = bool(design.spte_requested_has_access)

    def attribute(self, task: str) -> None:
        """Say that the events since the last `take` fired in kernel thread `task`."""
        self.events = [ByTask(task, event) for event in self.events]

    def take(self) -> Sequence[Event]:
        """The events since the last call."""
        taken, self.events = self.events, []
        return taken

    def kvm_mmu_pagetable_walk(self, addr: int, pferr: int) -> None:
        self.events.append(PagetableWalk(addr, pferr))

    def kvm_mmu_paging_element(self, pte: int, level: int) -> None:
        self.events.append(PagingElement(pte, level))

    def kvm_mmu_set_accessed_bit(self, gpa: int) -> None:
        self.events.append(SetAccessedBit(gpa))

    def kvm_mmu_set_dirty_bit(self, gpa: int) -> None:
        self.events.append(SetDirtyBit(gpa))

    def kvm_mmu_walker_error(self, pferr: int) -> None:
        self.events.append(WalkerError(pferr))

    def kvm_mmu_get_page(self, sp: ShadowPage, created: int) -> None:
        self.events.append(GetPage(*_state_of(sp), created, layout=self._layout))

    def kvm_mmu_sync_page(self, sp: ShadowPage) -> None:
        self.events.append(SyncPage(*_state_of(sp), layout=self._layout))

    def kvm_mmu_unsync_page(self, sp: ShadowPage) -> None:
        self.events.append(UnsyncPage(*_state_of(sp), layout=self._layout))

    def kvm_mmu_prepare_zap_page(self, sp: ShadowPage) -> None:
        self.events.append(PrepareZapPage(*_state_of(sp), layout=self._layout))

    def mark_mmio_spte(self, sptep: int, gfn: int, access: int, gen: int) -> None:
        self.events.append(MarkMmioSpte(sptep, gfn, access, gen))

    def handle_mmio_page_fault(self, addr: int, gfn: int, access: int) -> None:
        self.events.append(HandleMmioPageFault(addr, gfn, access))

    def check_mmio_spte(self, spte: int, kvm_gen: int, spte_gen: int) -> None:
        self.events.append(CheckMmioSpte(spte, kvm_gen, spte_gen))

    def kvm_mmu_zap_all_fast(self, mmu_valid_gen: int, used_pages: int) -> None:
        self.events.append(ZapAllFast(mmu_valid_gen, used_pages))

    def fast_page_fault(
        self,
        vcpu_id: int,
        gva: int,
        error_code: int,
        sptep: int,
        old_spte: int,
        new_spte: int,
        spurious: int,
        fixed: int,
    ) -> None:
        self.events.append(
            FastPageFault(vcpu_id, gva, error_code, sptep, old_spte, new_spte, spurious, fixed)
        )

    def kvm_mmu_set_spte(self, gfn: int, spte: int, sptep: int, level: int, ept: int = 0) -> None:
        self.events.append(SetSpte(gfn, spte, sptep, level, ept))

    def kvm_mmu_spte_requested(self, gfn: int, pfn: int, level: int, access: int) -> None:
        shown = self._layout.access(access) if self._requested_access else None
        self.events.append(SpteRequested(gfn, pfn, level, shown))

    def kvm_page_fault(self, vcpu_id: int, rip: int, address: int, error_code: int) -> None:
        self.events.append(PageFault(vcpu_id, rip, address, error_code))

    def kvm_exit(
        self,
        vcpu_id: int,
        reason: int,
        rip: int,
        info1: int,
        info2: int,
        isa: int = KVM_ISA_SVM,
        intr_info: int = 0,
        error_code: int = 0,
    ) -> None:
        self.events.append(Exit(vcpu_id, reason, rip, info1, info2, isa, intr_info, error_code))

    def kvm_pml_full(self, vcpu_id: int) -> None:
        self.events.append(PmlFull(vcpu_id))

    def kvm_cr(self, write: int, cr: int, value: int) -> None:
        self.events.append(ControlRegister(write, cr, value))

    def kvm_nested_vmexit(self, vcpu_id: int, reason: int, rip: int, info1: int, info2: int) -> None:
        self.events.append(NestedVmexit(vcpu_id, reason, rip, info1, info2))

    def kvm_nested_vmenter(
        self,
        rip: int,
        vmcb: int,
        nested_rip: int,
        int_ctl: int,
        event_inj: int,
        tdp_enabled: int,
        guest_pgd: int,
    ) -> None:
        self.events.append(NestedVmenter(rip, vmcb, nested_rip, int_ctl, event_inj, tdp_enabled, guest_pgd))

    def kvm_nested_vmenter_failed(self, message: str) -> None:
        self.events.append(NestedVmenterFailed(message))

    def kvm_nested_intercepts(
        self, cr_read: int, cr_write: int, exceptions: int, word1: int, word2: int, word3: int
    ) -> None:
        self.events.append(NestedIntercepts(cr_read, cr_write, exceptions, word1, word2, word3))

    def kvm_nested_vmexit_inject(self, exit_code: int, exit_info1: int, exit_info2: int) -> None:
        self.events.append(NestedVmexitInject(exit_code, exit_info1, exit_info2))

    def kvm_invlpga(self, rip: int, asid: int, address: int) -> None:
        self.events.append(Invlpga(rip, asid, address))

    def kvm_mmio(self, kind: int, length: int, gpa: int, value: int) -> None:
        self.events.append(Mmio(kind, length, gpa, value))

    def vcpu_match_mmio(self, gva: int, gpa: int, write: int, gpa_match: int) -> None:
        self.events.append(VcpuMatchMmio(gva, gpa, write, gpa_match))

    def kvm_emulate_insn(self, rip: int, csbase: int, insn: bytes, mode: str, failed: int) -> None:
        self.events.append(EmulateInsn(rip, csbase, insn, mode, failed))

    def kvm_inj_exception(self, vector: int, has_error: int, error_code: int, reinjected: int) -> None:
        self.events.append(InjException(vector, has_error, error_code, reinjected))

    def kvm_inj_virq(self, vector: int, soft: int, reinjected: int) -> None:
        self.events.append(InjVirq(vector, soft, reinjected))

    def kvm_msr(self, write: int, index: int, data: int, exception: int) -> None:
        self.events.append(Msr(write, index, data, exception))

    def kvm_dirty_ring_push(
        self, index: int, dirty_index: int, reset_index: int, slot: int, offset: int
    ) -> None:
        self.events.append(DirtyRingPush(index, dirty_index, reset_index, slot, offset))

    def kvm_dirty_ring_reset(self, index: int, dirty_index: int, reset_index: int) -> None:
        self.events.append(DirtyRingReset(index, dirty_index, reset_index))

    def kvm_dirty_ring_exit(self, vcpu_id: int) -> None:
        self.events.append(DirtyRingExit(vcpu_id))

    def kvm_age_hva(self, start: int, end: int) -> None:
        self.events.append(AgeHva(start, end))

    def kvm_test_age_hva(self, hva: int) -> None:
        self.events.append(TestAgeHva(hva))

    def kvm_tdp_mmu_spte_changed(
        self, as_id: int, gfn: int, level: int, old_spte: int, new_spte: int
    ) -> None:
        self.events.append(TdpMmuSpteChanged(as_id, gfn, level, old_spte, new_spte))

    def kvm_mmu_split_huge_page(self, gfn: int, spte: int, level: int, errno: int) -> None:
        self.events.append(SplitHugePage(gfn, spte, level, errno))

    def kvm_unmap_hva_range(self, start: int, end: int) -> None:
        self.events.append(UnmapHvaRange(start, end))

    def kvm_set_spte_hva(self, hva: int) -> None:
        self.events.append(SetSpteHva(hva))
