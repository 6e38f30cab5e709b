"""The local APIC of a single processor, as xAPIC and x2APIC, and the I/O APIC: registers, IPIs, timer."""

import time
from collections.abc import Callable

from ...x86.bits import MASK64

__all__ = ["IoApic", "LocalApic", "Tsc"]

APIC_BASE, IOAPIC_BASE = 0xFEE00000, 0xFEC00000
ID, VERSION, TPR, APR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LVT_LINT0, LVT_ERROR, INITIAL, CURRENT, DIVIDE, SELF_IPI = (
    0x320,
    0x350,
    0x370,
    0x380,
    0x390,
    0x3E0,
    0x3F0,
)
WRITABLE = {
    ID: 0xFF000000,
    TPR: 0xFF,
    LDR: 0xFF000000,
    DFR: 0xF0000000,
    SVR: 0x3FF,
    ICR: 0xFFFFEFFF,
    ICR_HIGH: 0xFF000000,
    LVT_TIMER: 0x710FF,
    0x330: 0x117FF,
    0x340: 0x117FF,
    LVT_LINT0: 0x1F7FF,
    0x360: 0x1F7FF,
    LVT_ERROR: 0x110FF,
    INITIAL: 0xFFFFFFFF,
    DIVIDE: 0xB,
}
"""Bits that are kept, others are ignored (kvm_lapic_reg_write, apic_lvt_mask)."""
X2_READABLE = frozenset((ID, VERSION, TPR, PPR, LDR, SVR, ESR, ICR, CURRENT, *range(ISR, ESR, 0x10)))
X2_WRITABLE = frozenset(WRITABLE) - {ID, LDR, DFR, ICR_HIGH} | {EOI, ESR, SELF_IPI}
X2_ICR_RESERVED = 0xFFF32000
SVR_ENABLED, LVT_MASKED, PERIODIC, DEADLINE = 1 << 8, 1 << 16, 1 << 17, 2 << 17
LVT_MODE, LVT_EXTINT = 7 << 8, 7 << 8
FIXED, LOWEST_PRIORITY, NMI = 0, 1, 4
SELF, ALL, ALL_BUT_SELF = 1, 2, 3
BASE_ENABLED, BASE_X2 = 1 << 11, 1 << 10
ILLEGAL_SENT, ILLEGAL_RECEIVED = 1 << 5, 1 << 6
SHORTEST_PERIOD = 0.0005
"""Seconds: a guest may ask for less, and would then do nothing but serve its timer."""


class Tsc:
    """The time-stamp counter: nanoseconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self.offset = 0

    def _elapsed(self) -> int:
        return int((self._clock() - self._start) * 1e9)

    def read(self) -> int:
        return self._elapsed() + self.offset & MASK64

    def write(self, value: int) -> int:
        """Let it be `value` now; by how much that moves it."""
        before = self.offset
        self.offset = value - self._elapsed()
        return self.offset - before

    def when(self, value: int) -> float:
        """Return the time at which it reaches `value`."""
        return self._start + (value - self.offset) / 1e9


class LocalApic:
    """One APIC, a source of interrupts for the processor; `base` is its MSR.

    `changed()` is called when what it has for the processor may have changed, and when the timer is set;
    `served(vector)` when the guest is done with an interrupt. The timer counts nanoseconds, as KVM's does.
    """

    def __init__(
        self,
        changed: Callable[[], None],
        *,
        base: Callable[[], int] = lambda: APIC_BASE | BASE_ENABLED,
        served: Callable[[int], None] = lambda vector: None,
        nmi: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        tsc: Tsc | None = None,
    ) -> None:
        self._changed = changed
        self._base = base
        self._served = served
        self._nmi = nmi
        self._clock = clock
        self._tsc = Tsc(clock) if tsc is None else tsc
        self._registers: dict[int, int] = {}
        self.requested = self.in_service = self.level = 0
        self.due: float | None = None
        self.deadline = 0
        self._period = 0.0
        self._errors = 0
        self.reset()

    def reset(self) -> None:
        self._registers = dict.fromkeys((*WRITABLE, ESR), 0)
        self._registers |= {DFR: 0xFFFFFFFF, SVR: 0xFF}
        self._registers |= dict.fromkeys(range(LVT_TIMER, LVT_ERROR + 1, 16), LVT_MASKED)
        self._registers[LVT_LINT0] = LVT_EXTINT
        self.requested = self.in_service = self.level = 0
        self.due, self.deadline = None, 0
        self._errors = 0

    @property
    def enabled(self) -> bool:
        return bool(self._base() & BASE_ENABLED)

    @property
    def is_x2(self) -> bool:
        return self._base() & (BASE_ENABLED | BASE_X2) == BASE_ENABLED | BASE_X2

    @property
    def passes_pic(self) -> bool:
        """Whether the interrupts of the PIC reach the processor through it."""
        return not self.enabled or self._registers[LVT_LINT0] & (LVT_MASKED | LVT_MODE) == LVT_EXTINT

    def base_changed(self) -> None:
        """Handle a write to its MSR: switched off, it forgets everything."""
        if not self.enabled:
            self.reset()
        self._changed()

    # -- registers ---------------------------------------------------------------------------------------

    def read(self, gpa: int, size: int) -> int:
        """Read it as memory."""
        if not self.enabled or self.is_x2:
            return (1 << 8 * size) - 1
        value = 0 if gpa & 0xC else self._read(gpa & 0xFF0) >> 8 * (gpa & 3)
        return value & (1 << 8 * size) - 1

    def _read(self, register: int) -> int:
        if register == VERSION:
            return 0x50014
        if register == PPR:
            return self.priority
        if register == CURRENT:
            return self._current_count()
        if register == INITIAL and self._registers[LVT_TIMER] & DEADLINE:
            return 0
        for first, bits in ((ISR, self.in_service), (TMR, self.level), (IRR, self.requested)):
            if first <= register < first + 0x80:
                return bits >> 2 * (register - first) & 0xFFFFFFFF
        return self._registers.get(register, 0)

    def write(self, gpa: int, size: int, value: int) -> None:
        """Write it as memory."""
        register = gpa & 0xFF0
        if gpa & 0xF or size < 4 or not self.enabled or self.is_x2:
            return
        self._write(register, value & 0xFFFFFFFF)

    def _write(self, register: int, value: int) -> None:
        old = self._registers.get(register, 0)
        if register in WRITABLE:
            self._registers[register] = value & WRITABLE[register]
        match register:
            case 0xB0:  # EOI
                self._end_of_interrupt()
            case 0xF0:
                self._registers[DFR] |= 0x0FFFFFFF
                if not value & SVR_ENABLED:
                    for lvt in range(LVT_TIMER, LVT_ERROR + 1, 16):
                        self._registers[lvt] |= LVT_MASKED
            case 0xE0:
                self._registers[DFR] |= 0x0FFFFFFF
            case 0x280:  # ESR
                self._registers[ESR], self._errors = self._errors, 0
            case 0x300:
                self._send(value, self._registers[ICR_HIGH] >> 24)
            case 0x320:
                if (old ^ value) & (PERIODIC | DEADLINE):
                    self.due, self.deadline = None, 0
                    self._registers[INITIAL] = 0
            case 0x380:
                self._start_timer()
            case _:
                pass
        if LVT_TIMER <= register <= LVT_ERROR and not self._registers[SVR] & SVR_ENABLED:
            self._registers[register] |= LVT_MASKED
        self._changed()

    def read_msr(self, register: int) -> int | None:
        """Read it as MSR 0x800 + register / 16; None is #GP."""
        if not self.is_x2:
            return None
        match register:
            case 0x20:
                return 0
            case 0xD0:
                return 1
            case 0x300:
                return self._registers[ICR] | self._registers[ICR_HIGH] << 32
        if register in X2_READABLE or (register in X2_WRITABLE and register not in (EOI, SELF_IPI)):
            return self._read(register)
        return None

    def write_msr(self, register: int, value: int) -> bool:
        """Write it as MSR 0x800 + register / 16; False is #GP (kvm_x2apic_msr_write).

        Except in the ICR, bits 63:32 are reserved; of the others most are ignored.
        """
        if not self.is_x2 or register not in X2_WRITABLE:
            return False
        reserved = {ICR: X2_ICR_RESERVED, ESR: MASK64, SELF_IPI: ~0xFF}.get(register, ~0xFFFFFFFF)
        if value & reserved:
            return False
        if register == SELF_IPI:
            self.accept(value)
        elif register == ICR:
            self._registers[ICR], self._registers[ICR_HIGH] = value & WRITABLE[ICR], value >> 32
            self._send(value & 0xFFFFFFFF, value >> 32)
        else:
            self._write(register, value)
        return True

    def read_deadline(self) -> int:
        """Read the MSR IA32_TSC_DEADLINE."""
        return self.deadline if self._registers[LVT_TIMER] & DEADLINE else 0

    def write_deadline(self, value: int) -> None:
        if self._registers[LVT_TIMER] & (DEADLINE | PERIODIC) == DEADLINE:
            self.deadline = value
            self.due = self._tsc.when(value) if value else None
            self._changed()

    # -- interrupts --------------------------------------------------------------------------------------

    @property
    def task_priority(self) -> int:
        """What CR8 is: the TPR's upper four bits."""
        return self._registers[TPR] >> 4

    @task_priority.setter
    def task_priority(self, value: int) -> None:
        self._registers[TPR] = value << 4
        self._changed()

    @property
    def priority(self) -> int:
        """The PPR: the higher of TPR and of what is being served."""
        task = self._registers[TPR]
        served = self.in_service.bit_length() - 1 & 0xF0 if self.in_service else 0
        return task if task & 0xF0 >= served else served

    def accept(self, vector: int, *, level: bool = False) -> None:
        """Accept an interrupt that arrives; one that came before and still waits is the same."""
        if vector < 16:
            self._errors |= ILLEGAL_RECEIVED
            return
        if not self._registers[SVR] & SVR_ENABLED or not self.enabled:
            return
        self.requested |= 1 << vector
        self.level = self.level | 1 << vector if level else self.level & ~(1 << vector)
        self._changed()

    def pending(self) -> bool:
        """Return whether it has an interrupt that may interrupt the processor."""
        vector = self.requested.bit_length() - 1
        return self.requested != 0 and vector & 0xF0 > self.priority & 0xF0

    def take(self) -> int | None:
        """Return the first that may, which is in service from now on."""
        if not self.pending():
            return None
        vector = self.requested.bit_length() - 1
        self.requested &= ~(1 << vector)
        self.in_service |= 1 << vector
        return vector

    def _end_of_interrupt(self) -> None:
        if self.in_service:
            vector = self.in_service.bit_length() - 1
            self.in_service &= ~(1 << vector)
            if self.level >> vector & 1:
                self._served(vector)

    def _send(self, command: int, destination: int) -> None:
        """Send an IPI: other processors do not exist, and what resets them does not reach the sender."""
        mode, shorthand = command >> 8 & 7, command >> 18 & 3
        if mode not in (FIXED, LOWEST_PRIORITY, NMI) or shorthand == ALL_BUT_SELF:
            return
        if mode != NMI and command & 0xF0 == 0:
            self._errors |= ILLEGAL_SENT
        if mode == NMI:
            if shorthand in (SELF, ALL) or self._is_me(destination, logical=bool(command >> 11 & 1)):
                self._nmi()
        elif shorthand in (SELF, ALL) or self._is_me(destination, logical=bool(command >> 11 & 1)):
            self.accept(command & 0xFF)

    def send_to_itself(self, command: int) -> None:
        """Send the IPI of an ICR's lower half, whatever its destination."""
        self._send(command & ~(3 << 18) | SELF << 18, 0)

    def _is_me(self, destination: int, *, logical: bool) -> bool:
        if self.is_x2:
            if destination == 0xFFFFFFFF:
                return True
            return destination >> 16 == 0 and bool(destination & 1) if logical else destination == 0
        if destination == 0xFF:
            return True
        if not logical:
            return destination == self._registers[ID] >> 24
        own = self._registers[LDR] >> 24
        if self._registers[DFR] >> 28:
            return bool(destination & own)
        return destination >> 4 == own >> 4 and bool(destination & own & 0xF)

    # -- timer -------------------------------------------------------------------------------------------

    def _start_timer(self) -> None:
        count = self._registers[INITIAL]
        if self._registers[LVT_TIMER] & DEADLINE:
            return
        self._period = max(count * self._divider() * 1e-9, SHORTEST_PERIOD)
        self.due = self._clock() + self._period if count else None

    def _divider(self) -> int:
        bits = self._registers[DIVIDE]
        return 1 << ((bits & 3 | bits >> 1 & 4) + 1 & 7)

    def _current_count(self) -> int:
        if self.due is None or self._registers[LVT_TIMER] & DEADLINE:
            return 0
        return min(max(int((self.due - self._clock()) * 1e9) // self._divider(), 0), self._registers[INITIAL])

    def tick(self) -> None:
        """Let the timer expire if it is time."""
        if self.due is None or self._clock() < self.due:
            return
        timer = self._registers[LVT_TIMER]
        self.due = self._clock() + self._period if timer & PERIODIC else None
        self.deadline = 0
        if not timer & LVT_MASKED:
            self.accept(timer & 0xFF)
        self._changed()


class IoApic:
    """24 interrupt lines that end at one local APIC."""

    PINS = 24
    MASKED, LEVEL, REMOTE_IRR = 1 << 16, 1 << 15, 1 << 14

    def __init__(
        self, accept: Callable[[int], None], accept_level: Callable[[int], None] | None = None
    ) -> None:
        self._accept = accept
        self._accept_level = accept if accept_level is None else accept_level
        self._select = 0
        self._id = 0
        self._entries = [self.MASKED] * self.PINS
        self._lines = [False] * self.PINS

    def read(self, gpa: int, size: int) -> int:
        if gpa & 0xFF == 0x00:
            return self._select
        if gpa & 0xFF != 0x10:
            return 0
        if self._select == 0 or self._select == 2:
            return self._id << 24
        if self._select == 1:
            return 0x11 | self.PINS - 1 << 16
        pin, high = divmod(self._select - 0x10, 2)
        if not 0 <= pin < self.PINS:
            return 0
        return self._entries[pin] >> 32 * high & 0xFFFFFFFF

    def write(self, gpa: int, size: int, value: int) -> None:
        if gpa & 0xFF == 0x00:
            self._select = value & 0xFF
        elif gpa & 0xFF == 0x10:
            pin, high = divmod(self._select - 0x10, 2)
            if self._select == 0:
                self._id = value >> 24 & 0xF
            elif 0 <= pin < self.PINS:
                self._set_entry(pin, value, high=bool(high))
        elif gpa & 0xFF == 0x40:
            self.end_of_interrupt(value & 0xFF)

    def _set_entry(self, pin: int, value: int, *, high: bool) -> None:
        old = self._entries[pin]
        if high:
            self._entries[pin] = old & 0xFFFFFFFF | (value & 0xFF000000) << 32
        else:
            self._entries[pin] = old & ~0xFFFFFFFF | value & 0x1AFFF | old & self.REMOTE_IRR
        self._serve_level(pin)

    def set_line(self, pin: int, level: bool) -> None:  # noqa: FBT001  (the level of a line)
        """Raise or lower the line of a device."""
        if not 0 <= pin < self.PINS:
            return
        raised = level and not self._lines[pin]
        self._lines[pin] = level
        entry = self._entries[pin]
        if entry & self.LEVEL:
            self._serve_level(pin)
        elif raised and not entry & self.MASKED:
            self._accept(entry & 0xFF)

    def _serve_level(self, pin: int) -> None:
        entry = self._entries[pin]
        if entry & self.LEVEL and self._lines[pin] and not entry & (self.MASKED | self.REMOTE_IRR):
            self._entries[pin] |= self.REMOTE_IRR
            self._accept_level(entry & 0xFF)

    def listens(self, pin: int) -> bool:
        """Return whether an interrupt on that line would be delivered anywhere."""
        return not self._entries[pin] & self.MASKED

    def end_of_interrupt(self, vector: int) -> None:
        """End the interrupt of a vector in the local APIC: lines that are still up interrupt again."""
        for pin, entry in enumerate(self._entries):
            if entry & 0xFF == vector and entry & self.REMOTE_IRR:
                self._entries[pin] &= ~self.REMOTE_IRR
                self._serve_level(pin)
