"""Table registers: SGDT, SIDT, SLDT and STR exit with CR4.UMIP, LGDT, LIDT, LLDT and LTR always.

KVM does not ask for the loads: the emulated processor loads addresses that are not canonical.
"""

import struct

from ...kvm.exits.emulate import OperandFault
from ...kvm.registers.invlpg import is_noncanonical
from ...kvm.state.vcpu import QueuedException
from ...x86.bits import MASK64
from ...x86.svm import (
    SVM_EXIT_GDTR_READ,
    SVM_EXIT_GDTR_WRITE,
    SVM_EXIT_IDTR_WRITE,
    SVM_EXIT_LDTR_READ,
    SVM_EXIT_LDTR_WRITE,
    SVM_EXIT_TR_READ,
    SVM_EXIT_TR_WRITE,
)
from .events import Events
from .execution import Execution, ExecutionPart, ExitHandler
from .interrupts import GP, NP, PRESENT, AccessFault, EventFault, segment_of
from .operands import Code
from .registers import GDTR, IDTR, LDTR, TR, Segment
from .world_switch import TABLE_REGISTER_READS

LDT, AVAILABLE_TSS16, AVAILABLE_TSS, BUSY = 2, 1, 9, 2
NULL_LDT = Segment(0, 0, 0, 0)


class TableRegisters(ExecutionPart):
    """Handles them as KVM's emulator does."""

    def __init__(self, execution: Execution, events: Events) -> None:
        super().__init__(execution)
        self.events = events

    def handlers(self) -> dict[int, ExitHandler]:
        """Return exits by code."""
        return {
            **dict.fromkeys(TABLE_REGISTER_READS, self._store),
            **dict.fromkeys((SVM_EXIT_GDTR_WRITE, SVM_EXIT_IDTR_WRITE), self._load_table),
            **dict.fromkeys((SVM_EXIT_LDTR_WRITE, SVM_EXIT_TR_WRITE), self._load_selector),
        }

    # -- stores ------------------------------------------------------------------------------------------

    def _store(self, code: int) -> None:
        """Execute SGDT, SIDT, SLDT or STR with CR4.UMIP."""
        self.execution.record(code)
        insn = self.execution.fetch()
        if insn is None:
            return
        processor, context = self.processor, self.emulator.context
        if self.vcpu.cpl:
            self.vcpu.exception = QueuedException(GP, 0, None)
            return
        try:
            if code in (SVM_EXIT_LDTR_READ, SVM_EXIT_TR_READ):
                operand = insn.operands[0]
                selector = processor.selector(LDTR if code == SVM_EXIT_LDTR_READ else TR)
                context.put(insn, operand, selector)
            else:
                table = processor.segment(GDTR if code == SVM_EXIT_GDTR_READ else IDTR)
                size = 8 if processor.is_64bit else 4
                address = context.linear(insn)
                base = table.base & (1 << 8 * size) - 1
                self.emulator.write_memory(address, 2 + size, table.limit & 0xFFFF | base << 16)
        except OperandFault as fault:
            self.emulator.inject(fault)
            return
        self.execution.advance(insn.length)

    # -- loads -------------------------------------------------------------------------------------------

    def _load_table(self, code: int) -> None:
        """Execute LGDT or LIDT at CPL 0."""
        insn = self.execution.fetch()
        if insn is None:
            return
        processor, address = self.processor, self.emulator.context.linear(insn)
        try:
            limit = self.emulator.read_memory(address, 2)
            base = self.emulator.read_memory(address + 2 & MASK64, 8 if processor.is_64bit else 4)
        except OperandFault as fault:
            self.emulator.inject(fault)
            return
        if processor.is_64bit and is_noncanonical(self.vcpu, base):
            self.vcpu.exception = QueuedException(GP, 0, None)
            return
        if not processor.is_64bit and self._has_16_bits(insn):
            base &= 0xFFFFFF
        processor.set_segment(GDTR if code == SVM_EXIT_GDTR_WRITE else IDTR, Segment(0, base, limit, 0))
        self.execution.advance(insn.length)

    def _has_16_bits(self, insn: Code) -> bool:
        """Return whether the operand size is 16 bits."""
        return (self.emulator.bits() == 16) is not (b"\x66" in insn.code.partition(b"\x0f")[0])

    def _load_selector(self, code: int) -> None:
        """Execute LLDT or LTR at CPL 0 in protected mode."""
        insn = self.execution.fetch()
        if insn is None:
            return
        try:
            selector = self.emulator.context.get(insn, insn.operands[0]) & 0xFFFF
            if code == SVM_EXIT_LDTR_WRITE:
                segment = self._descriptor(selector, (LDT,)) if selector & ~3 else NULL_LDT
                self.processor.set_segment(LDTR, segment)
            else:
                self._load_task(selector)
        except OperandFault as fault:
            self.emulator.inject(fault)
        except EventFault as fault:
            self.vcpu.exception = QueuedException(fault.vector, fault.error_code, None)
        except AccessFault:
            self.events.delivery_faulted()
        else:
            self.execution.advance(insn.length)

    def _load_task(self, selector: int) -> None:
        wide = self.processor.long_mode
        segment = self._descriptor(selector, (AVAILABLE_TSS,) if wide else (AVAILABLE_TSS16, AVAILABLE_TSS))
        flags = segment.flags | BUSY << 8
        place = self.processor.segment(GDTR).base + (selector & ~7) + 4
        memory = self.events.delivery.memory
        memory.write(place, struct.pack("<I", memory.read(place, 4) | BUSY << 8))
        self.processor.set_segment(TR, segment._replace(flags=flags))

    def _descriptor(self, selector: int, kinds: tuple[int, ...]) -> Segment:
        """Return what LDTR or TR becomes. Raises EventFault or AccessFault."""
        delivery, wide = self.events.delivery, self.processor.long_mode
        error_code = selector & 0xFFFC
        if selector & 4 or (selector & ~7) + (15 if wide else 7) > self.processor.segment(GDTR).limit:
            raise EventFault(GP, error_code)
        segment = segment_of(selector, delivery.descriptor(selector, GP, 0))
        if segment.flags >> 8 & 0x1F not in kinds:
            raise EventFault(GP, error_code)
        if not segment.flags & PRESENT:
            raise EventFault(NP, error_code)
        if wide:
            place = self.processor.segment(GDTR).base + (selector & ~7) + 8
            base = segment.base | delivery.memory.read(place, 4) << 32
            if is_noncanonical(self.vcpu, base):
                raise EventFault(GP, error_code)
            segment = segment._replace(base=base)
        return segment
