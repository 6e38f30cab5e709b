"""Exits for control registers: MOV to and from CRn, SMSW, LMSW, CLTS."""

from collections import Counter
from collections.abc import Callable

from ...kvm.bits import INVALID_PAGE
from ...kvm.exits.emulate import OperandFault
from ...kvm.exits.svm_exits import cr0_exit_reason, set_cr0_in_guest
from ...kvm.guest_access.guest_memory import table_page
from ...kvm.registers.regs import CR3_NOFLUSH
from ...kvm.state.vcpu import QueuedException, Vcpu
from ...kvm.state.vm import Kvm
from ...x86.bits import ADDR, CR0_TS, CR4_PCIDE, CR4_UMIP, A
from ...x86.insn import Insn, Op
from ...x86.svm import SVM_EXIT_READ_CR0, SVM_EXIT_WRITE_CR0
from .execution import Execution, ExecutionPart, ExitHandler
from .interrupts import GP
from .operands import Code
from .progress import Progress


class TaskPriority:
    """CR8: a register of its own, or part of an interrupt controller that `read` and `write` reach."""

    def __init__(self) -> None:
        self._value = 0
        self.read: Callable[[], int] = lambda: self._value
        self.write: Callable[[int], None] = self._keep

    def _keep(self, value: int) -> None:
        self._value = value


class ControlRegisters(ExecutionPart):
    """Handles them; `written_cr3` is what the guest wrote to CR3 last, with bit 63."""

    def __init__(
        self,
        execution: Execution,
        progress: Progress,
        task_priority: TaskPriority,
        exits: Counter[int],
        *,
        npt: bool,
    ) -> None:
        super().__init__(execution)
        self.kvm = execution.kvm
        self.progress = progress
        self.task_priority = task_priority
        self.exits = exits
        self.npt = npt
        self.written_cr3 = 0

    def handlers(self) -> dict[int, ExitHandler]:
        """Return exits by code."""
        handlers: dict[int, ExitHandler] = {}
        for number in (0, 3, 4, 8):
            handlers[SVM_EXIT_READ_CR0 + number] = self._read_cr
            handlers[SVM_EXIT_WRITE_CR0 + number] = self._write_cr
        return handlers

    def _read_cr(self, code: int) -> None:
        self.execution.record(code)
        insn = self.execution.fetch()
        if insn is None:
            return
        value = (self.vcpu.cr0, 0, 0, self.vcpu.cr3, self.vcpu.cr4, 0, 0, 0, self.task_priority.read())[code]
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
            self.emulator.inject(fault)
            return
        self.execution.advance(insn.length)

    def _write_cr(self, code: int) -> None:
        self.progress.repeats = 0
        insn = self.execution.fetch()
        if insn is None:
            return
        vcpu, number = self.vcpu, code - SVM_EXIT_WRITE_CR0
        if self.npt and vcpu.is_pae_paging():
            clear_accessed_in_pdptes(self.kvm, vcpu.cr3)
        if self.npt and number == 3:
            self._write_own_cr3(code, insn)
            return
        try:
            value = self._written_to_cr(insn)
        except OperandFault as fault:
            self.emulator.inject(fault)
            return
        if number == 3:
            self.written_cr3 = value
        if number == 8:
            self.execution.record(code)
            if value >> 4:
                vcpu.exception = QueuedException(GP, 0, None)
                return
            self.task_priority.write(value)
            self.execution.advance(insn.length)
            return
        if number == 0:
            reason = cr0_exit_reason(vcpu, value)
            if reason is None:
                set_cr0_in_guest(vcpu, value)
                self.execution.advance(insn.length)
                return
            code = reason
        self.execution.record(code)
        if number == 0 and value >> 32:
            vcpu.exception = QueuedException(GP, 0, None)
            return
        op = {0: Op.MOV_CR0, 3: Op.MOV_CR3, 4: Op.MOV_CR4}[number]
        self.execution.complete(insn, Insn(op, insn.code, value=value))

    def _write_own_cr3(self, code: int, insn: Code) -> None:
        """Check a MOV to CR3 under nested paging for the emulator, which checks nothing; KVM does not see it.

        Its TLB has no PCIDs, so a write that keeps translations has to drop them too: they are those of the
        address space that is left.
        """
        vcpu, processor = self.vcpu, self.processor
        self.exits[code] -= 1
        value = self.written_cr3 = self._written_to_cr(insn)
        kept = value & ~CR3_NOFLUSH if vcpu.cr4 & CR4_PCIDE else value
        if kept >> vcpu.maxphyaddr:
            vcpu.exception = QueuedException(GP, 0, None)
            return
        processor.set_cr(3, kept)
        vcpu.cpu.root = vcpu.cr3 = kept
        processor.flush()
        self.execution.advance(insn.length)

    def _written_to_cr(self, insn: Code) -> int:
        """Return what MOV to CRn, LMSW or CLTS writes there."""
        if insn.name == "clts":
            return self.vcpu.cr0 & ~CR0_TS
        context = self.emulator.context
        if insn.name == "lmsw":
            value = context.get(insn, insn.operands[0])
            return self.vcpu.cr0 & ~0xE | value & 0xF
        size = 8 if self.processor.is_64bit else 4
        return context.register(insn.operands[-1].number, size)


def _umip_prevents(vcpu: Vcpu) -> bool:
    """Return whether the instructions that UMIP prevents are prevented now."""
    return bool(vcpu.cr4 & CR4_UMIP) and vcpu.cpl > 0


def clear_accessed_in_pdptes(kvm: Kvm, cr3: int) -> None:
    """Clear A in PDPTEs: the emulator sets it there, where it is reserved, and KVM would not load them."""
    base = cr3 & 0xFFFFFFE0
    page = table_page(kvm, base >> 12)
    if page != INVALID_PAGE:
        words = kvm.arena.view()
        first = (page & ADDR | base & 0xFFF) >> 3
        for index in range(first, first + 4):
            words[index] &= ~A
