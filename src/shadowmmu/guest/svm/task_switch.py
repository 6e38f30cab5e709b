"""Hardware task switches (task_switch_interception, kvm_task_switch, emulator_do_task_switch, 6.12.111).

KVM does them for every guest. The emulator's own would load the guest's CR3 into the processor.
"""

import struct
from enum import Enum

from ...kvm.exits.svm_exits import record_exit
from ...kvm.registers.regs import kvm_set_cr3
from ...x86.bits import CR0_TS
from ...x86.svm import SVM_EXIT_TASK_SWITCH
from .control_registers import clear_accessed_in_pdptes
from .events import Events
from .execution import Execution, ExecutionPart
from .interrupts import GP, NP, PRESENT, TS, EventFault, segment_of
from .registers import CS, DS, ES, FLAG_NT, FLAG_VM, FS, GS, LDTR, RSP, SS, TR, Segment
from .segments import Segments

AVAILABLE, WIDE, BUSY = 1, 8, 2
"""Bits of a TSS descriptor's type."""
REGISTERS = (ES, CS, SS, DS, FS, GS)
DR7_LOCAL = 0x155
VM86_CODE, VM86_DATA = 0x00FB00, 0x00F300


class Cause(Enum):
    """What switches tasks."""

    CALL = "call"
    IRET = "iret"
    JMP = "jmp"
    GATE = "gate"


class TaskSwitch(ExecutionPart):
    """Switches tasks of one vCPU outside of long mode."""

    def __init__(self, execution: Execution, events: Events) -> None:
        super().__init__(execution)
        self.events = events
        self.segments = Segments(self.vcpu, self.processor, self.emulator)

    def switch(self, selector: int, cause: Cause, following: int, error_code: int | None = None) -> None:
        """Go on in the task of a TSS; the old one is to go on at `following`.

        Raises EventFault or OperandFault; after the new task's registers are loaded in that task.
        """
        if self.execution.kvm.tracing:
            record_exit(self.vcpu, SVM_EXIT_TASK_SWITCH, selector, 0)
        place, descriptor = self._new_task(selector, cause)
        wide = bool(descriptor >> 40 & WIDE)
        new = segment_of(selector, descriptor)
        state = self._read_state(new.base, wide=wide)
        self._save(following, cause)
        if cause is not Cause.IRET:
            self._write(place + 4, 4, descriptor >> 32 | BUSY << 8)
        if cause in (Cause.CALL, Cause.GATE):
            self._write(new.base, 2, self.processor.selector(TR))
        self._load(state, new._replace(flags=new.flags | BUSY << 8), cause, wide=wide)
        if error_code is not None:
            self._push(error_code, 4 if wide else 2)

    def back(self, following: int) -> None:
        """Return to the task that the TSS links to (IRET with NT)."""
        self.switch(self._read(self.processor.segment(TR).base, 2), Cause.IRET, following)

    def _new_task(self, selector: int, cause: Cause) -> tuple[int, int]:
        """Return place and value of the new TSS's descriptor."""
        vector = TS if cause in (Cause.IRET, Cause.GATE) else GP
        error_code = selector & 0xFFFC
        if selector & 4 or not error_code:
            raise EventFault(vector, error_code)
        place = self.segments.place(selector, vector)
        descriptor = self._read(place, 8)
        segment = segment_of(selector, descriptor)
        kind = segment.flags >> 8 & 0x1F
        if kind & ~(WIDE | BUSY) != AVAILABLE or bool(kind & BUSY) is not (cause is Cause.IRET):
            raise EventFault(vector, error_code)
        if not segment.flags & PRESENT:
            raise EventFault(NP, error_code)
        if segment.limit < (0x67 if kind & WIDE else 0x2B):
            raise EventFault(TS, error_code)
        return place, descriptor

    def _read(self, address: int, size: int) -> int:
        return self.emulator.read(address & 0xFFFFFFFF, size)

    def _write(self, address: int, size: int, value: int) -> None:
        self.emulator.write(address & 0xFFFFFFFF, size, value)

    # -- the tasks' states -------------------------------------------------------------------------------

    def _read_state(self, base: int, *, wide: bool) -> list[int]:
        """Return CR3, EIP, EFLAGS, the general registers, the selectors of ES to GS and of the LDT."""
        if wide:
            return [self._read(base + offset, 4) for offset in range(0x1C, 0x64, 4)]
        words = [self._read(base + offset, 2) for offset in range(0x0E, 0x2C, 2)]
        return [self.vcpu.cr3, *words[:14], 0, 0, words[14]]

    def _save(self, following: int, cause: Cause) -> None:
        """Save the old task's state in its TSS."""
        processor, old = self.processor, self.processor.segment(TR)
        flags = processor.rflags & (~FLAG_NT if cause is Cause.IRET else -1)
        state = (following, flags, *(processor.q[number] for number in range(8)))
        selectors = [processor.selector(register) for register in REGISTERS]
        if old.flags >> 8 & WIDE:
            data = struct.pack("<16I", *(value & 0xFFFFFFFF for value in state), *selectors)
            offset = 0x20
        else:
            data = struct.pack("<14H", *(value & 0xFFFF for value in state), *selectors[:4])
            offset = 0x0E
        for position in range(0, len(data), 4):
            word = int.from_bytes(data[position : position + 4], "little")
            self._write(old.base + offset + position, 4, word)
        if cause in (Cause.IRET, Cause.JMP) and old.selector & 0xFFFC:
            place = self.segments.place(old.selector, TS) + 4
            self._write(place, 4, self._read(place, 4) & ~(BUSY << 8))

    def _load(self, state: list[int], task: Segment, cause: Cause, *, wide: bool) -> None:
        """Load the new task's state."""
        processor, vcpu = self.processor, self.vcpu
        cr3, rip, flags = state[:3]
        nested = self.execution.kvm.parameters.tdp_enabled
        if nested and vcpu.is_pae_paging():
            clear_accessed_in_pdptes(vcpu.kvm, cr3)
        if wide and not kvm_set_cr3(vcpu, cr3):
            raise EventFault(GP, 0)
        if nested:
            processor.set_cr(3, vcpu.cr3)
            vcpu.cpu.root = vcpu.cr3
            processor.flush()
        if cause in (Cause.CALL, Cause.GATE):
            flags |= FLAG_NT
        vcpu.cr0 |= CR0_TS
        processor.rip = vcpu.rip = rip
        processor.rflags = flags
        for number in range(8):
            processor.q[number] = state[3 + number] | (0 if wide else 0xFFFF0000)
        processor.set_dr(7, processor.dr(7) & ~DR7_LOCAL)
        processor.set_segment(TR, task)
        self._load_segments(state[11:17], state[17], virtual=bool(flags & FLAG_VM))

    def _load_segments(self, selectors: list[int], ldt: int, *, virtual: bool) -> None:
        """Load the segment registers: first all selectors, so that a fault finds them."""
        processor = self.processor
        cpl = 3 if virtual else selectors[1] & 3
        for register, selector in zip(REGISTERS, selectors, strict=True):
            flags = VM86_CODE if register == CS else VM86_DATA
            base, flags = (selector << 4, flags) if virtual else (0, 0)
            processor.set_segment(register, Segment(selector, base, 0xFFFF, flags))
        processor.set_segment(LDTR, Segment(ldt, 0, 0, 0))
        processor.update_modes(cpl)
        vcpu = self.vcpu
        vcpu.cpl = cpl
        self.segments.load(LDTR, ldt, cpl, TS)
        if not virtual:
            for register, selector in zip(REGISTERS, selectors, strict=True):
                self.segments.load(register, selector, cpl, TS)
        processor.update_modes(cpl)

    def _push(self, value: int, size: int) -> None:
        processor = self.processor
        limit = 0xFFFFFFFF if processor.stack_is_32bit else 0xFFFF
        pointer = processor.q[RSP] - size & limit
        self.emulator.write(self.emulator.context.in_segment(SS, pointer), size, value)
        processor.q[RSP] = processor.q[RSP] & ~limit | pointer
