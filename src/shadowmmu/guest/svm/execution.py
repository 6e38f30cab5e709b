"""An instruction that KVM completes for the guest: where it is fetched, and what follows it."""

from collections.abc import Callable

from ...kvm.exits.svm_exits import record_exit
from ...kvm.registers.inject import kvm_inject_page_fault
from ...kvm.state.vcpu import QueuedException, Vcpu
from ...x86.bits import MASK64
from ...x86.insn import Insn
from .emulator import CodeEmulator, FetchFault
from .interrupts import DB, UD
from .operands import Code
from .processor import SvmProcessor
from .registers import DR6_BS, FLAG_TF, HF_INHIBIT_IRQ
from .single_step import SingleStep

ExitHandler = Callable[[int], None]
"""What handles an exit, called with its code."""


class Execution:
    """What the handlers of exits share."""

    def __init__(self, vcpu: Vcpu, processor: SvmProcessor, emulator: CodeEmulator, step: SingleStep) -> None:
        self.kvm = vcpu.kvm
        self.vcpu = vcpu
        self.processor = processor
        self.emulator = emulator
        self.step = step

    def record(self, code: int, info1: int = 0, info2: int = 0) -> None:
        """Make KVM's record of an exit, for its tracepoint."""
        if self.kvm.tracing:
            record_exit(self.vcpu, code, info1, info2)

    def fetch(self) -> Code | None:
        """Return the instruction at RIP; None, with an exception for the guest, if there is none."""
        try:
            code = self.emulator.fetch()
        except FetchFault as fault:
            kvm_inject_page_fault(self.vcpu, fault.address, fault.error_code)
            return None
        if code is None:
            self.vcpu.exception = QueuedException(UD, None, None)
        return code

    def peek(self) -> Code | None:
        """Return the instruction at RIP, or None if there is none."""
        try:
            return self.emulator.fetch()
        except FetchFault:
            return None

    def traps(self) -> bool:
        """Return whether the guest single-steps: a #DB follows the instruction."""
        return bool(self.processor.system_flags & FLAG_TF) and self.step.current is None

    def emulated(self, length: int, *, traps: bool) -> None:
        """Move RIP past an instruction of KVM's emulator. `traps`: traps() was true before it."""
        processor = self.processor
        self.advance(length, traps=traps)
        if self.emulator.context.shadows_interrupts:
            processor.d[processor.hflags_word] |= HF_INHIBIT_IRQ

    def advance(self, length: int, *, traps: bool | None = None) -> None:
        """Move RIP past an instruction that was completed for the guest.

        `traps`: a #DB follows; by default if the guest single-steps now.
        """
        processor = self.processor
        rip = processor.rip + length
        processor.rip = rip & (MASK64 if processor.is_64bit else 0xFFFFFFFF)
        self.vcpu.rip = processor.rip
        processor.d[processor.hflags_word] &= ~HF_INHIBIT_IRQ
        if self.traps() if traps is None else traps:
            processor.set_dr(6, processor.dr(6) | DR6_BS)
            self.vcpu.exception = QueuedException(DB, None, None)

    def complete(self, code: Code, insn: Insn) -> None:
        """Let KVM emulate it."""
        if self.emulator.emulate(insn):
            self.advance(code.length)


class ExecutionPart:
    """What carries out some instructions or exits, with what they work on at hand.

    Attributes:
        execution: What all parts share.
        vcpu: The vCPU, the processor and the emulator of `execution`.
        processor: See `vcpu`.
        emulator: See `vcpu`.
    """

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.vcpu = execution.vcpu
        self.processor = execution.processor
        self.emulator = execution.emulator
