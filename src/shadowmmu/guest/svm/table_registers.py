"""SGDT, SIDT, SLDT and STR, which exit with CR4.UMIP."""

from ...kvm.emulate import OperandFault
from ...kvm.inject import kvm_inject_page_fault
from ...kvm.vcpu import QueuedException
from ...x86.bits import MASK64
from .execution import Execution, ExitHandler
from .interrupts import GP
from .processor import EXIT_GDTR_READ, EXIT_LDTR_READ, EXIT_TR_READ, GDTR, IDTR, LDTR, TR
from .world_switch import TABLE_REGISTER_READS


class TableRegisters:
    """Handles them: as KVM's emulator does."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.vcpu = execution.vcpu
        self.processor = execution.processor
        self.emulator = execution.emulator

    def handlers(self) -> dict[int, ExitHandler]:
        """Exits by code."""
        return dict.fromkeys(TABLE_REGISTER_READS, self._store_table_register)

    def _store_table_register(self, code: int) -> None:
        """SGDT, SIDT, SLDT or STR with CR4.UMIP."""
        self.execution.record(code)
        insn = self.execution.fetch()
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
        self.execution.advance(insn.length)
