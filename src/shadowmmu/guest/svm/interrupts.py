"""How an event reaches its handler: IDT, privilege change, stacks, frame (AMD APM vol. 2, chapter 8).

The emulator itself does not deliver anything. All accesses here walk the tables that the processor walks, and
fault as its own would: AccessFault says that the delivery has to be tried again once KVM has handled that.
"""

import struct

from ...host.memory import Arena
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import CR0_PE, FAULT, MASK64, READ, WRITE
from .processor import SvmProcessor
from .registers import (
    CS,
    DS,
    ES,
    FLAG_AC,
    FLAG_IF,
    FLAG_NT,
    FLAG_RF,
    FLAG_TF,
    FLAG_VM,
    FS,
    GDTR,
    GS,
    IDTR,
    LDTR,
    RSP,
    SS,
    TR,
    Segment,
)

DB, NMI, BP, OF, UD, NM = 1, 2, 3, 4, 6, 7
DF, TS, NP, SS_FAULT, GP, PF, AC, MC = 8, 10, 11, 12, 13, 14, 17, 18
WITH_ERROR_CODE = frozenset((DF, TS, NP, SS_FAULT, GP, PF, AC))
NO_FAULTS = frozenset((DB, NMI, BP, OF, DF, MC))
"""Exceptions that do not set RF in the RFLAGS that they push (exception_type, x86.c)."""
IDT_ERROR, EXTERNAL = 2, 1
TASK_GATE, INTERRUPT_GATE = 5, 0xE
PRESENT = 1 << 15
CONFORMING = 1 << 10
CODE = 3 << 11
WRITABLE_DATA = 1 << 12 | 1 << 9
LONG, BIG, GRANULAR = 1 << 21, 1 << 22, 1 << 23


class AccessFault(Exception):
    """An access of the processor faulted; vcpu.cpu says how."""


class EventFault(Exception):
    """The event cannot be delivered: that is an exception of its own."""

    def __init__(self, vector: int, error_code: int) -> None:
        super().__init__(vector, error_code)
        self.vector = vector
        self.error_code = error_code


class TaskGate(Exception):
    """The event's gate is a task gate."""

    def __init__(self, gate: int) -> None:
        super().__init__(gate)
        self.gate = gate


class SystemMemory:
    """Memory as the processor's own accesses see it, at CPL 0: descriptor tables, TSS, stacks."""

    def __init__(self, vcpu: Vcpu, processor: SvmProcessor, arena: Arena) -> None:
        self.cpu = vcpu.cpu
        self.processor = processor
        self.bytes = arena.view().cast("B")

    def _translate(self, gva: int, kind: int) -> int:
        hpa = self.cpu.implicit_access(gva, kind)
        if hpa == FAULT:
            raise AccessFault
        return hpa

    def _parts(self, gva: int, size: int, kind: int) -> list[tuple[int, int]]:
        """Return (hpa, size) in each page."""
        first = min(size, 0x1000 - (gva & 0xFFF))
        parts = [(self._translate(gva, kind), first)]
        if first < size:
            limit = MASK64 if self.processor.long_mode else 0xFFFFFFFF
            parts.append((self._translate(gva + first & limit, kind), size - first))
        return parts

    def read(self, gva: int, size: int) -> int:
        """Return a number of at most a page."""
        if (gva & 0xFFF) + size <= 0x1000:
            hpa = self._translate(gva, READ)
            return int.from_bytes(self.bytes[hpa : hpa + size], "little")
        data = b"".join(bytes(self.bytes[hpa : hpa + length]) for hpa, length in self._parts(gva, size, READ))
        return int.from_bytes(data, "little")

    def write(self, gva: int, data: bytes) -> None:
        """Write all of it or, if it faults, nothing."""
        start = 0
        for hpa, length in self._parts(gva, len(data), WRITE):
            self.processor.invalidate_code(hpa, length)
            self.bytes[hpa : hpa + length] = data[start : start + length]
            start += length


class Delivery:
    """Delivers events to the guest that runs on `processor`."""

    def __init__(self, vcpu: Vcpu, processor: SvmProcessor, arena: Arena) -> None:
        self.vcpu = vcpu
        self.processor = processor
        self.memory = SystemMemory(vcpu, processor, arena)

    def deliver(
        self, vector: int, error_code: int | None, *, rip: int, software: bool, external: bool
    ) -> None:
        """Start the handler of `vector`, to return to `rip`.

        software: INT n, which needs the right; external: not caused by the instruction.
        Raises AccessFault, EventFault or TaskGate, with nothing changed.
        """
        processor = self.processor
        if not processor.cr(0) & CR0_PE:
            self._deliver_real(vector, rip)
            return
        ext = EXTERNAL if external else 0
        if processor.long_mode:
            self._deliver_long(vector, error_code, rip, ext, software=software)
        else:
            self._deliver_legacy(vector, error_code, rip, ext, software=software)

    # -- descriptors -------------------------------------------------------------------------------------

    def _gate(self, vector: int, size: int, ext: int) -> int:
        base, limit = self.processor.table(IDTR)
        if vector * size + size - 1 > limit:
            raise EventFault(GP, vector * 8 + IDT_ERROR + ext)
        return self.memory.read(base + vector * size, size)

    def _check_gate(self, vector: int, gate: int, ext: int, *, software: bool) -> None:
        if software and gate >> 45 & 3 < self.processor.cpl:
            raise EventFault(GP, vector * 8 + IDT_ERROR)
        if not gate >> 47 & 1:
            raise EventFault(NP, vector * 8 + IDT_ERROR + ext)

    def descriptor(self, selector: int, vector: int, ext: int) -> int:
        """Return the descriptor. Raises EventFault(vector) if the selector is null or outside its table."""
        base, limit = self.processor.table(LDTR if selector & 4 else GDTR)
        if not selector & ~3:
            raise EventFault(vector, ext)
        if (selector | 7) > limit:
            raise EventFault(vector, selector & ~3 | ext)
        return self.memory.read(base + (selector & ~7), 8)

    def _code_segment(self, selector: int, ext: int) -> tuple[Segment, int]:
        """Return the handler's code segment, and the CPL it runs at."""
        descriptor = self.descriptor(selector, GP, ext)
        flags = descriptor >> 32 & 0xF0FF00
        dpl, cpl = flags >> 13 & 3, self.processor.cpl
        if flags & CODE != CODE or dpl > cpl:
            raise EventFault(GP, selector & ~3 | ext)
        if not flags & PRESENT:
            raise EventFault(NP, selector & ~3 | ext)
        new_cpl = cpl if flags & CONFORMING else dpl
        return segment_of(selector & ~3 | new_cpl, descriptor), new_cpl

    # -- 64-bit mode -------------------------------------------------------------------------------------

    def _deliver_long(
        self, vector: int, error_code: int | None, rip: int, ext: int, *, software: bool
    ) -> None:
        processor = self.processor
        gate = self._gate(vector, 16, ext)
        if gate >> 40 & 0x1F not in (INTERRUPT_GATE, INTERRUPT_GATE + 1):
            raise EventFault(GP, vector * 8 + IDT_ERROR + ext)
        self._check_gate(vector, gate, ext, software=software)
        code, cpl = self._code_segment(gate >> 16 & 0xFFFF, ext)
        if not code.flags & LONG or code.flags & BIG:
            raise EventFault(GP, code.selector & ~3 | ext)
        rsp = processor.q[RSP]
        ist = gate >> 32 & 7
        changes = cpl != processor.cpl
        if ist:
            rsp = self._stack_of_tss(0x1C + 8 * ist, ext)
        elif changes:
            rsp = self._stack_of_tss(4 + 8 * cpl, ext)
        selectors = processor.selector(CS), processor.selector(SS)
        frame = [rip, selectors[0], processor.rflags, processor.q[RSP], selectors[1]]
        if error_code is not None:
            frame.insert(0, error_code)
        stack = (rsp & ~0xF) - 8 * len(frame)
        bits = processor.address_bits
        if stack >> bits - 1 not in (0, (1 << 65 - bits) - 1):
            raise EventFault(SS_FAULT, ext)
        self.memory.write(stack, struct.pack(f"<{len(frame)}Q", *frame))
        processor.q[RSP] = stack
        processor.rip = gate & 0xFFFF | gate >> 32 & 0xFFFF0000 | (gate >> 64 & 0xFFFFFFFF) << 32
        processor.set_segment(CS, code)
        if changes:
            processor.set_segment(SS, Segment(cpl, 0, 0, cpl << 13))
        self._begin(gate, cpl)

    def _stack_of_tss(self, offset: int, ext: int) -> int:
        tss = self.processor.segment(TR)
        if offset + 7 > tss.limit:
            raise EventFault(TS, tss.selector & ~3 | ext)
        return self.memory.read(tss.base + offset, 8)

    def _begin(self, gate: int, cpl: int) -> None:
        """Set flags and CPL for the handler."""
        processor = self.processor
        clear = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM
        if not gate >> 40 & 1:
            clear |= FLAG_IF
        processor.system_flags &= ~clear
        processor.update_modes(cpl)

    # -- protected mode ----------------------------------------------------------------------------------

    def _deliver_legacy(
        self, vector: int, error_code: int | None, rip: int, ext: int, *, software: bool
    ) -> None:
        processor = self.processor
        gate = self._gate(vector, 8, ext)
        kind = gate >> 40 & 0x1F
        if kind not in (TASK_GATE, 6, 7, INTERRUPT_GATE, INTERRUPT_GATE + 1):
            raise EventFault(GP, vector * 8 + IDT_ERROR + ext)
        self._check_gate(vector, gate, ext, software=software)
        if kind == TASK_GATE:
            raise TaskGate(gate)
        code, cpl = self._code_segment(gate >> 16 & 0xFFFF, ext)
        size = 4 if kind & 8 else 2
        flags = processor.rflags
        frame = [rip, processor.segment(CS).selector, flags]
        if error_code is not None:
            frame.insert(0, error_code)
        stack_segment = processor.segment(SS)
        pointer = processor.q[RSP]
        if cpl != processor.cpl:
            frame += [pointer, stack_segment.selector]
            if flags & FLAG_VM:
                frame += [processor.segment(segment).selector for segment in (ES, DS, FS, GS)]
            stack_segment, pointer = self.inner_stack(cpl, ext)
        wide = bool(stack_segment.flags & BIG)
        limit = 0xFFFFFFFF if wide else 0xFFFF
        stack = pointer - size * len(frame) & limit
        data = b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for value in frame)
        self.memory.write(stack_segment.base + stack & 0xFFFFFFFF, data)
        processor.q[RSP] = stack if wide else processor.q[RSP] & ~0xFFFF | stack
        processor.rip = gate & 0xFFFF | (gate >> 32 & 0xFFFF0000 if size == 4 else 0)
        processor.set_segment(CS, code)
        processor.set_segment(SS, stack_segment)
        if flags & FLAG_VM:
            for segment in (ES, DS, FS, GS):
                processor.set_segment(segment, Segment(0, 0, 0, 0))
        self._begin(gate, cpl)

    def inner_stack(self, cpl: int, ext: int) -> tuple[Segment, int]:
        """Return the stack that the TSS has for a privilege: segment and pointer. Raises as deliver()."""
        tss = self.processor.segment(TR)
        wide = bool(tss.flags & 0x800)
        offset, size = (4 + 8 * cpl, 4) if wide else (2 + 4 * cpl, 2)
        if offset + size + 1 > tss.limit:
            raise EventFault(TS, tss.selector & ~3 | ext)
        pointer = self.memory.read(tss.base + offset, size)
        selector = self.memory.read(tss.base + offset + size, 2)
        descriptor = self.descriptor(selector, TS, ext)
        flags = descriptor >> 32 & 0xF0FF00
        if (
            selector & 3 != cpl
            or flags >> 13 & 3 != cpl
            or flags & (WRITABLE_DATA | 1 << 11) != WRITABLE_DATA
        ):
            raise EventFault(TS, selector & ~3 | ext)
        if not flags & PRESENT:
            raise EventFault(SS_FAULT, selector & ~3 | ext)
        return segment_of(selector, descriptor), pointer

    # -- real mode ---------------------------------------------------------------------------------------

    def _deliver_real(self, vector: int, rip: int) -> None:
        processor = self.processor
        idt = processor.segment(IDTR)
        if vector * 4 + 3 > idt.limit:
            raise EventFault(GP, 0)
        target = self.memory.read(idt.base + 4 * vector, 4)
        stack = processor.q[RSP] - 6 & 0xFFFF
        frame = (rip, processor.segment(CS).selector, processor.rflags)
        data = b"".join((value & 0xFFFF).to_bytes(2, "little") for value in frame)
        self.memory.write(processor.segment(SS).base + stack & 0xFFFFFFFF, data)
        processor.q[RSP] = processor.q[RSP] & ~0xFFFF | stack
        processor.rip = target & 0xFFFF
        selector = target >> 16
        processor.set_segment(CS, Segment(selector, selector << 4, 0xFFFF, processor.segment(CS).flags))
        processor.system_flags &= ~(FLAG_IF | FLAG_TF | FLAG_AC)
        processor.update_modes(0)


def segment_of(selector: int, descriptor: int) -> Segment:
    """Return a segment register loaded with the selector, whose descriptor that is."""
    base = descriptor >> 16 & 0xFFFFFF | descriptor >> 32 & 0xFF000000
    limit = descriptor & 0xFFFF | descriptor >> 32 & 0xF0000
    flags = descriptor >> 32 & 0xF0FF00
    return Segment(selector, base, limit << 12 | 0xFFF if flags & GRANULAR else limit, flags)
