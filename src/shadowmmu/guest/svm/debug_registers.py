"""MOV to and from debug registers: what the emulated processor does not check (kvm_set_dr, 6.12.111).

The access itself is the processor's, alone, since it has to know breakpoints.
"""

from ...kvm.state.vcpu import QueuedException
from ...x86.svm import SVM_EXIT_READ_DR0, SVM_EXIT_WRITE_DR0
from .execution import Execution, ExitHandler
from .interrupts import DB, GP

DR6_BD, DR7_GD = 1 << 13, 1 << 13
DR6_WRITABLE, DR6_FIXED = 0xE00F, 0xFFFF0FF0
DR7_WRITABLE, DR7_FIXED = 0xFFFF2BFF, 0x400
CHECKED = 0xF0
"""DR4 to DR7: their upper halves are reserved."""
ALL = 0xFFFF


class DebugRegisters:
    """Handles their exits: those of writes to DR4 to DR7, and with DR7.GD all."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.vcpu = execution.vcpu
        self.processor = execution.processor
        self.step = execution.step
        self.arm()
        self.step.armed = self.arm

    def handlers(self) -> dict[int, ExitHandler]:
        """Return exits by code."""
        return {
            code + number: self._access
            for code in (SVM_EXIT_READ_DR0, SVM_EXIT_WRITE_DR0)
            for number in range(16)
        }

    def arm(self) -> None:
        """Ask for the exits; a write has left reserved bits of DR7 set."""
        self.processor.set_dr(7, self.processor.dr(7) & DR7_WRITABLE | DR7_FIXED)
        detects = self.processor.dr(7) & DR7_GD
        self.processor.intercept_debug_registers(ALL if detects else 0, ALL if detects else CHECKED)

    def _access(self, code: int) -> None:
        processor = self.processor
        if processor.dr(7) & DR7_GD:
            processor.set_dr(7, processor.dr(7) & ~DR7_GD)
            processor.set_dr(6, processor.dr(6) | DR6_BD)
            self.arm()
            self.vcpu.exception = QueuedException(DB, None, None)
            return
        insn = self.execution.fetch()
        if insn is None:
            return
        value = processor.q[insn.operands[-1].number] if insn.operands and processor.is_64bit else 0
        if code >= SVM_EXIT_WRITE_DR0 and value >> 32:
            self.vcpu.exception = QueuedException(GP, 0, None)
            return
        if code in (SVM_EXIT_WRITE_DR0 + 4, SVM_EXIT_WRITE_DR0 + 6):
            number = insn.operands[-1].number
            processor.set_dr(6, processor.q[number] & DR6_WRITABLE | DR6_FIXED)
            self.execution.advance(insn.length)
            return
        processor.intercept_debug_registers(0, 0)
        self.step.begin()
