"""Far JMP and CALL through gates and to TSSs, and IRET to another task, outside of long mode.

The emulator refuses them with #GP (world_switch), or exits for IRET. Far JMP, CALL and RET whose operand or
stack is not plain memory are those of KVM's emulator (em_jmp_far, em_call_far, em_ret_far, 6.12.111).
"""

from collections.abc import Callable

from ...kvm.exits.emulate import OperandFault, UnhandleableError
from ...kvm.state.vcpu import QueuedException
from ...x86.bits import MASK64
from .events import Events
from .execution import Execution, ExecutionPart
from .interrupts import CODE, CONFORMING, GP, NP, PRESENT, EventFault, segment_of
from .operands import Code, mask
from .registers import CS, FLAG_NT, FLAG_VM, HF_PE, RSP, SS, Segment
from .segments import NOT_SYSTEM
from .stack import drop, push_all, word_on_stack
from .task_switch import Cause, TaskSwitch

TSS16, TSS32, CALL_GATE16, TASK_GATE, CALL_GATE32 = 1, 9, 4, 5, 12


class FarTransfers(ExecutionPart):
    """Carries them out."""

    def __init__(self, execution: Execution, events: Events, tasks: TaskSwitch) -> None:
        super().__init__(execution)
        self.events = events
        self.tasks = tasks
        self.segments = tasks.segments
        self.emulator.context.load_segment = self.load_segment
        self.emulator.context.far_transfer = self.far_transfer
        self.emulator.context.far_return = self.far_return
        events.switch_task = self.task_gate
        events.iret = self.iret

    def _is_legacy(self) -> bool:
        """Return whether the guest is in protected mode, and not in long mode."""
        return self._is_protected() and not self.processor.long_mode

    def general_protection(self) -> bool:
        """Carry out the instruction that was refused; False for any other: a #GP of the guest."""
        if not self._is_legacy():
            return False
        insn = self.execution.peek()
        if insn is None or not insn.is_far:
            return False
        selector = insn.target[0] if insn.target is not None else self._pointer(insn)[0]
        return self._guarded(lambda: self._far(insn, selector))

    def iret(self) -> bool:
        """Return to the task before with NT; False without it."""
        if not self._is_legacy() or not self.processor.system_flags & FLAG_NT:
            return False
        insn = self.execution.peek()
        return insn is not None and self._guarded(lambda: self._switch_back(insn))

    def _switch_back(self, insn: Code) -> bool:
        self.tasks.back(self.processor.rip + insn.length & 0xFFFFFFFF)
        return True

    def task_gate(self, gate: int, rip: int, error_code: int | None) -> QueuedException | None:
        """Start the task of an event's gate; return the exception that it begins with."""
        self.vcpu.exception = None
        self._guarded(lambda: self._switch_by_event(gate, rip, error_code))
        return self.vcpu.exception

    def _switch_by_event(self, gate: int, rip: int, error_code: int | None) -> bool:
        self.tasks.switch(gate >> 16 & 0xFFFF, Cause.GATE, rip, error_code)
        return True

    def _guarded(self, action: Callable[[], bool]) -> bool:
        """Do it with the processor's own rights; a fault is the guest's exception."""
        emulator, vcpu = self.emulator, self.vcpu
        emulator.implicit, emulator.gpa_hint = True, None
        try:
            return action()
        except OperandFault as fault:
            emulator.inject(fault)
        except EventFault as fault:
            vcpu.exception = QueuedException(fault.vector, fault.error_code, None)
        finally:
            emulator.implicit = False
        return True

    # -- far JMP and CALL --------------------------------------------------------------------------------

    def _far(self, insn: Code, selector: int) -> bool:
        """Execute a far JMP or CALL through a gate or to a TSS; False if it is to a code
        segment, or nowhere.
        """
        if not selector & 0xFFFC:
            return False
        gate = self.segments.descriptor(selector, GP)
        flags = gate >> 32 & 0xFFFFFF
        if flags & NOT_SYSTEM:
            return False
        kind, cpl = flags >> 8 & 0xF, self.processor.cpl
        error_code = selector & 0xFFFC
        if kind not in (TSS16, TSS32, CALL_GATE16, TASK_GATE, CALL_GATE32):
            raise EventFault(GP, error_code)
        if flags >> 13 & 3 < max(cpl, selector & 3):
            raise EventFault(GP, error_code)
        if not flags & PRESENT:
            raise EventFault(NP, error_code)
        following = self.processor.rip + insn.length & 0xFFFFFFFF
        if kind in (CALL_GATE16, CALL_GATE32):
            self._call_gate(gate, following, call=insn.name == "call")
        else:
            target = gate >> 16 & 0xFFFF if kind == TASK_GATE else selector
            self.tasks.switch(target, Cause.CALL if insn.name == "call" else Cause.JMP, following)
        return True

    def _pointer(self, insn: Code) -> tuple[int, int]:
        """Return selector and offset that are in memory."""
        address, size = self.emulator.context.linear(insn), insn.size - 2
        offset = self.emulator.read(address, size)
        return self.emulator.read(address + size & MASK64, 2), offset

    # -- what KVM's emulator executes --------------------------------------------------------------------

    def load_segment(self, register: int, selector: int) -> bool:
        """Execute MOV to a segment register, or LDS to LSS; False after an exception."""
        return self._guarded(lambda: self._load_segment(register, selector)) and self.vcpu.exception is None

    def _load_segment(self, register: int, selector: int) -> bool:
        processor = self.processor
        self.emulator.context.shadows_interrupts = register == SS
        if self._is_protected():
            self.segments.load(register, selector, processor.cpl, GP)
        else:
            flags = processor.segment(register).flags
            processor.set_segment(register, Segment(selector, selector << 4, 0xFFFF, flags))
        processor.update_modes()
        return True

    def far_transfer(self, insn: Code) -> bool:
        """Execute a far JMP or CALL to a code segment; False after an exception.

        Raises UnhandleableError for a gate and for a task, and OperandFault.
        """
        processor, context = self.processor, self.emulator.context
        selector, offset = insn.target or self._pointer(insn)
        following, old = processor.rip + insn.length, processor.segment(CS)
        if not self._loads_code(insn, selector, offset):
            return False
        if insn.name == "call":
            try:
                push_all(context, insn.word, [old.selector, following])
            except OperandFault:
                self._restore(old, following - insn.length)
                raise
        return True

    def far_return(self, insn: Code) -> bool:
        """Execute a far RET to the same privilege; False after an exception.

        Raises UnhandleableError for a return to another privilege, and OperandFault.
        """
        context = self.emulator.context
        offset, selector = (word_on_stack(context, number, insn.word) for number in (0, 1))
        if self._is_protected() and selector & 3 > self.processor.cpl:
            raise UnhandleableError
        if not self._loads_code(insn, selector & 0xFFFF, offset):
            return False
        drop(context, 2 * insn.word + (insn.operands[0].value if insn.operands else 0))
        return True

    def _is_protected(self) -> bool:
        processor = self.processor
        return bool(processor.d[processor.hflags_word] & HF_PE and not processor.system_flags & FLAG_VM)

    def _loads_code(self, insn: Code, selector: int, offset: int) -> bool:
        """Load CS and RIP. Return False, with both as before, after an exception."""
        old, rip = self.processor.segment(CS), self.processor.rip
        self._guarded(lambda: self._load_code(insn, selector, offset))
        if self.vcpu.exception is None:
            return True
        self._restore(old, rip)
        return False

    def _restore(self, code: Segment, rip: int) -> None:
        self.processor.set_segment(CS, code)
        self.processor.update_modes()
        self.processor.rip = rip

    def _load_code(self, insn: Code, selector: int, offset: int) -> bool:
        protected = self._is_protected()
        if protected and selector & 0xFFFC and not self.segments.descriptor(selector, GP) >> 32 & NOT_SYSTEM:
            if insn.name == "retf":
                raise EventFault(GP, selector & 0xFFFC)
            raise UnhandleableError
        self._load_segment(CS, selector)
        if self.emulator.context.jump(insn, offset) and protected:
            processor = self.processor
            loaded = processor.segment(CS)._replace(selector=selector & ~3 | processor.cpl)
            processor.set_segment(CS, loaded)
        return True

    def _call_gate(self, gate: int, following: int, *, call: bool) -> None:
        processor, cpl = self.processor, self.processor.cpl
        selector, wide = gate >> 16 & 0xFFFF, bool(gate >> 40 & 8)
        offset = gate & 0xFFFF | (gate >> 32 & 0xFFFF0000 if wide else 0)
        if not selector & 0xFFFC:
            raise EventFault(GP, 0)
        code = segment_of(selector, self.segments.descriptor(selector, GP))
        conforming = bool(code.flags & CONFORMING)
        allowed = code.dpl <= cpl if conforming or call else code.dpl == cpl
        if code.flags & CODE != CODE or not allowed:
            raise EventFault(GP, selector & 0xFFFC)
        if not code.flags & PRESENT:
            raise EventFault(NP, selector & 0xFFFC)
        new_cpl = cpl if conforming else code.dpl
        if call:
            self._push_return(following, 4 if wide else 2, gate >> 32 & 0x1F, new_cpl)
        processor.set_segment(CS, code._replace(selector=selector & ~3 | new_cpl))
        processor.rip = offset
        processor.update_modes(new_cpl)

    def _push_return(self, following: int, size: int, parameters: int, cpl: int) -> None:
        """Push what a far RET needs; at another privilege on that one's stack, with parameters."""
        processor, context = self.processor, self.emulator.context
        stack, pointer = processor.segment(SS), processor.q[RSP]
        frame = [following, processor.selector(CS)]
        if cpl != processor.cpl:
            old = context.in_segment(SS, pointer & self._limit(stack))
            frame += [self.emulator.read(old + size * number, size) for number in range(parameters)]
            frame += [pointer, stack.selector]
            stack, pointer = self.events.delivery.inner_stack(cpl, 0)
        pointer = pointer - size * len(frame) & self._limit(stack)
        for number, value in enumerate(frame):
            self.emulator.write(stack.base + pointer + size * number & 0xFFFFFFFF, size, value & mask(size))
        processor.set_segment(SS, stack)
        limit = self._limit(stack)
        processor.q[RSP] = processor.q[RSP] & ~limit & 0xFFFFFFFF | pointer

    @staticmethod
    def _limit(stack: Segment) -> int:
        """Return the mask of stack pointers."""
        return 0xFFFFFFFF if stack.flags & 1 << 22 else 0xFFFF
