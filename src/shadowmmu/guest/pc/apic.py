"""The local APIC of a single processor, and the I/O APIC: registers, IPIs, timer, interrupt lines."""

import time
from collections.abc import Callable

__all__ = ["IoApic", "LocalApic"]

APIC_BASE, IOAPIC_BASE = 0xFEE00000, 0xFEC00000
ID, VERSION, TPR, APR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LVT_LINT0, LVT_ERROR, INITIAL, CURRENT, DIVIDE = 0x320, 0x350, 0x370, 0x380, 0x390, 0x3E0
WRITABLE = {
    ID: 0xFF000000,
    TPR: 0xFF,
    LDR: 0xFF000000,
    DFR: 0xF0000000,
    SVR: 0x3FF,
    ICR: 0xCCFFF,
    ICR_HIGH: 0xFF000000,
    LVT_TIMER: 0x300FF | 0x10000,
    0x330: 0x107FF,
    0x340: 0x107FF,
    LVT_LINT0: 0x1A7FF,
    0x360: 0x1A7FF,
    LVT_ERROR: 0x100FF,
    DIVIDE: 0xB,
}
SVR_ENABLED, LVT_MASKED, PERIODIC = 1 << 8, 1 << 16, 1 << 17
FIXED, LOWEST_PRIORITY = 0, 1
SELF, ALL, ALL_BUT_SELF = 1, 2, 3
SHORTEST_PERIOD = 0.0005
"""Seconds: a guest may ask for less, and would then do nothing but serve its timer."""


class LocalApic:
    """One APIC; `interrupt(vector)` gives the processor what is to be delivered, `armed()` is called when the
    timer starts, `served(vector)` when the guest is done with an interrupt. The timer counts
    nanoseconds, as KVM's does.
    """

    def __init__(
        self,
        interrupt: Callable[[int], None],
        *,
        armed: Callable[[], None] = lambda: None,
        served: Callable[[int], None] = lambda vector: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interrupt = interrupt
        self._armed = armed
        self._served = served
        self._clock = clock
        self._registers: dict[int, int] = {}
        self.requested = 0
        self.in_service = 0
        self.due: float | None = None
        self._period = 0.0
        self.reset()

    def reset(self) -> None:
        self._registers = dict.fromkeys((*WRITABLE, ESR, INITIAL), 0)
        self._registers |= {DFR: 0xFFFFFFFF, SVR: 0xFF}
        self._registers |= dict.fromkeys(range(LVT_TIMER, LVT_ERROR + 1, 16), LVT_MASKED)
        self.requested = self.in_service = 0
        self.due = None

    # -- registers ---------------------------------------------------------------------------------------

    def read(self, gpa: int, size: int) -> int:
        return 0 if gpa & 0xC else self._read(gpa & 0xFF0) >> 8 * (gpa & 3)

    def _read(self, register: int) -> int:
        if register == VERSION:
            return 0x50014
        if register == PPR:
            return self.priority
        if register == CURRENT:
            return self._current_count()
        for first, bits in ((ISR, self.in_service), (TMR, 0), (IRR, self.requested)):
            if first <= register < first + 0x80:
                return bits >> 2 * (register - first) & 0xFFFFFFFF
        return self._registers.get(register, 0)

    def write(self, gpa: int, size: int, value: int) -> None:
        register = gpa & 0xFF0
        if gpa & 0xF or size < 4:
            return
        if register in WRITABLE:
            self._registers[register] = value & WRITABLE[register]
        match register:
            case 0xB0:  # EOI
                self._end_of_interrupt()
            case 0x80:
                self.evaluate()
            case 0xF0:
                self._registers[DFR] |= 0x0FFFFFFF
                self.evaluate()
            case 0xE0:
                self._registers[DFR] |= 0x0FFFFFFF
            case 0x300:
                self._send(value)
            case 0x380:
                self._registers[INITIAL] = value & 0xFFFFFFFF
                self._start_timer()
            case _:
                pass

    # -- interrupts --------------------------------------------------------------------------------------

    @property
    def priority(self) -> int:
        """The PPR: the higher of TPR and of what is being served."""
        task = self._registers[TPR]
        served = self.in_service.bit_length() - 1 & 0xF0 if self.in_service else 0
        return task if task & 0xF0 >= served else served

    def accept(self, vector: int) -> None:
        """An interrupt arrives; one that came before and still waits is the same."""
        if vector >= 16:
            self.requested |= 1 << vector
            self.evaluate()

    def evaluate(self) -> None:
        """Give the processor the first that may interrupt it."""
        while self.requested and self._registers[SVR] & SVR_ENABLED:
            vector = self.requested.bit_length() - 1
            if vector & 0xF0 <= self.priority & 0xF0:
                break
            self.requested &= ~(1 << vector)
            self.in_service |= 1 << vector
            self._interrupt(vector)

    def _end_of_interrupt(self) -> None:
        if self.in_service:
            vector = self.in_service.bit_length() - 1
            self.in_service &= ~(1 << vector)
            self._served(vector)
        self.evaluate()

    def _send(self, command: int) -> None:
        """An IPI: others do not exist, and only fixed ones reach the sender."""
        mode, shorthand = command >> 8 & 7, command >> 18 & 3
        destination = self._registers[ICR_HIGH] >> 24
        if mode not in (FIXED, LOWEST_PRIORITY) or shorthand == ALL_BUT_SELF:
            return
        if shorthand in (SELF, ALL) or self._is_me(destination, logical=bool(command >> 11 & 1)):
            self.accept(command & 0xFF)

    def _is_me(self, destination: int, *, logical: bool) -> bool:
        if destination == 0xFF:
            return True
        if not logical:
            return destination == self._registers[ID] >> 24
        return bool(destination & self._registers[LDR] >> 24)

    # -- timer -------------------------------------------------------------------------------------------

    def _start_timer(self) -> None:
        count = self._registers[INITIAL]
        self._period = max(count * self._divider() * 1e-9, SHORTEST_PERIOD)
        self.due = self._clock() + self._period if count else None
        if count:
            self._armed()

    def _divider(self) -> int:
        bits = self._registers[DIVIDE]
        return 1 << ((bits & 3 | bits >> 1 & 4) + 1 & 7)

    def _current_count(self) -> int:
        if self.due is None:
            return 0
        return min(max(int((self.due - self._clock()) * 1e9) // self._divider(), 0), self._registers[INITIAL])

    def tick(self) -> None:
        """Let the timer expire if it is time."""
        if self.due is None or self._clock() < self.due:
            return
        timer = self._registers[LVT_TIMER]
        self.due = self._clock() + self._period if timer & PERIODIC else None
        if not timer & LVT_MASKED:
            self.accept(timer & 0xFF)


class IoApic:
    """24 interrupt lines that end at one local APIC."""

    PINS = 24
    MASKED, LEVEL, REMOTE_IRR = 1 << 16, 1 << 15, 1 << 14

    def __init__(self, accept: Callable[[int], None]) -> None:
        self._accept = accept
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
        """A device raises or lowers its line."""
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
            self._accept(entry & 0xFF)

    def end_of_interrupt(self, vector: int) -> None:
        """The local APIC is done with a vector: lines that are still up interrupt again."""
        for pin, entry in enumerate(self._entries):
            if entry & 0xFF == vector and entry & self.REMOTE_IRR:
                self._entries[pin] &= ~self.REMOTE_IRR
                self._serve_level(pin)
