"""A machine that runs real code: KVM's MMU behind the exits of an emulated SVM processor.

Everything a computer or a guest operating system is built from is here:

    SvmMachine(memory, npt=, tdp_mmu=, kernel=, design=, ...)      memory at 0, one vCPU, not started
    write(gpa, data), read(gpa, size), size                        guest memory, as user space sees it
    start_protected(eip, ...)                                      32 bits, flat, paging off (multiboot)
    start_long(rip, cr3, ...)                                      64 bits, CPL 0 or 3, 4 or 5 levels
    get("rax"), set("rax", 1)                                      rax..r15, rip, rflags, cr0..cr4, efer
    get_segment("cs"), set_segment("cs", Segment(...))             es cs ss ds fs gs ldtr tr gdtr idtr
    on_port(first, last, read=, write=)                            IN and OUT
    on_mmio(gpa, size, read=, write=)                              accesses to what is no memory
    on_syscall(callback), on_vmmcall(callback)                     SYSCALL, VMMCALL
    on_exception(callback)                                         an exception before the guest's IDT gets it
    on_msr(index, read=, write=), on_cr8(read, write)
    on_idle(callback, every=), wake_at(time)                       timers
    run(exits=, instructions=, seconds=) -> Outcome                until it stops; run again to go on
    stop(reason, detail)                                           from a callback: run() returns
    interrupt(vector), nmi(), inject(vector, error_code, cr2)             events for the guest
    exits, history, counters(), registers()                        for statistics and reports

All callbacks run between two instructions of the guest (for IN and OUT: in the middle of one) and may use
everything above but `run`. A value read from a port or device is an int, little-endian as the guest sees it.

An exception goes the way it goes on hardware with KVM: a #PF exits to the MMU, which repairs it or queues it
for the guest; what is queued is delivered through the guest's IDT with accesses that walk the shadow tables
and may fault themselves. Paging registers are KVM's copy, changed by its own functions; before the guest runs
again KVM's requests are served, and its flushes become flushes of the emulated processor's TLB.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ...host.mapping import Kind
from ...kvm.bits import INVALID_PAGE
from ...kvm.design import design_of
from ...kvm.emulate import EmulationError, MmioAccess, OperandFault
from ...kvm.exits import (
    KvmRunError,
    cr0_exit_reason,
    handle_page_fault,
    merge_exceptions,
    record_exit,
    set_cr0_in_guest,
    shutdown_exit,
)
from ...kvm.fast_fault import last_sptep_lockless
from ...kvm.guest_memory import table_page
from ...kvm.guest_walk import gva_to_gpa
from ...kvm.inject import kvm_inject_page_fault
from ...kvm.invlpg import is_noncanonical
from ...kvm.invpcid import kvm_handle_invpcid
from ...kvm.mark_dirty import mark_page_dirty_in_slot
from ...kvm.regs import CR3_NOFLUSH, kvm_set_cr0, kvm_set_cr3, kvm_set_cr4, set_efer, set_sregs
from ...kvm.roots import NoShadowPages
from ...kvm.run import DirtyRingFull, TripleFault, vcpu_enter_guest
from ...kvm.spte import is_shadow_present
from ...kvm.switches import DEFAULT_KERNEL
from ...kvm.track_write import kvm_mmu_track_write
from ...kvm.vcpu import QueuedException, QueuedInterrupt, Vcpu
from ...kvm.vm import Parameters
from ...x86.bits import (
    ADDR,
    CR0_CD,
    CR0_ET,
    CR0_NE,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_OSFXSR,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    CR4_UMIP,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
    EFER_SCE,
    EFER_SVME,
    MASK64,
    NESTED_FAULT,
    PFERR_F,
    PFERR_GUEST_FINAL,
    PFERR_P,
    PFERR_RSVD,
    PFERR_W,
    PS,
    A,
    D,
    W,
)
from ...x86.implementation import Implementation
from ...x86.insn import Insn, Op
from ...x86.machine_check import MachineCheck
from ..cpu import EndlessFaults
from ..machine import Machine
from . import EmulatorError
from .cpuid import Cpuid
from .emulator import CodeEmulator, FetchFault
from .instructions import Code
from .interrupts import (
    BP,
    DB,
    GP,
    NMI,
    OF,
    PF,
    UD,
    WITH_ERROR_CODE,
    AccessFault,
    Delivery,
    EventFault,
    TaskGate,
)
from .layout import PHYSICAL_BITS
from .msrs import MSR_TSC_AUX, Msrs
from .processor import (
    CS,
    DR6_BS,
    DS,
    ES,
    EXIT,
    EXIT_CLGI,
    EXIT_CPUID,
    EXIT_EXCEPTION,
    EXIT_GDTR_READ,
    EXIT_HLT,
    EXIT_IDTR_READ,
    EXIT_INTR,
    EXIT_INVLPG,
    EXIT_INVLPGA,
    EXIT_INVPCID,
    EXIT_IOIO,
    EXIT_IRET,
    EXIT_LDTR_READ,
    EXIT_MONITOR,
    EXIT_MSR,
    EXIT_MWAIT,
    EXIT_NPF,
    EXIT_RDTSC,
    EXIT_RDTSCP,
    EXIT_READ_CR,
    EXIT_SHUTDOWN,
    EXIT_SKINIT,
    EXIT_SMI,
    EXIT_STGI,
    EXIT_SWINT,
    EXIT_TR_READ,
    EXIT_VMLOAD,
    EXIT_VMMCALL,
    EXIT_VMRUN,
    EXIT_VMSAVE,
    EXIT_WRITE_CR,
    EXIT_XSETBV,
    FLAG_AC,
    FLAG_IF,
    FLAG_RF,
    FLAG_TF,
    FLAG_VM,
    FS,
    GDTR,
    GPRS,
    GS,
    HF_CPL,
    HF_CS64,
    HF_INHIBIT_IRQ,
    IDTR,
    LDTR,
    PASSED_MSRS,
    SEGMENTS,
    SS,
    TR,
    Segment,
    SvmProcessor,
    exit_name,
)

HISTORY = 32
SLICE = 0.25
"""Seconds after which Ctrl-C is looked at."""
DB_EXIT = EXIT + EXIT_EXCEPTION + DB
NEVER = float("inf")
TABLE_REGISTER_READS = EXIT_IDTR_READ, EXIT_GDTR_READ, EXIT_LDTR_READ, EXIT_TR_READ
ENDLESS = 1000
"""Faults of one address at one RIP, with nothing else between, after which they are taken for endless."""
EPYC = Implementation(
    pdpte_accessed=True, rsvd_without_p=True, nonleaf_bit8=True, pcid=True, wide_cr0=True, efer=0x1D01
)
FLAT_CODE32 = Segment(0x08, 0, 0xFFFFFFFF, 0xCF9B00 & 0xF0FF00)
FLAT_DATA32 = Segment(0x10, 0, 0xFFFFFFFF, 0xCF9300 & 0xF0FF00)
NULL_LDT = Segment(0, 0, 0xFFFF, 0x008200)
BUSY_TSS = Segment(0, 0, 0xFFFF, 0x008B00)


MSR_FIELDS = {
    0x175: "sysenter_esp",
    0x176: "sysenter_eip",
    0xC0000081: "star",
    0xC0000082: "lstar",
    0xC0000083: "cstar",
    0xC0000084: "fmask",
    0xC0000102: "kernel_gs_base",
}
CANONICAL_MSRS = frozenset((0x175, 0x176, 0xC0000082, 0xC0000083, 0xC0000100, 0xC0000101, 0xC0000102))
ExceptionCallback = Callable[[int, int | None, int], bool]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why run() returned.

    reason      "stopped" by a callback without a reason, or what stop() was given
                "hlt": HLT, RIP behind it; an interrupt() lets the guest go on
                "triple fault": the guest could not take an exception and was shut down
                "exits", "instructions", "seconds": the limit was reached; run() goes on
                "endless faults": one instruction faults for ever
                "emulation": KVM cannot emulate an instruction (an internal error of KVM_RUN)
                "host": KVM_RUN failed, `detail` is why
    detail      more about it, by the reason
    """

    reason: str
    detail: object = None


class InterruptSource(Protocol):
    """Who has external interrupts for the processor: an interrupt controller."""

    def pending(self) -> bool:
        """Whether there is one."""

    def take(self) -> int | None:
        """The vector of the one that is delivered now."""


class InterruptQueue:
    """External interrupts without a controller: one after the other."""

    def __init__(self) -> None:
        self.vectors: deque[int] = deque()

    def pending(self) -> bool:
        return bool(self.vectors)

    def take(self) -> int | None:
        return self.vectors.popleft()


class ExitRecord(NamedTuple):
    """One exit, for reports: its code, RIP, an exception's error code, a page fault's address."""

    code: int
    rip: int
    info1: int
    info2: int


@dataclass(slots=True)
class _Device:
    """A range of ports or of addresses with its callbacks."""

    first: int
    last: int
    read: Callable[[int, int], int] | None
    write: Callable[[int, int, int], None] | None


@dataclass(slots=True)
class _Step:
    """An instruction that runs alone, with what is to be undone afterwards."""

    guest_tf: bool
    sptep: int = 0
    spte: int = 0
    address: int = 0
    gpa: int = 0
    size: int = 0


class SvmMachine:
    """A VM with one vCPU on an emulated SVM processor.

    memory      bytes of memory from address 0, or a list of (address, size) of memory slots
    npt         nested paging; without it KVM shadows the guest's tables
    tdp_mmu     with npt: by the TDP MMU; without it by direct shadow pages
    kernel, design
                whose KVM, and switches that are not as that kernel has them (kvm/switches.py)
    la57        the processor has five-level paging
    backing     what the host backs memory with
    nx_huge_pages
                the mitigation is on
    parameters  all of KVM's parameters, instead of npt, tdp_mmu and nx_huge_pages

    `machine` is the model's (machine.kvm for events and statistics), `vcpu` its vCPU, `processor` the
    emulated one; `at_shutdown` the registers before a triple fault reset them, `written_cr3` what the guest
    wrote to CR3 last, with bit 63. Raises EmulatorError if that cannot be had.
    """

    def __init__(
        self,
        memory: int | Sequence[tuple[int, int]] = 128 << 20,
        *,
        npt: bool = False,
        tdp_mmu: bool = True,
        kernel: str = DEFAULT_KERNEL,
        design: Mapping[str, str] | None = None,
        la57: bool = True,
        backing: Kind = Kind.ANON,
        nx_huge_pages: bool = False,
        parameters: Parameters | None = None,
    ) -> None:
        if parameters is None:
            parameters = Parameters()
            parameters.tdp_enabled, parameters.tdp_mmu = npt, npt and tdp_mmu
            parameters.nx_huge_pages = nx_huge_pages
        self.npt = parameters.tdp_enabled
        if self.npt and parameters.nx_huge_pages:
            raise EmulatorError("nested paging and nx_huge_pages do not go together: NX crashes the emulator")
        self.machine = Machine(
            parameters,
            design=design_of(kernel, design),
            host_maxphyaddr=PHYSICAL_BITS,
            tlb=False,
            implementation=EPYC,
        )
        self.kvm = self.machine.kvm
        slots = [(0, memory)] if isinstance(memory, int) else list(memory)
        for number, (gpa, size) in enumerate(slots):
            self.machine.set_slot(number, gpa, size, kind=backing)
        self.size = max(gpa + size for gpa, size in slots)
        self.vcpu = self.machine.add_vcpu(PHYSICAL_BITS, la57=la57)
        self.processor = SvmProcessor(self.machine.arena, npt=self.npt)
        self.memory = self.machine.arena.view().cast("B")
        self.cpuid = Cpuid(self.processor, la57=la57)
        self.vcpu.cr4_missing |= self.cpuid.cr4_missing
        self.msrs = Msrs(self.vcpu)
        self.emulator = CodeEmulator(self.vcpu, self.processor, self._mmio, self.memory)
        self.delivery = Delivery(self.vcpu, self.processor, self.machine.arena)
        self.exits: Counter[int] = Counter()
        self._history: deque[tuple[int, int, int, int]] = deque(maxlen=HISTORY)
        self.delivered: Counter[int] = Counter()
        self.at_shutdown: dict[str, int] | None = None
        self.cr8 = 0
        self.written_cr3 = 0
        self._read_tsc: Callable[[], int] = time.perf_counter_ns
        self._read_cr8: Callable[[], int] = lambda: self.cr8
        self._write_cr8: Callable[[int], None] = self._keep_cr8
        self._ports: list[_Device] = []
        self._port_of: dict[int, _Device | None] = {}
        self._devices: list[_Device] = []
        self._syscall: Callable[[], None] | None = None
        self._vmmcall: Callable[[], None] | None = None
        self._exception: ExceptionCallback | None = None
        self._idle: Callable[[], None] | None = None
        self._idle_every = NEVER
        self._wake_at = self._deadline = NEVER
        self._entry: Callable[[], None] | None = None
        self._outcome: Outcome | None = None
        self._exit_limit: int | None = None
        self._soft: tuple[int, int] | None = None
        self._queue = InterruptQueue()
        self._interrupts: InterruptSource = self._queue
        self._pending = False
        self._taken: int | None = None
        self._nmi = self._nmi_blocked = False
        self._step: _Step | None = None
        self._stepped = False
        self._stepped_at = (0, 0)
        self._loaded: tuple[int, ...] = ()
        self._flushes = self._page_flushes = -1
        self._last_fault = (0, 0)
        self._repeats = 0
        self.processor.on_exit = self._on_exit
        self.processor.on_in = self._on_in
        self.processor.on_out = self._on_out
        self.processor.on_syscall = self._on_syscall
        self.processor.on_sysenter = self._on_sysenter
        self._handlers = self._exit_handlers()

    # -- memory ------------------------------------------------------------------------------------------

    def write(self, gpa: int, data: bytes) -> None:
        """Write guest memory from user space. Raises HostError where no slot is."""
        machine, position = self.machine, 0
        while position < len(data):
            length = min(len(data) - position, 0x1000 - (gpa & 0xFFF))
            hpa = machine.host.touch(machine.hva(gpa), write=True) | gpa & 0xFFF
            self.memory[hpa : hpa + length] = data[position : position + length]
            self.processor.invalidate_code(hpa, length)
            gpa, position = gpa + length, position + length

    def read(self, gpa: int, size: int) -> bytes:
        """Read guest memory from user space. Raises HostError where no slot is."""
        machine, parts = self.machine, []
        while size:
            length = min(size, 0x1000 - (gpa & 0xFFF))
            hpa = machine.host.touch(machine.hva(gpa), write=False) | gpa & 0xFFF
            parts.append(bytes(self.memory[hpa : hpa + length]))
            gpa, size = gpa + length, size - length
        return b"".join(parts)

    # -- registers ---------------------------------------------------------------------------------------

    def start_protected(self, eip: int, *, esp: int = 0, eax: int = 0, ebx: int = 0) -> None:
        """Begin at eip in 32-bit protected mode without paging, with flat segments and interrupts off."""
        self._reset()
        set_sregs(self.vcpu, CR0_PE | CR0_ET, 0, 0, 0)
        self._set_segments(FLAT_CODE32, FLAT_DATA32)
        q = self.processor.q
        q[0], q[3], q[4] = eax, ebx, esp
        self.processor.rip = eip
        self._load_modes(cpl=0)

    def start_long(
        self,
        rip: int,
        cr3: int,
        *,
        rsp: int = 0,
        user: bool = False,
        cr4: int = CR4_PAE | CR4_OSFXSR,
        cr0: int = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG,
        efer: int = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX,
    ) -> None:
        """Begin at rip in 64-bit mode with page tables at cr3, at CPL 3 with `user`; LA57 in cr4: 5 levels.

        Selectors are those of a GDT with code, data, user data, user code at 0x08, 0x10, 0x28, 0x30; the
        guest needs one only if it loads segments or takes exceptions. Raises ValueError for registers that do
        not go together.
        """
        self._reset()
        if not set_sregs(self.vcpu, cr0, cr3, cr4, efer, code_64bit=True):
            raise ValueError(
                f"CR0 {cr0:#x}, CR3 {cr3:#x}, CR4 {cr4:#x} and EFER {efer:#x} do not go together"
            )
        if user:
            self._set_segments(Segment(0x33, 0, 0xFFFFFFFF, 0xA0FB00), Segment(0x2B, 0, 0xFFFFFFFF, 0xC0F300))
        else:
            self._set_segments(Segment(0x08, 0, 0xFFFFFFFF, 0xA09B00), FLAT_DATA32)
        self.processor.q[4] = rsp
        self.processor.rip = rip
        self._load_modes(cpl=3 if user else 0)

    def _reset(self) -> None:
        """General registers, flags, descriptor tables and what is pending as after a reset."""
        processor = self.processor
        for number in range(16):
            processor.q[number] = 0
        processor.rflags = 2
        for number in (GDTR, IDTR):
            processor.set_segment(number, Segment(0, 0, 0, 0))
        processor.set_segment(LDTR, NULL_LDT)
        processor.set_segment(TR, BUSY_TSS)
        processor.set_dr(6, 0xFFFF0FF0)
        processor.set_dr(7, 0x400)
        self.vcpu.exception = self.vcpu.soft_interrupt = None
        self._soft, self._step = None, None
        self._nmi = self._nmi_blocked = False
        self._queue.vectors.clear()
        self._pending = self._taken is not None or self._interrupts.pending()

    def _set_segments(self, code: Segment, data: Segment) -> None:
        self.processor.set_segment(CS, code)
        for number in (ES, SS, DS, FS, GS):
            self.processor.set_segment(number, data)

    def get(self, name: str) -> int:
        """A register as the guest has it: rax..r15, rip, rflags, cr0..cr4, cr8, efer. Raises KeyError."""
        processor, vcpu = self.processor, self.vcpu
        if name in _GPR_NUMBERS:
            return processor.q[_GPR_NUMBERS[name]]
        match name:
            case "rip":
                return processor.rip
            case "rflags":
                return processor.rflags
            case "cr2":
                return processor.cr(2)
            case "cr3":
                return processor.cr(3) if self.npt and self._loaded else vcpu.cr3
            case "cr0" | "cr4" | "efer":
                return int(getattr(vcpu, name))
            case "cr8":
                return self._read_cr8()
        raise KeyError(name)

    def set(self, name: str, value: int) -> None:
        """Set a register; a control register or EFER as KVM does it for the guest's own instruction.

        Raises KeyError, or ValueError where the guest would get #GP.
        """
        processor, vcpu = self.processor, self.vcpu
        accepted = True
        if name in _GPR_NUMBERS:
            processor.q[_GPR_NUMBERS[name]] = value & MASK64
            return
        match name:
            case "rip":
                processor.rip = value
            case "rflags":
                processor.rflags = value
            case "cr2":
                processor.set_cr(2, value)
            case "cr0":
                accepted = kvm_set_cr0(vcpu, value)
            case "cr3":
                accepted = kvm_set_cr3(vcpu, value)
                if self.npt:
                    vcpu.cpu.root = vcpu.cr3
            case "cr4":
                accepted = kvm_set_cr4(vcpu, value)
            case "efer":
                accepted = set_efer(vcpu, value)
            case "cr8":
                self._write_cr8(value)
            case _:
                raise KeyError(name)
        if not accepted:
            raise ValueError(f"{name} cannot be {value:#x}")

    def get_segment(self, name: str) -> Segment:
        """A segment or table register: es cs ss ds fs gs ldtr tr gdtr idtr."""
        return self.processor.segment(SEGMENTS.index(name))

    def set_segment(self, name: str, segment: Segment, *, cpl: int | None = None) -> None:
        """Load a segment or table register; the CPL becomes `cpl`, or stays."""
        self.processor.set_segment(SEGMENTS.index(name), segment)
        self.processor.update_modes(cpl)

    @property
    def cpl(self) -> int:
        """0 to 3."""
        return self.processor.cpl

    def registers(self) -> dict[str, int]:
        """Those of a report, by name."""
        names = (*GPRS, "rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer")
        return {name: self.get(name) for name in names} | {"cpl": self.cpl}

    # -- callbacks ---------------------------------------------------------------------------------------

    def on_port(
        self,
        first: int,
        last: int | None = None,
        *,
        read: Callable[[int, int], int] | None = None,
        write: Callable[[int, int, int], None] | None = None,
    ) -> None:
        """Ports first..last: read(port, size) answers IN, write(port, size, value) takes OUT."""
        self._ports.insert(0, _Device(first, first if last is None else last, read, write))
        self._port_of.clear()

    def on_mmio(
        self,
        gpa: int,
        size: int,
        *,
        read: Callable[[int, int], int] | None = None,
        write: Callable[[int, int, int], None] | None = None,
    ) -> None:
        """Addresses gpa.. that no slot has: read(gpa, size) and write(gpa, size, value)."""
        self._devices.insert(0, _Device(gpa, gpa + size - 1, read, write))

    def on_syscall(self, callback: Callable[[], None]) -> None:
        """Instead of what SYSCALL does: RIP is behind it, RCX and R11 are set; the guest stays at its CPL."""
        self._syscall = callback

    def on_vmmcall(self, callback: Callable[[], None]) -> None:
        """VMMCALL and VMCALL: RIP is behind it. Without a callback RAX becomes -KVM_ENOSYS."""
        self._vmmcall = callback

    def on_exception(self, callback: ExceptionCallback) -> ExceptionCallback | None:
        """callback(vector, error code or None, CR2) for each exception the guest is to get; True: it is dealt
        with, else the guest's IDT gets it. The callback that there was before, for the new one to call.
        """
        before, self._exception = self._exception, callback
        return before

    def on_idle(self, callback: Callable[[], None], every: float = 0.01) -> None:
        """Called every that many seconds while the guest runs, and when wake_at() says: for timers."""
        self._idle, self._idle_every = callback, every
        self._schedule()

    def wake_at(self, when: float) -> None:
        """Call the callback of on_idle() at that time (time.monotonic()); instead of at an earlier one."""
        self._wake_at = when
        self._schedule()

    def on_cr8(self, read: Callable[[], int], write: Callable[[int], None]) -> None:
        """CR8 is part of an interrupt controller: reading and writing it."""
        self._read_cr8, self._write_cr8 = read, write

    def on_rdtsc(self, read: Callable[[], int]) -> None:
        """RDTSC and RDTSCP give what `read` returns, not the host's counter."""
        self._read_tsc = read
        self.processor.intercept(EXIT_RDTSC, EXIT_RDTSCP, wanted=True)

    def has_apic(self) -> None:
        """There is a local APIC with x2APIC mode and TSC deadlines: CPUID says so."""
        self.cpuid.has_apic = True
        self.cpuid.known.clear()

    def on_interrupts(self, source: InterruptSource) -> None:
        """External interrupts come from there, instead of from interrupt()."""
        self._interrupts = source
        self.interrupts_changed()

    def on_entry(self, callback: Callable[[], None] | None) -> None:
        """Called before the guest goes on after an exit, when KVM is done with it: to look at the MMU."""
        self._entry = callback

    def on_msr(
        self,
        index: int,
        *,
        read: Callable[[], int | None] | None = None,
        write: Callable[[int], bool | None] | None = None,
    ) -> None:
        """An MSR: without `read` it is what was written last, without `write` it can be written.

        Reading None, or a write that returns False, is #GP.
        """
        self.msrs.readers[index] = read
        self.msrs.writers[index] = write
        self.msrs.values.setdefault(index, 0)

    # -- running -----------------------------------------------------------------------------------------

    def run(
        self, *, exits: int | None = None, instructions: int | None = None, seconds: float | None = None
    ) -> Outcome:
        """Run the guest until something stops it, or a limit is reached.

        With `instructions` they are counted, which is slower. A few more may be executed; of IN, OUT and
        SYSCALL among these the callbacks are not called: the guest is not to go on.
        """
        self._outcome = None
        self._exit_limit = None if exits is None else self.exits.total() + exits
        last = self.processor.instructions + instructions if instructions else 0
        self._deadline = NEVER if seconds is None else time.monotonic() + seconds
        self._guarded(self._resume)
        while self._outcome is None:
            try:
                self.processor.run(self._next_tick(), max(last - self.processor.instructions, 0))
            except self.processor.error_type as error:
                self._outcome = Outcome("processor", str(error))
            if self._outcome is None and instructions:
                self._outcome = Outcome("instructions")
        return self._outcome

    def _next_tick(self) -> float:
        now = time.monotonic()
        return min(self._deadline, self._wake_at, now + min(self._idle_every, SLICE))

    def _schedule(self) -> None:
        if self.processor.running:
            self.processor.set_tick(self._next_tick())

    def _tick(self) -> None:
        """Between two instructions, at a time that was set: timers, limits, interrupts that waited."""
        now = time.monotonic()
        if self._outcome is None and now >= self._deadline:
            self._outcome = Outcome("seconds")
        if self._outcome is None:
            self._note_state()
            if now >= self._wake_at:
                self._wake_at = NEVER
            if self._idle is not None and self._step is None:
                self._idle()
            if self._step is None:
                self._guarded(self._resume)
        self.processor.set_tick(self._next_tick())
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if self._outcome is not None:
            self.processor.stop()

    def stop(self, reason: str = "stopped", detail: object = None) -> None:
        """From a callback: let run() return once this exit is dealt with; after IN or OUT a few instructions
        later.
        """
        if self._outcome is None:
            self._outcome = Outcome(reason, detail)
        if self.processor.running:
            self.processor.request_tick()

    def interrupt(self, vector: int) -> None:
        """An external interrupt: delivered when the guest lets it."""
        self._queue.vectors.append(vector)
        self.interrupts_changed()

    def nmi(self) -> None:
        """A non-maskable interrupt."""
        self._nmi = True
        if self.processor.running:
            self.processor.request_tick()

    def interrupts_changed(self) -> None:
        """Look whether there are external interrupts."""
        self._pending = self._taken is not None or self._interrupts.pending()
        if self._pending and not self.processor.window and self._step is None:
            self.processor.set_window(wanted=True)

    @property
    def interrupts_pending(self) -> bool:
        """Whether there are external interrupts that were not delivered yet."""
        return self._pending

    def inject(self, vector: int, error_code: int | None = None, cr2: int | None = None) -> None:
        """An exception, delivered before the next instruction."""
        self.vcpu.exception = QueuedException(vector, error_code, cr2)

    @property
    def history(self) -> list[ExitRecord]:
        """The last exits, oldest first."""
        return [ExitRecord(*record) for record in self._history]

    def counters(self) -> dict[str, int]:
        """Exits by name and in all, exceptions delivered."""
        named = {exit_name(code): count for code, count in sorted(self.exits.items()) if count}
        events = {f"vector {vector}": count for vector, count in sorted(self.delivered.items())}
        return {"exits": self.exits.total(), **named, **events}

    # -- exits -------------------------------------------------------------------------------------------

    def _exit_handlers(self) -> dict[int, Callable[[int], None]]:
        handlers: dict[int, Callable[[int], None]] = {
            EXIT_CPUID: self._cpuid,
            EXIT_MSR: self._msr,
            EXIT_HLT: self._hlt,
            EXIT_INVLPG: self._invlpg,
            EXIT_SWINT: self._software_interrupt,
            EXIT_VMMCALL: self._hypercall,
            EXIT_SHUTDOWN: self._shutdown,
            EXIT_MONITOR: self._skip,
            EXIT_MWAIT: self._skip,
            EXIT_NPF: self._nested_page_fault,
            EXIT_XSETBV: self._privileged,
            EXIT_IRET: self._iret,
            EXIT_RDTSC: self._rdtsc,
            EXIT_RDTSCP: self._rdtsc,
            EXIT_EXCEPTION + PF: self._page_fault,
            EXIT_EXCEPTION + DB: self._debug,
            EXIT_EXCEPTION + UD: self._undefined,
        }
        for code in (EXIT_VMRUN, EXIT_VMLOAD, EXIT_VMSAVE, EXIT_STGI, EXIT_CLGI, EXIT_SKINIT, EXIT_INVLPGA):
            handlers[code] = self._no_svm
        for code in TABLE_REGISTER_READS:
            handlers[code] = self._store_table_register
        for number in (0, 3, 4, 8):
            handlers[EXIT_READ_CR + number] = self._read_cr
            handlers[EXIT_WRITE_CR + number] = self._write_cr
        for vector in range(32):
            handlers.setdefault(EXIT_EXCEPTION + vector, self._other_exception)
        return handlers

    def _on_exit(self, number: int) -> None:
        if number == EXIT + EXIT_SMI:
            self._tick()
            return
        if self._outcome is not None:
            self.processor.stop()
            return
        if number == EXIT + EXIT_INTR or (number == DB_EXIT and self.processor.is_behind_io()):
            self._note_state()
            self._guarded(self._resume)
            self._stop_if_done()
            return
        code = number - EXIT if number >= EXIT else number + EXIT_EXCEPTION
        self.exits[code] += 1
        self._note_state()
        processor = self.processor
        self._history.append((code, self.vcpu.rip, processor.exit_info1, processor.exit_info2))
        self._guarded(self._handle, code)
        if self._outcome is not None or (
            self._exit_limit is not None and self.exits.total() >= self._exit_limit
        ):
            if self._outcome is None:
                self._outcome = Outcome("exits")
            self.processor.stop()

    def _note_state(self) -> None:
        """Tell KVM what it would read from the VMCB."""
        processor, vcpu = self.processor, self.vcpu
        q = processor.q
        hflags = processor.d[processor.hflags_word]
        vcpu.rip = q[processor.rip_word]
        vcpu.cpl = hflags & HF_CPL
        vcpu.compatibility_mode = not hflags & HF_CS64
        vcpu.eflags_ac = q[processor.eflags_word] & FLAG_AC != 0
        if self.npt:
            vcpu.cpu.root = vcpu.cr3 = processor.cr(3)

    def _guarded(self, action: Callable[..., None], *arguments: int) -> None:
        """Do it; what ends KVM_RUN ends run()."""
        try:
            action(*arguments)
        except TripleFault:
            self._outcome = Outcome("triple fault")
        except KvmRunError as error:
            self._outcome = Outcome("host", str(error))
        except (NoShadowPages, DirtyRingFull) as error:
            self._outcome = Outcome("host", str(error) or type(error).__name__)
        except (EmulationError, MachineCheck) as error:
            self._outcome = Outcome("emulation", str(error))
        except EndlessFaults as error:
            self._outcome = Outcome("endless faults", str(error))
        except TaskGate:
            self._outcome = Outcome("emulation", "the guest's IDT has a task gate")

    def _handle(self, code: int) -> None:
        if self._step is not None:
            self._finish_step(code)
        handler = self._handlers.get(code)
        if handler is None:
            raise EmulationError(f"exit {code:#x} is not expected")
        handler(code)
        if self._outcome is None:
            self._resume()

    def _record(self, code: int, info1: int = 0, info2: int = 0) -> None:
        """KVM's record of an exit, for its tracepoint."""
        if self.kvm.tracing:
            record_exit(self.vcpu, code, info1, info2)

    # -- entering ----------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Everything from an exit's end to the guest's next instruction."""
        vcpu = self.vcpu
        while True:
            vcpu_enter_guest(vcpu)
            try:
                if vcpu.exception is not None:
                    self._deliver_exception(vcpu.exception)
                elif self._soft is not None:
                    self._deliver_soft(*self._soft)
                elif self._nmi and not self._nmi_blocked and self._step is None:
                    self._deliver_nmi()
                elif self._pending and self._interruptible():
                    self._deliver_interrupt()
                else:
                    break
            except AccessFault:
                self._delivery_faulted()
            except EventFault as fault:
                self._raise(QueuedException(fault.vector, fault.error_code, None))
            self._note_state()
        self._load()
        if self._pending is not self.processor.window:
            self.processor.set_window(wanted=self._pending and self._step is None)
        if self._entry is not None:
            self._entry()

    def _interruptible(self) -> bool:
        processor = self.processor
        return (
            bool(processor.system_flags & FLAG_IF)
            and not processor.d[processor.hflags_word] & HF_INHIBIT_IRQ
            and self._step is None
        )

    def _load(self) -> None:
        """Give the processor KVM's registers and flushes."""
        vcpu, processor = self.vcpu, self.processor
        cpu = vcpu.cpu
        if (vcpu.cr0, vcpu.cr4, vcpu.efer) != self._loaded:
            self._load_modes()
        flush = False
        root = vcpu.cr3 if self.npt else cpu.root
        if processor.cr(3) != root:
            processor.set_cr(3, root)
            flush = True
        if self.npt and processor.nested_cr3 != cpu.nested_root:
            processor.nested_cr3 = cpu.nested_root
            flush = True
        pages = cpu.page_flushes - self._page_flushes
        if flush or cpu.flushes != self._flushes or pages > 1:
            processor.flush()
        elif pages:
            processor.flush_page(cpu.flushed_page)
        self._flushes, self._page_flushes = cpu.flushes, cpu.page_flushes

    def _load_modes(self, cpl: int | None = None) -> None:
        """The control registers that the guest runs with (svm_set_cr0, svm_set_cr4, svm_set_efer)."""
        vcpu, processor = self.vcpu, self.processor
        cr0, efer = vcpu.cr0 & ~(CR0_CD | CR0_NW), vcpu.efer | EFER_SVME
        cr4 = vcpu.cr4 & ~(CR4_PCIDE | CR4_UMIP)
        processor.intercept(*TABLE_REGISTER_READS, wanted=bool(vcpu.cr4 & CR4_UMIP))
        if not self.npt:
            cr0 |= CR0_PG | CR0_WP
            cr4 |= CR4_PAE
            if not vcpu.is_paging():
                cr4 &= ~(CR4_SMEP | CR4_SMAP | CR4_PKE)
            efer |= EFER_NX
            if not efer & EFER_LMA:
                efer &= ~EFER_LME
        processor.set_cr(0, cr0)
        processor.set_cr(4, cr4)
        processor.efer = efer
        processor.update_modes(cpl)
        processor.flush()
        self._loaded = (vcpu.cr0, vcpu.cr4, vcpu.efer)

    # -- events ------------------------------------------------------------------------------------------

    def _deliver_exception(self, exception: QueuedException) -> None:
        vcpu, processor = self.vcpu, self.processor
        self._soft = vcpu.soft_interrupt = None
        if exception.cr2 is not None:
            vcpu.cr2 = exception.cr2
            processor.set_cr(2, exception.cr2)
        vector, error_code = exception.vector, exception.error_code
        if self._exception is not None and self._exception(vector, error_code, processor.cr(2)):
            vcpu.exception = None
            return
        exception.reinjected = True
        self.delivery.deliver(vector, error_code, rip=processor.rip, software=False, external=True)
        self.delivered[vector] += 1
        vcpu.exception = None

    def _deliver_soft(self, vector: int, rip: int) -> None:
        vcpu = self.vcpu
        self.delivery.deliver(vector, None, rip=rip, software=True, external=False)
        self.delivered[vector] += 1
        self._soft = vcpu.soft_interrupt = None

    def _deliver_nmi(self) -> None:
        """No other one until IRET."""
        self.delivery.deliver(NMI, None, rip=self.processor.rip, software=False, external=True)
        self.delivered[NMI] += 1
        self._nmi, self._nmi_blocked = False, True
        self.processor.intercept(EXIT_IRET, wanted=True)

    def _deliver_interrupt(self) -> None:
        """Take the next interrupt from its controller; one whose delivery faults comes again."""
        if self._taken is None:
            self._taken = self._interrupts.take()
        if self._taken is not None:
            self.delivery.deliver(self._taken, None, rip=self.processor.rip, software=False, external=True)
            self.delivered[self._taken] += 1
            self.vcpu.stat.irq_injections += 1
            self._taken = None
        self._pending = self._taken is not None or self._interrupts.pending()

    def _delivery_faulted(self) -> None:
        """An access of the delivery faulted: an exit to KVM, or another exception on the way."""
        vcpu, cpu = self.vcpu, self.vcpu.cpu
        if self._soft is not None:
            vcpu.soft_interrupt = QueuedInterrupt(self._soft[0], lambda: True)
        if cpu.fault_vector == NESTED_FAULT:
            self._fault(cpu.fault_gpa, cpu.fault_error_code, nested=True)
        elif cpu.fault_vector != PF:
            self._raise(QueuedException(cpu.fault_vector, 0, None))
        elif self.npt:
            self.processor.set_cr(2, cpu.fault_gva)
            self._raise(QueuedException(PF, _as_hardware(cpu.fault_error_code), cpu.fault_gva))
        else:
            self._fault(cpu.fault_gva, cpu.fault_error_code)

    def _fault(self, address: int, error_code: int, *, nested: bool = False) -> None:
        self._check_progress(address)
        if handle_page_fault(self.vcpu, address, error_code, nested=nested):
            raise EmulationError(f"an event cannot be delivered through {address:#x}")

    def _raise(self, exception: QueuedException) -> None:
        """An exception of the processor's; one on the way to a handler becomes #DF or a shutdown."""
        vcpu = self.vcpu
        try:
            vcpu.exception = (
                exception if vcpu.exception is None else merge_exceptions(vcpu.exception, exception)
            )
        except TripleFault:
            self._shutdown(EXIT_SHUTDOWN)

    def _check_progress(self, address: int) -> None:
        """Count faults of one instruction at one address. Raises EndlessFaults."""
        fault = (self.vcpu.rip, address)
        if fault != self._last_fault:
            self._last_fault = fault
            self._repeats = 0
        self._repeats += 1
        if self._repeats > ENDLESS:
            raise EndlessFaults(f"the instruction at {fault[0]:#x} faults for ever at {address:#x}")

    # -- page faults -------------------------------------------------------------------------------------

    def _page_fault(self, code: int) -> None:
        processor, vcpu = self.processor, self.vcpu
        address, error_code = processor.exit_info2, processor.exit_info1
        if self._may_be_ahead(address, error_code) and self._is_ahead(address):
            self._stepped_at = (processor.rip, address)
            self._step_alone()
            return
        if self.npt:
            vcpu.exception = QueuedException(PF, _as_hardware(error_code), address)
            return
        self._handle_fault(address, error_code)

    def _nested_page_fault(self, code: int) -> None:
        processor = self.processor
        self._handle_fault(processor.exit_info2, processor.exit_info1 | PFERR_GUEST_FINAL, nested=True)

    def _handle_fault(self, address: int, error_code: int, *, nested: bool = False) -> None:
        vcpu = self.vcpu
        if handle_page_fault(vcpu, address, error_code, nested=nested):
            self._repeats = 0
            self._emulate(address, vcpu.emulation_type)
        elif vcpu.exception is None:
            self._check_progress(address)

    def _may_be_ahead(self, address: int, error_code: int) -> bool:
        """Whether it is a fetch, as far as the error code says so: under nested paging it may not.

        An access that is none faults again when its instruction runs alone.
        """
        if error_code & PFERR_F:
            return True
        if not self.npt or error_code & PFERR_W or address & 0xFFF:
            return False
        return (self.processor.rip, address) != self._stepped_at

    def _is_ahead(self, address: int) -> bool:
        """Whether a fetch faulted for an instruction behind the one at RIP.

        The emulator translates several at once and reports the first. One whose end is on the page that is
        missing faults for itself.
        """
        linear = self.emulator.linear_rip()
        if (linear ^ address) >> 12 == 0:
            return False
        try:
            data = self.emulator.page_of_code(linear)
        except FetchFault:
            return False
        return self.emulator.decoder.decode(data, self.emulator.bits()) is not None

    def _step_alone(self) -> None:
        """Let the next instruction run by itself."""
        processor = self.processor
        flags = processor.system_flags
        self._step = _Step(bool(flags & FLAG_TF))
        processor.system_flags = flags | FLAG_TF

    def _step_writing(self, code: Code, address: int) -> None:
        """Let an instruction that is not emulated write to a shadowed table: its SPTE lets it, once.

        Raises EmulationError if it is no memory.
        """
        vcpu = self.vcpu
        gpa = address if vcpu.mmu.direct() else gva_to_gpa(vcpu, address, PFERR_W)
        sptep = last_sptep_lockless(vcpu, address)
        words = self.machine.arena.view()
        spte = words[sptep >> 3] if sptep else 0
        if gpa == INVALID_PAGE or not is_shadow_present(spte) or spte & PS:
            raise EmulationError(f"{code.name} at {vcpu.rip:#x} cannot be emulated")
        self._step_alone()
        assert self._step is not None
        step = self._step
        step.sptep, step.spte, step.address, step.gpa = sptep, spte, address, gpa
        step.size = min(max(code.size, 1), 8, 0x1000 - (gpa & 0xFFF))
        words[sptep >> 3] = spte | W | A | D
        self.processor.flush_page(address)

    def _finish_step(self, code: int) -> None:
        """The single instruction ran, or ended in an exit."""
        step, self._step = self._step, None
        assert step is not None
        processor, vcpu = self.processor, self.vcpu
        if not step.guest_tf:
            processor.system_flags &= ~FLAG_TF
        if step.sptep:
            self.machine.arena.view()[step.sptep >> 3] = step.spte
            processor.flush_page(step.address)
            slot = self.kvm.visible_memslot(step.gpa >> 12)
            if slot is not None:
                mark_page_dirty_in_slot(self.kvm, slot, step.gpa >> 12)
            kvm_mmu_track_write(vcpu, step.gpa, step.size)
        if code == EXIT_EXCEPTION + DB and not step.guest_tf:
            processor.set_dr(6, processor.dr(6) & ~DR6_BS)
            self._stepped = True

    def _debug(self, code: int) -> None:
        if self._stepped:
            self._stepped = False
            return
        self.vcpu.exception = QueuedException(DB, None, None)

    # -- emulation ---------------------------------------------------------------------------------------

    def _fetch(self) -> Code | None:
        """The instruction at RIP; None, with an exception for the guest, if there is none."""
        try:
            code = self.emulator.fetch()
        except FetchFault as fault:
            kvm_inject_page_fault(self.vcpu, fault.address, fault.error_code)
            return None
        if code is None:
            self.vcpu.exception = QueuedException(UD, None, None)
        return code

    def _emulate(self, address: int, emulation_type: int) -> None:
        """Emulate the instruction whose access to `address` KVM does not let through."""
        code = self._fetch()
        if code is None:
            return
        if code.execute is None:
            if not self.emulator.retry_instead(address, emulation_type):
                self._step_writing(code, address)
        elif self.emulator.emulate(self.emulator.insn(code), address, emulation_type):
            self._advance(code.length)

    def _advance(self, length: int) -> None:
        """RIP moves on behind an instruction that was completed for the guest."""
        processor = self.processor
        rip = processor.rip + length
        processor.rip = rip & (MASK64 if processor.is_64bit else 0xFFFFFFFF)
        self.vcpu.rip = processor.rip
        processor.d[processor.hflags_word] &= ~HF_INHIBIT_IRQ
        if processor.system_flags & FLAG_TF and self._step is None:
            processor.set_dr(6, processor.dr(6) | DR6_BS)
            self.vcpu.exception = QueuedException(DB, None, None)

    def _complete(self, code: Code, insn: Insn) -> None:
        if self.emulator.emulate(insn):
            self._advance(code.length)

    def _mmio(self, access: MmioAccess) -> int:
        for device in self._devices:
            if device.first <= access.gpa <= device.last:
                if access.write:
                    if device.write:
                        device.write(access.gpa, access.length, access.data)
                    return 0
                return device.read(access.gpa, access.length) if device.read else (1 << 8 * access.length) - 1
        return 0 if access.write else (1 << 8 * access.length) - 1

    # -- instructions that exit --------------------------------------------------------------------------

    def _cpuid(self, code: int) -> None:
        self._record(code)
        insn = self._fetch()
        if insn is not None:
            self.cpuid.execute(self.vcpu)
            self._advance(insn.length)

    def _msr(self, code: int) -> None:
        processor, vcpu = self.processor, self.vcpu
        write = processor.exit_info1 & 1
        self._record(code, write)
        insn = self._fetch()
        if insn is None:
            return
        q = processor.q
        index = q[1] & 0xFFFFFFFF
        if write:
            value = q[0] & 0xFFFFFFFF | (q[2] & 0xFFFFFFFF) << 32
            if index in PASSED_MSRS:
                accepted = self._write_passed_msr(index, value)
            else:
                accepted = self.msrs.write(index, value)
        else:
            read = self.msrs.read(index)
            accepted, value = read is not None, read or 0
        if self.kvm.tracing:
            self.kvm.tracer.kvm_msr(bool(write), index, value, not accepted)
        if not accepted:
            vcpu.exception = QueuedException(GP, 0, None)
            return
        if not write:
            q[0], q[2] = value & 0xFFFFFFFF, value >> 32
        self._advance(insn.length)

    def _write_passed_msr(self, index: int, value: int) -> bool:
        """WRMSR of one that the processor itself has; False is #GP."""
        processor = self.processor
        if index in CANONICAL_MSRS and is_noncanonical(self.vcpu, value):
            return False
        match index:
            case 0xC0000100:
                processor.set_segment_base(FS, value)
            case 0xC0000101:
                processor.set_segment_base(GS, value)
            case 0x174:
                processor.d[processor.layout.sysenter_cs >> 2] = value & 0xFFFFFFFF
            case _:
                processor.set_field(MSR_FIELDS[index], value)
        return True

    def _hlt(self, code: int) -> None:
        self._record(code)
        self._advance(1)
        if not (self._pending and self.processor.system_flags & FLAG_IF):
            self._outcome = Outcome("hlt")

    def _skip(self, code: int) -> None:
        self._record(code)
        insn = self._fetch()
        if insn is not None:
            self._advance(insn.length)

    def _no_svm(self, code: int) -> None:
        self._record(code)
        self.vcpu.exception = QueuedException(UD, None, None)

    def _privileged(self, code: int) -> None:
        self._record(code)
        self.vcpu.exception = QueuedException(GP, 0, None)

    def _hypercall(self, code: int) -> None:
        self._record(code)
        self._advance(3)
        if self._vmmcall is not None:
            self._vmmcall()
        else:
            self.processor.q[0] = -1000 & MASK64

    def _shutdown(self, code: int) -> None:
        """KVM resets the vCPU."""
        self.at_shutdown = self.registers()
        shutdown_exit(self.vcpu)

    def _undefined(self, code: int) -> None:
        """#UD: VMCALL is the other vendor's VMMCALL."""
        insn = self._fetch()
        if insn is None:
            return
        if insn.name == "vmcall":
            self._hypercall(code)
        elif insn.name == "invpcid":
            self.exits[code] -= 1
            self.exits[EXIT_INVPCID] += 1
            self._invpcid(insn)
        else:
            self.vcpu.exception = QueuedException(UD, None, None)

    def _other_exception(self, code: int) -> None:
        vector = code - EXIT_EXCEPTION
        error_code = self.processor.exit_info1 if vector in WITH_ERROR_CODE else None
        self.vcpu.exception = QueuedException(vector, error_code, None)

    def _software_interrupt(self, code: int) -> None:
        insn = self._fetch()
        if insn is None:
            return
        fixed = {"int3": BP, "into": OF, "int1": DB}
        vector = fixed.get(insn.name, insn.operands[0].value & 0xFF if insn.operands else 0)
        self._soft = (vector, self.processor.rip + insn.length)

    def _invlpg(self, code: int) -> None:
        self._record(code)
        insn = self._fetch()
        if insn is None:
            return
        self._repeats = 0
        address = self.emulator.context.linear(insn)
        self._complete(insn, Insn(Op.INVLPG, insn.code, address=address))

    def _invpcid(self, insn: Code) -> None:
        """INVPCID: the emulated processor has none; under nested paging the flush is all there is to it."""
        vcpu, context = self.vcpu, self.emulator.context
        self._record(EXIT_INVPCID)
        self._repeats = 0
        if vcpu.cpl:
            vcpu.exception = QueuedException(GP, 0, None)
            return
        kind = context.register(insn.operands[0].number, insn.operands[0].size)
        address = context.linear(insn)
        try:
            pcid, gva = (self.emulator.read(address + offset & MASK64, 8) for offset in (0, 8))
        except OperandFault as fault:
            kvm_inject_page_fault(vcpu, fault.address, fault.error_code)
            return
        if not kvm_handle_invpcid(vcpu, kind, pcid, gva):
            vcpu.exception = QueuedException(GP, 0, None)
            return
        if self.npt:
            self.processor.flush()
        self._advance(insn.length)

    def _iret(self, code: int) -> None:
        """The handler of an NMI ends; one that waits comes behind its IRET."""
        self._record(code)
        self._nmi_blocked = False
        self.processor.intercept(EXIT_IRET, wanted=False)
        if self._nmi:
            self._step_alone()

    def _rdtsc(self, code: int) -> None:
        self._record(code)
        insn = self._fetch()
        if insn is None:
            return
        q, value = self.processor.q, self._read_tsc()
        q[0], q[2] = value & 0xFFFFFFFF, value >> 32
        if code == EXIT_RDTSCP:
            q[1] = self.msrs.values[MSR_TSC_AUX] & 0xFFFFFFFF
        self._advance(insn.length)

    def _store_table_register(self, code: int) -> None:
        """SGDT, SIDT, SLDT or STR with CR4.UMIP."""
        self._record(code)
        insn = self._fetch()
        if insn is None:
            return
        processor, context = self.processor, self.emulator.context
        if self.vcpu.cpl:
            self.vcpu.exception = QueuedException(GP, 0, None)
            return
        try:
            if code in (EXIT_LDTR_READ, EXIT_TR_READ):
                operand = insn.operands[0]
                selector = processor.selector(LDTR if code == EXIT_LDTR_READ else TR)
                context.put(insn, operand, selector)
            else:
                table = processor.segment(GDTR if code == EXIT_GDTR_READ else IDTR)
                size = 8 if processor.is_64bit else 4
                address = context.linear(insn)
                self.emulator.write(address, 2, table.limit & 0xFFFF)
                self.emulator.write(address + 2 & MASK64, size, table.base & (1 << 8 * size) - 1)
        except OperandFault as fault:
            kvm_inject_page_fault(self.vcpu, fault.address, fault.error_code)
            return
        self._advance(insn.length)

    def _read_cr(self, code: int) -> None:
        self._record(code)
        insn = self._fetch()
        if insn is None:
            return
        value = (self.vcpu.cr0, 0, 0, self.vcpu.cr3, self.vcpu.cr4, 0, 0, 0, self._read_cr8())[code]
        context = self.emulator.context
        if insn.name == "smsw" and _umip_prevents(self.vcpu):
            self.vcpu.exception = QueuedException(GP, 0, None)
            return
        try:
            if insn.name == "smsw":
                context.put(insn, insn.operands[0], value)
            else:
                size = 8 if self.processor.is_64bit else 4
                context.set_register(insn.operands[0].number, size, value)
        except OperandFault as fault:
            kvm_inject_page_fault(self.vcpu, fault.address, fault.error_code)
            return
        self._advance(insn.length)

    def _write_cr(self, code: int) -> None:
        self._repeats = 0
        insn = self._fetch()
        if insn is None:
            return
        vcpu, number = self.vcpu, code - EXIT_WRITE_CR
        if self.npt and vcpu.is_pae_paging():
            self._clear_accessed_in_pdptes()
        if self.npt and number == 3:
            self._write_own_cr3(code, insn)
            return
        try:
            value = self._written_to_cr(insn)
        except OperandFault as fault:
            kvm_inject_page_fault(vcpu, fault.address, fault.error_code)
            return
        if number == 3:
            self.written_cr3 = value
        if number == 8:
            self._record(code)
            if value >> 4:
                vcpu.exception = QueuedException(GP, 0, None)
                return
            self._write_cr8(value)
            self._advance(insn.length)
            return
        if number == 0:
            reason = cr0_exit_reason(vcpu, value)
            if reason is None:
                set_cr0_in_guest(vcpu, value)
                self._advance(insn.length)
                return
            code = reason
        self._record(code)
        if number == 0 and value >> 32:
            vcpu.exception = QueuedException(GP, 0, None)
            return
        op = {0: Op.MOV_CR0, 3: Op.MOV_CR3, 4: Op.MOV_CR4}[number]
        self._complete(insn, Insn(op, insn.code, value=value))

    def _write_own_cr3(self, code: int, insn: Code) -> None:
        """MOV to CR3 under nested paging: not KVM's, but the emulator checks nothing and knows no PCID."""
        vcpu, processor = self.vcpu, self.processor
        self.exits[code] -= 1
        value = self.written_cr3 = self._written_to_cr(insn)
        kept = value & ~CR3_NOFLUSH if vcpu.cr4 & CR4_PCIDE else value
        if kept >> vcpu.maxphyaddr:
            vcpu.exception = QueuedException(GP, 0, None)
            return
        processor.set_cr(3, kept)
        vcpu.cpu.root = vcpu.cr3 = kept
        if kept == value:
            processor.flush()
        self._advance(insn.length)

    def _keep_cr8(self, value: int) -> None:
        self.cr8 = value

    def _clear_accessed_in_pdptes(self) -> None:
        """The emulator sets A in PDPTEs, where it is reserved: KVM would not load them."""
        base = self.vcpu.cr3 & 0xFFFFFFE0
        page = table_page(self.kvm, base >> 12)
        if page != INVALID_PAGE:
            words = self.machine.arena.view()
            first = (page & ADDR | base & 0xFFF) >> 3
            for index in range(first, first + 4):
                words[index] &= ~A

    def _written_to_cr(self, insn: Code) -> int:
        """What MOV to CRn, LMSW or CLTS writes there."""
        if insn.name == "clts":
            return self.vcpu.cr0 & ~CR0_TS
        context = self.emulator.context
        if insn.name == "lmsw":
            value = context.get(insn, insn.operands[0])
            return self.vcpu.cr0 & ~0xE | value & 0xF
        size = 8 if self.processor.is_64bit else 4
        return context.register(insn.operands[-1].number, size)

    # -- instructions that do not exit -------------------------------------------------------------------

    def _device_at(self, port: int) -> _Device | None:
        if port not in self._port_of:
            found = (device for device in self._ports if device.first <= port <= device.last)
            self._port_of[port] = next(found, None)
        return self._port_of[port]

    def _on_in(self, port: int, size: int) -> int:
        self.exits[EXIT_IOIO] += 1
        device = self._device_at(port)
        ones = (1 << 8 * size) - 1
        return device.read(port, size) & ones if device is not None and device.read is not None else ones

    def _on_out(self, port: int, size: int, value: int) -> None:
        self.exits[EXIT_IOIO] += 1
        if self.kvm.tracing:
            record_exit(self.vcpu, EXIT_IOIO, port << 16 | size << 4, self.vcpu.rip)
        device = self._device_at(port)
        if device is not None and device.write is not None:
            device.write(port, size, value & (1 << 8 * size) - 1)
            if self._pending and self._interruptible():
                self.processor.break_behind_io(port)

    def _on_syscall(self) -> None:
        """RIP is at the instruction, whose two bytes are added when this returns."""
        processor = self.processor
        q = processor.q
        if self._syscall is None and not self.vcpu.efer & EFER_SCE:
            self.vcpu.exception = QueuedException(UD, None, None)
            processor.rip = processor.rip - 2 & MASK64
            processor.request_tick()
            return
        flags = processor.rflags
        following = processor.rip + 2
        q[1], q[11] = following, flags & ~FLAG_RF
        if self._syscall is not None:
            processor.rip = following
            self._note_state()
            self._guarded(self._serve_syscall)
            processor.rip = processor.rip - 2 & MASK64
            return
        star = processor.field("star")
        selector = star >> 32 & 0xFFFC
        target = processor.field("lstar" if processor.is_64bit else "cstar")
        processor.set_segment(CS, Segment(selector, 0, 0xFFFFFFFF, 0xA09B00))
        processor.set_segment(SS, Segment(selector + 8, 0, 0xFFFFFFFF, 0xC09300))
        processor.rflags = flags & ~(processor.field("fmask") & 0xFFFFFFFF) & ~FLAG_RF
        processor.update_modes(0)
        processor.rip = target - 2 & MASK64

    def _serve_syscall(self) -> None:
        assert self._syscall is not None
        self._syscall()
        if self._outcome is None:
            self._resume()

    def _on_sysenter(self) -> None:
        processor = self.processor
        selector = processor.field("sysenter_cs") & 0xFFFC
        wide = bool(processor.efer & EFER_LMA)
        processor.set_segment(CS, Segment(selector, 0, 0xFFFFFFFF, 0xA09B00 if wide else 0xC09B00))
        processor.set_segment(SS, Segment(selector + 8, 0, 0xFFFFFFFF, 0xC09300))
        processor.system_flags &= ~(FLAG_VM | FLAG_IF | FLAG_RF)
        processor.q[4] = processor.field("sysenter_esp")
        processor.update_modes(0)
        processor.rip = processor.field("sysenter_eip") - 2 & MASK64


def _umip_prevents(vcpu: Vcpu) -> bool:
    """Whether the instructions that UMIP prevents are prevented now."""
    return bool(vcpu.cr4 & CR4_UMIP) and vcpu.cpl > 0


def _as_hardware(error_code: int) -> int:
    """The error code of a #PF that the guest gets without an exit: with RSVD the emulator leaves P out."""
    return error_code | PFERR_P if error_code & PFERR_RSVD else error_code


_GPR_NUMBERS = {name: number for number, name in enumerate(GPRS)}
