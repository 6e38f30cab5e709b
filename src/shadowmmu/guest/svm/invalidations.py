"""INVLPG and INVPCID."""

from ...kvm.exits.emulate import OperandFault
from ...kvm.registers.invpcid import kvm_handle_invpcid
from ...kvm.state.vcpu import QueuedException
from ...x86.bits import MASK64
from ...x86.insn import Insn, Op
from ...x86.svm import SVM_EXIT_INVLPG, SVM_EXIT_INVPCID
from .execution import Execution, ExecutionPart, ExitHandler
from .interrupts import GP
from .operands import Code
from .progress import Progress


class Invalidations(ExecutionPart):
    """Handles them: KVM's own flushes, and under nested paging the processor's."""

    def __init__(self, execution: Execution, progress: Progress, *, npt: bool) -> None:
        super().__init__(execution)
        self.progress = progress
        self.npt = npt

    def handlers(self) -> dict[int, ExitHandler]:
        """Return exits by code; INVPCID comes as #UD."""
        return {SVM_EXIT_INVLPG: self._invlpg}

    def _invlpg(self, code: int) -> None:
        self.execution.record(code)
        insn = self.execution.fetch()
        if insn is None:
            return
        self.progress.repeats = 0
        address = self.emulator.context.linear(insn)
        self.execution.complete(insn, Insn(Op.INVLPG, insn.code, address=address))

    def invpcid(self, insn: Code) -> None:
        """Execute INVPCID: the emulated processor has none; under nested paging the flush
        is all there is to it.
        """
        vcpu, context = self.vcpu, self.emulator.context
        self.execution.record(SVM_EXIT_INVPCID)
        self.progress.repeats = 0
        if vcpu.cpl:
            vcpu.exception = QueuedException(GP, 0, None)
            return
        kind = context.register(insn.operands[0].number, insn.operands[0].size)
        address = context.linear(insn)
        try:
            pcid, gva = (self.emulator.read(address + offset & MASK64, 8) for offset in (0, 8))
        except OperandFault as fault:
            self.emulator.inject(fault)
            return
        if not kvm_handle_invpcid(vcpu, kind, pcid, gva):
            vcpu.exception = QueuedException(GP, 0, None)
            return
        if self.npt:
            self.processor.flush()
        self.execution.advance(insn.length)
