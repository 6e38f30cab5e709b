"""A machine that runs real code: KVM's MMU at the exits of an emulated SVM processor.

Everything a computer or a guest operating system is built from is here:

    SvmMachine(memory, npt=, tdp_mmu=, kernel=, design=, ...)      memory at 0, one vCPU, not started
    write(gpa, data), read(gpa, size), size                        guest memory, as user space sees it
    start_protected(eip, ...)                                      32 bits, flat, paging off (multiboot)
    start_long(rip, cr3, ...)                                      64 bits, CPL 0 or 3, 4 or 5 levels
    get("rax"), set("rax", 1)                                      rax..r15, rip, rflags, cr0..cr4, efer
    get_segment("cs"), set_segment("cs", Segment(...))             es cs ss ds fs gs ldtr tr gdtr idtr
    on_port(first, last, read=, write=)                            IN and OUT
    on_mmio(gpa, size, read=, write=)                              accesses that no memory backs
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

An exception is handled as on hardware with KVM: a #PF exits to the MMU, which repairs it or queues it
for the guest; what is queued is delivered through the guest's IDT with accesses that walk the shadow tables
and may fault themselves. Paging registers are KVM's copy, changed by its own functions; before the guest runs
again KVM's requests are served, and its flushes become flushes of the emulated processor's TLB.
"""

from collections.abc import Callable, Mapping, Sequence

from ...host.backing import Backing
from ...kvm.design.design import design_of
from ...kvm.design.switches import DEFAULT_KERNEL
from ...kvm.exits.svm_exits import shutdown_exit
from ...kvm.state.vcpu import QueuedException
from ...kvm.state.vm import Parameters
from ...x86.implementation import Implementation
from ...x86.svm import SVM_EXIT_EXCP_BASE, SVM_EXIT_SHUTDOWN, exit_reason
from ..play.machine import Machine
from ..scenario.module_params import parameters_of, yes_no
from . import EmulatorError
from .clock import HOST_CLOCK, Clock, VirtualClock
from .control_registers import ControlRegisters
from .cpuid import Cpuid
from .debug_registers import DebugRegisters
from .devices import Device, MmioDevices, Ports, Read, Write
from .emulator import CodeEmulator
from .entry import Entry
from .events import Events, ExceptionCallback, InterruptSource
from .execution import Execution, ExitHandler
from .far_transfers import FarTransfers
from .intercepts import Intercepts
from .interrupts import DB
from .invalidations import Invalidations
from .layout import PHYSICAL_BITS
from .msr_exits import MsrExits
from .msrs import Msrs
from .page_faults import PageFaults
from .progress import Progress
from .run_loop import ExitRecord, Outcome, RunLoop
from .single_step import SingleStep
from .state import GuestState
from .system_calls import SystemCalls
from .table_registers import TableRegisters
from .task_switch import TaskSwitch
from .undefined_opcodes import UndefinedOpcodes

__all__ = ["ExitRecord", "InterruptSource", "Outcome", "SvmMachine"]

EPYC = Implementation(
    pdpte_accessed=True, rsvd_without_p=True, nonleaf_bit8=True, pcid=True, wide_cr0=True, efer=0x1D01
)


class SvmMachine(GuestState):
    """A VM with one vCPU on an emulated SVM processor.

    memory      bytes of memory from address 0, or a list of (address, size) of memory slots
    npt         nested paging; without it KVM shadows the guest's tables
    tdp_mmu     with npt: by the TDP MMU; without it by direct shadow pages
    kernel, design
                whose KVM, and switches that are not as that kernel has them (kvm/design/switches.py)
    la57        the processor has five-level paging
    backing     what the host backs memory with
    nx_huge_pages
                the mitigation is on
    parameters  all of KVM's parameters, instead of npt, tdp_mmu and nx_huge_pages
    clock       the time that the guest sees; a VirtualClock advances with what it executes

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
        backing: Backing = Backing.ANON,
        nx_huge_pages: bool = False,
        parameters: Parameters | None = None,
        clock: Clock = HOST_CLOCK,
    ) -> None:
        if parameters is None:
            parameters = parameters_of(
                yes_no({"kvm_amd.npt": npt, "kvm.tdp_mmu": tdp_mmu, "kvm.nx_huge_pages": nx_huge_pages})
            )
        parameters.host_maxphyaddr = PHYSICAL_BITS
        npt = parameters.tdp_enabled
        if npt and parameters.nx_huge_pages:
            raise EmulatorError("nested paging and nx_huge_pages do not go together: NX crashes the emulator")
        machine = Machine(
            parameters,
            design=design_of(kernel, design),
            tlb=False,
            implementation=EPYC,
        )
        slots = [(0, memory)] if isinstance(memory, int) else list(memory)
        super().__init__(machine, slots, backing, clock, npt=npt, la57=la57)
        self.at_shutdown: dict[str, int] | None = None
        self.cpuid = Cpuid(self.processor, la57=la57)
        self.vcpu.cr4_missing |= self.cpuid.cr4_missing
        self.msrs = Msrs(self.vcpu, clock)
        self.devices = MmioDevices()
        self.emulator = CodeEmulator(self.vcpu, self.processor, self.devices.access, self.memory)
        self.step = SingleStep(self.vcpu, self.processor, machine.arena)
        self.progress = Progress(self.vcpu)
        self.execution = Execution(self.vcpu, self.processor, self.emulator, self.step)
        self.events = Events(self.execution, self.progress, machine.arena, self._shutdown, npt=npt)
        self.delivered = self.events.delivered
        self.entry = Entry(self.events, self.switch, self.step)
        self.loop = RunLoop(self.entry)
        self.exits = self.loop.exits
        if isinstance(clock, VirtualClock) and self.processor.code is not None:
            clock.executed, clock.exits = self.processor.code.executed, self.exits.total
        self.ports = Ports(self.events, self.exits)
        self.system_calls = SystemCalls(self.execution, self.loop)
        self.intercepts = Intercepts(self.execution, self.cpuid, self.msrs, self.events, self.loop)
        self.control_registers = ControlRegisters(
            self.execution, self.progress, self.task_priority, self.exits, npt=npt
        )
        self.loop.handlers = self._exit_handlers()

    def _exit_handlers(self) -> dict[int, ExitHandler]:
        """Return who handles an exit; the later of two for one code has it."""
        execution = self.execution
        transfers = FarTransfers(execution, self.events, TaskSwitch(execution, self.events))
        invalidations = Invalidations(execution, self.progress, npt=self.npt)
        return {
            **self.events.handlers(),
            **PageFaults(execution, self.progress, transfers.general_protection, npt=self.npt).handlers(),
            **self.intercepts.handlers(),
            **self.control_registers.handlers(),
            **self.system_calls.handlers(),
            **invalidations.handlers(),
            **MsrExits(execution, self.msrs).handlers(),
            **DebugRegisters(execution).handlers(),
            **TableRegisters(execution, self.events).handlers(),
            **UndefinedOpcodes(execution, self.system_calls, invalidations, self.exits).handlers(),
            SVM_EXIT_EXCP_BASE + DB: self.step.debug,
            SVM_EXIT_SHUTDOWN: self._shutdown,
        }

    def _shutdown(self, code: int) -> None:
        """Reset the vCPU, as KVM does."""
        self.at_shutdown = self.registers()
        shutdown_exit(self.vcpu)

    def _reset(self) -> None:
        super()._reset()
        self.step.current = None
        self.events.reset()

    @property
    def written_cr3(self) -> int:
        """What the guest wrote to CR3 last, with bit 63."""
        return self.control_registers.written_cr3

    # -- callbacks ---------------------------------------------------------------------------------------

    def on_port(
        self,
        first: int,
        last: int | None = None,
        *,
        read: Read | None = None,
        write: Write | None = None,
    ) -> None:
        """Serve ports first..last: read(port, size) answers IN, write(port, size, value) takes OUT."""
        self.ports.add(first, first if last is None else last, read, write)

    def on_mmio(
        self,
        gpa: int,
        size: int,
        *,
        read: Read | None = None,
        write: Write | None = None,
    ) -> Device:
        """Add addresses gpa.. that no slot has: read(gpa, size) and write(gpa, size, value).

        Return the device: its `first` and `last` address may be changed.
        """
        return self.devices.add(gpa, size, read, write)

    def on_syscall(self, callback: Callable[[], None]) -> None:
        """Call back instead of SYSCALL: RIP is past it, RCX and R11 are set; the guest stays at its CPL."""
        self.system_calls.syscall = callback

    def on_vmmcall(self, callback: Callable[[], None]) -> None:
        """Call back for VMMCALL and VMCALL: RIP is past it. Without a callback RAX becomes -KVM_ENOSYS."""
        self.system_calls.vmmcall = callback

    def on_exception(self, callback: ExceptionCallback) -> ExceptionCallback | None:
        """Call callback(vector, error code or None, CR2) for each exception the guest is
        to get; True: it is dealt with, else the guest's IDT gets it. The callback that
        there was before, for the new one to call.
        """
        before, self.events.callback = self.events.callback, callback
        return before

    def on_idle(self, callback: Callable[[], None], every: float = 0.01) -> None:
        """Call back every that many seconds while the guest runs, and when wake_at() says: for timers."""
        self.loop.on_idle(callback, every)

    def wake_at(self, when: float) -> None:
        """Call the callback of on_idle() at that time of the clock; instead of at an earlier one."""
        self.loop.wake_at(when)

    def on_cr8(self, read: Callable[[], int], write: Callable[[int], None]) -> None:
        """Make CR8 a part of an interrupt controller: reading and writing it."""
        self.task_priority.read, self.task_priority.write = read, write

    def on_rdtsc(self, read: Callable[[], int]) -> None:
        """Let RDTSC and RDTSCP give what `read` returns, not the host's counter."""
        self.intercepts.read_tsc = read
        self.intercepts.intercept_rdtsc()

    def has_apic(self) -> None:
        """Let CPUID report a local APIC with x2APIC mode and TSC deadlines."""
        self.cpuid.has_apic = True
        self.cpuid.known.clear()

    def on_interrupts(self, source: InterruptSource) -> None:
        """Take external interrupts from there, instead of from interrupt()."""
        self.events.source = source
        self.events.interrupts_changed()

    def on_entry(self, callback: Callable[[], None] | None) -> None:
        """Call back before the guest continues after an exit, when KVM is done with it:
        to look at the MMU.
        """
        self.entry.callback = callback

    def on_msr(
        self,
        index: int,
        *,
        read: Callable[[], int | None] | None = None,
        write: Callable[[int], bool | None] | None = None,
    ) -> None:
        """Serve an MSR: without `read` it is what was written last, without `write` it can be written.

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
        return self.loop.run(exits=exits, instructions=instructions, seconds=seconds)

    def stop(self, reason: str = "stopped", detail: object = None) -> None:
        """Let run() return once this exit is dealt with, from a callback; after IN or OUT a few instructions
        later.
        """
        self.loop.stop(reason, detail)

    def interrupt(self, vector: int) -> None:
        """Request an external interrupt: delivered when the guest lets it."""
        self.events.queue.vectors.append(vector)
        self.events.interrupts_changed()

    def nmi(self) -> None:
        """Request a non-maskable interrupt."""
        self.events.nmi = True
        if self.processor.running:
            self.processor.request_tick()

    def interrupts_changed(self) -> None:
        """Look whether there are external interrupts."""
        self.events.interrupts_changed()

    @property
    def interrupts_pending(self) -> bool:
        """Whether there are external interrupts that were not delivered yet."""
        return self.events.pending

    def inject(self, vector: int, error_code: int | None = None, cr2: int | None = None) -> None:
        """Inject an exception, delivered before the next instruction."""
        self.vcpu.exception = QueuedException(vector, error_code, cr2)

    @property
    def history(self) -> list[ExitRecord]:
        """The last exits, oldest first."""
        return self.loop.history

    def counters(self) -> dict[str, int]:
        """Return the exits by name and in all, and the exceptions delivered."""
        named = {exit_reason(code): count for code, count in sorted(self.exits.items()) if count}
        events = {f"vector {vector}": count for vector, count in sorted(self.delivered.items())}
        return {"exits": self.exits.total(), **named, **events}
