"""Exceptions, interrupts and NMIs: what waits for the guest, and the delivery through its IDT."""

from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from ...host.memory import Arena
from ...kvm.exits.emulate import EmulationError
from ...kvm.exits.page_fault_exit import merge_exceptions, must_emulate, page_fault_exit
from ...kvm.exits.run import TripleFault
from ...kvm.state.vcpu import QueuedException, QueuedInterrupt
from ...x86.bits import NESTED_FAULT
from ...x86.svm import SVM_EXIT_EXCP_BASE, SVM_EXIT_IRET, SVM_EXIT_PUSHF, SVM_EXIT_SHUTDOWN, SVM_EXIT_SWINT
from .execution import Execution, ExitHandler
from .interrupts import BP, NMI, NO_FAULTS, OF, PF, WITH_ERROR_CODE, Delivery, TaskGate
from .page_faults import as_hardware
from .progress import Progress
from .registers import FLAG_IF, FLAG_RF, HF_INHIBIT_IRQ

TaskSwitcher = Callable[[int, int, int | None], QueuedException | None]
ExceptionCallback = Callable[[int, int | None, int], bool]


class InterruptSource(Protocol):
    """Who has external interrupts for the processor: an interrupt controller."""

    def pending(self) -> bool:
        """Return whether there is one."""

    def take(self) -> int | None:
        """Return the vector of the one that is delivered now."""


class InterruptQueue:
    """External interrupts without a controller: one after the other."""

    def __init__(self) -> None:
        self.vectors: deque[int] = deque()

    def pending(self) -> bool:
        return bool(self.vectors)

    def take(self) -> int | None:
        return self.vectors.popleft()


class Events:
    """The events of one vCPU.

    An exception that is queued is vcpu.exception. `soft` is INT n with the RIP after it, `pending` whether
    there are external interrupts, `source` where they come from; `shutdown` handles that exit. `switch_task`
    and `iret` carry out what a task gate and an IRET ask for.
    """

    def __init__(
        self, execution: Execution, progress: Progress, arena: Arena, shutdown: ExitHandler, *, npt: bool
    ) -> None:
        self.execution = execution
        self.vcpu = execution.vcpu
        self.processor = execution.processor
        self.step = execution.step
        self.progress = progress
        self.npt = npt
        self.delivery = Delivery(self.vcpu, self.processor, arena)
        self.delivered: Counter[int] = Counter()
        self.callback: ExceptionCallback | None = None
        self.soft: tuple[int, int] | None = None
        self.queue = InterruptQueue()
        self.source: InterruptSource = self.queue
        self.pending = False
        self._taken: int | None = None
        self.nmi = self.nmi_blocked = False
        self._iret_at: int | None = None
        self._sees_pushf = True
        self._shutdown = shutdown
        self.switch_task: TaskSwitcher = lambda gate, rip, error_code: None
        self.iret: Callable[[], bool] = lambda: False

    def handlers(self) -> dict[int, ExitHandler]:
        """Return exits by code."""
        handlers: dict[int, ExitHandler] = {
            SVM_EXIT_EXCP_BASE + vector: self._other_exception for vector in range(32)
        }
        return handlers | {
            SVM_EXIT_SWINT: self._software_interrupt,
            SVM_EXIT_IRET: self._iret,
            SVM_EXIT_PUSHF: self._pushf,
        }

    def reset(self) -> None:
        """Drop all that waits but what an interrupt controller has."""
        self.vcpu.exception = self.vcpu.soft_interrupt = None
        self.soft = None
        self.nmi = self.nmi_blocked = False
        self._iret_at = None
        self._follow_nmi(handled=False)
        self.queue.vectors.clear()
        self.pending = self._taken is not None or self.source.pending()

    def interrupts_changed(self) -> None:
        """Look whether there are external interrupts."""
        self.pending = self._taken is not None or self.source.pending()
        if self.pending and not self.processor.window and self.step.current is None:
            self.processor.set_window(wanted=True)

    def interruptible(self) -> bool:
        """Return whether an external interrupt can be delivered now."""
        processor = self.processor
        return (
            bool(processor.system_flags & FLAG_IF)
            and not processor.d[processor.hflags_word] & HF_INHIBIT_IRQ
            and self.step.current is None
        )

    def deliver_exception(self, exception: QueuedException) -> None:
        """Give it to the callback, or start its handler."""
        vcpu, processor = self.vcpu, self.processor
        self.soft = vcpu.soft_interrupt = None
        if exception.cr2 is not None:
            vcpu.cr2 = exception.cr2
            processor.set_cr(2, exception.cr2)
        vector, error_code = exception.vector, exception.error_code
        if self.callback is not None and self.callback(vector, error_code, processor.cr(2)):
            vcpu.exception = None
            return
        exception.reinjected = True
        self._set_resume_flag(wanted=vector not in NO_FAULTS)
        fault = self._deliver(vector, error_code, processor.rip)
        self.delivered[vector] += 1
        vcpu.exception = fault

    def _deliver(
        self, vector: int, error_code: int | None, rip: int, *, software: bool = False
    ) -> QueuedException | None:
        """Start the handler, or the task; return the exception that the task begins with."""
        try:
            self.delivery.deliver(vector, error_code, rip=rip, software=software, external=not software)
        except TaskGate as task:
            return self.switch_task(task.gate, rip, error_code)
        return None

    def _set_resume_flag(self, *, wanted: bool) -> None:
        """Set RFLAGS.RF as the event pushes it; the processor forgets to clear it after an instruction."""
        processor = self.processor
        if not wanted:
            processor.q[processor.eflags_word] &= ~FLAG_RF
            return
        processor.q[processor.eflags_word] |= FLAG_RF
        if not self._sees_pushf:
            self._sees_pushf = True
            processor.intercept(SVM_EXIT_PUSHF, wanted=True)

    def _pushf(self, code: int) -> None:
        """Push RF as 0 (PUSHF): what an IRET has restored was for the instruction before."""
        self.processor.system_flags &= ~FLAG_RF
        self.processor.intercept(SVM_EXIT_PUSHF, wanted=False)
        self._sees_pushf = False

    def deliver_soft(self, vector: int, rip: int) -> None:
        """Deliver INT n, with `rip` the address after it."""
        vcpu = self.vcpu
        self._set_resume_flag(wanted=False)
        vcpu.exception = self._deliver(vector, None, rip, software=True)
        self.delivered[vector] += 1
        self.soft = vcpu.soft_interrupt = None

    def deliver_nmi(self) -> None:
        """Start the handler; no other one until IRET."""
        self._set_resume_flag(wanted=False)
        self.vcpu.exception = self._deliver(NMI, None, self.processor.rip)
        self.delivered[NMI] += 1
        self.nmi, self.nmi_blocked, self._iret_at = False, True, None
        self._follow_nmi(handled=True)

    def _follow_nmi(self, *, handled: bool) -> None:
        self.processor.nmi_handled = handled
        self.processor.intercept_iret()

    def nmi_ready(self) -> bool:
        """Return whether the NMI that waits is not blocked: the handler's IRET has run, or has been left."""
        if self._iret_at is not None and self._iret_at != self.processor.rip:
            self.nmi_blocked, self._iret_at = False, None
        return not self.nmi_blocked and self.step.current is None

    def step_to_nmi(self) -> None:
        """Let the IRET that the NMI waits for run alone."""
        if self._iret_at is not None and self.step.current is None:
            self.step.begin()

    def deliver_interrupt(self) -> None:
        """Take the next interrupt from its controller; one whose delivery faults comes again."""
        if self._taken is None:
            self._taken = self.source.take()
        if self._taken is not None:
            self._set_resume_flag(wanted=False)
            self.vcpu.exception = self._deliver(self._taken, None, self.processor.rip)
            self.delivered[self._taken] += 1
            self.vcpu.stat.irq_injections += 1
            self._taken = None
        self.pending = self._taken is not None or self.source.pending()

    def delivery_faulted(self) -> None:
        """Handle a fault of an access of the delivery: an exit to KVM, or another exception meanwhile."""
        vcpu, cpu = self.vcpu, self.vcpu.cpu
        if self.soft is not None:
            vcpu.soft_interrupt = QueuedInterrupt(self.soft[0], lambda: True)
        if cpu.fault_vector == NESTED_FAULT:
            self._fault(cpu.fault_gpa, cpu.fault_error_code, nested=True)
        elif cpu.fault_vector != PF:
            self.raise_exception(QueuedException(cpu.fault_vector, 0, None))
        elif self.npt:
            self.processor.set_cr(2, cpu.fault_gva)
            self.raise_exception(QueuedException(PF, as_hardware(cpu.fault_error_code), cpu.fault_gva))
        else:
            self._fault(cpu.fault_gva, cpu.fault_error_code)

    def _fault(self, address: int, error_code: int, *, nested: bool = False) -> None:
        self.progress.check(address)
        page_fault_exit(self.vcpu, address, error_code, nested)
        if must_emulate(self.vcpu, address):
            raise EmulationError(f"an event cannot be delivered through {address:#x}")

    def raise_exception(self, exception: QueuedException) -> None:
        """Raise an exception of the processor's; during delivery of another it becomes #DF or a shutdown."""
        vcpu = self.vcpu
        try:
            vcpu.exception = (
                exception if vcpu.exception is None else merge_exceptions(vcpu.exception, exception)
            )
        except TripleFault:
            self._shutdown(SVM_EXIT_SHUTDOWN)

    def _iret(self, code: int) -> None:
        """Execute IRET: of an NMI's handler, whose successor waits for it
        (iret_interception); or to another task.
        """
        if self.nmi_blocked:
            self.execution.record(code)
            self._iret_at = self.processor.rip
            self._follow_nmi(handled=False)
        if not self.iret() and not self.processor.long_mode:
            self.step.begin(self.execution.peek())

    def _other_exception(self, code: int) -> None:
        vector = code - SVM_EXIT_EXCP_BASE
        error_code = self.processor.exit_info1 if vector in WITH_ERROR_CODE else None
        self.vcpu.exception = QueuedException(vector, error_code, None)

    def _software_interrupt(self, code: int) -> None:
        insn = self.execution.fetch()
        if insn is None:
            return
        fixed = {"int3": BP, "into": OF}
        vector = fixed.get(insn.name, insn.operands[0].value & 0xFF if insn.operands else 0)
        self.soft = (vector, self.processor.rip + insn.length)
