"""Loading segment registers from their descriptors (__load_segment_descriptor, emulate.c, 6.12.111)."""

from ...kvm.state.vcpu import Vcpu
from ...x86.bits import MASK64
from .emulator import CodeEmulator
from .interrupts import BIG, CODE, CONFORMING, LONG, NP, PRESENT, SS_FAULT, EventFault, segment_of
from .processor import SvmProcessor
from .registers import CS, GDTR, LDTR, SS, Segment

NOT_SYSTEM, ACCESSED, TYPE = 1 << 12, 1 << 8, 0xF
IS_CODE, WRITABLE_OR_READABLE = 8, 2
LDT = 2


class Segments:
    """Loads segment registers of the guest on `processor`; `emulator` reads the descriptor tables.

    Its methods raise EventFault, or OperandFault if the table is not in memory.
    """

    def __init__(self, vcpu: Vcpu, processor: SvmProcessor, emulator: CodeEmulator) -> None:
        self.vcpu = vcpu
        self.processor = processor
        self.emulator = emulator

    def place(self, selector: int, vector: int) -> int:
        """Return the linear address of a descriptor; `vector` is the exception if it is beyond its table."""
        base, limit = self.processor.table(LDTR if selector & 4 else GDTR)
        if selector | 7 > limit:
            raise EventFault(vector, selector & 0xFFFC)
        return base + (selector & ~7) & (MASK64 if self.processor.long_mode else 0xFFFFFFFF)

    def descriptor(self, selector: int, vector: int) -> int:
        """Return a descriptor as 8 bytes."""
        return self.emulator.read(self.place(selector, vector), 8)

    def load(self, register: int, selector: int, cpl: int, vector: int) -> None:
        """Load ES to GS or LDTR in protected mode; `vector` is the exception for a selector that is none."""
        error_code = selector & 0xFFFC
        if not error_code:
            wide = self.processor.is_64bit and register == SS and selector == cpl < 3
            if register == CS or (register == SS and not wide):
                raise EventFault(vector, 0)
            self.processor.set_segment(register, Segment(selector, 0, 0, cpl << 13 if wide else 0))
            return
        descriptor = self.descriptor(selector, vector)
        segment = segment_of(selector, descriptor)
        if not self._fits(register, selector, segment, cpl):
            raise EventFault(vector, error_code)
        if not segment.flags & PRESENT:
            raise EventFault(SS_FAULT if register == SS else NP, error_code)
        if segment.flags & NOT_SYSTEM and not segment.flags & ACCESSED:
            self.emulator.write(self.place(selector, vector), 8, descriptor | ACCESSED << 32)
            segment = segment._replace(flags=segment.flags | ACCESSED)
        self.processor.set_segment(register, segment)

    def _fits(self, register: int, selector: int, segment: Segment, cpl: int) -> bool:
        """Return whether the descriptor is one for that register."""
        flags, rpl = segment.flags, selector & 3
        kind = flags >> 8 & TYPE
        if register == LDTR:
            return not selector & 4 and not flags & NOT_SYSTEM and kind == LDT
        if not flags & NOT_SYSTEM:
            return False
        if register == SS:
            return (
                rpl == cpl == segment.dpl and kind & (IS_CODE | WRITABLE_OR_READABLE) == WRITABLE_OR_READABLE
            )
        if register == CS:
            if flags & CODE != CODE or (self.processor.long_mode and flags & (LONG | BIG) == LONG | BIG):
                return False
            return segment.dpl <= cpl if flags & CONFORMING else rpl <= cpl == segment.dpl
        if kind & (IS_CODE | WRITABLE_OR_READABLE) == IS_CODE:
            return False
        return flags & (CODE | CONFORMING) == CODE | CONFORMING or max(rpl, cpl) <= segment.dpl
