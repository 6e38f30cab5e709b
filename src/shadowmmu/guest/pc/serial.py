"""The serial port: a 16550 at COM1 (PC16550D data sheet, National Semiconductor 1995)."""

from collections.abc import Callable

__all__ = ["COM1", "Serial"]

COM1 = 0x3F8
DATA, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH = range(8)
IER_RECEIVED, IER_TRANSMITTER_EMPTY, IER_MODEM_STATUS = 1, 2, 8
IIR_MODEM_STATUS, IIR_NONE, IIR_TRANSMITTER_EMPTY, IIR_RECEIVED, IIR_FIFOS = 0, 1, 2, 4, 0xC0
FCR_FIFOS, FCR_CLEAR_RECEIVED = 1, 2
LCR_DIVISOR = 0x80
MCR_OUT2, MCR_LOOP = 8, 0x10
LSR_RECEIVED, LSR_TRANSMITTER_EMPTY = 1, 0x60
MSR_READY = 0xB0
"""Carrier, data set ready, clear to send: what is at the other end always listens."""
FIFO_SIZE = 16


class Serial:
    """A 16550 whose transmitter is empty at once; nothing arrives but what it sends in loopback.

    `send` gets the bytes that leave, `set_line` the level of its interrupt, which OUT2 lets through.
    """

    def __init__(
        self, send: Callable[[bytes], None], set_line: Callable[[bool], None] = lambda level: None
    ) -> None:
        self._send = send
        self._set_line = set_line
        self._registers = dict.fromkeys((IER, LCR, MCR, SCRATCH), 0)
        self._divisor = [12, 0]
        self._received: list[int] = []
        self._fifos = self._empty = False
        self._modem_changes = 0
        self._level = False

    def read(self, port: int, size: int) -> int:
        """Return a register."""
        register = port - COM1
        if register <= IER and self._registers[LCR] & LCR_DIVISOR:
            return self._divisor[register]
        match register:
            case 0:
                value = self._received.pop(0) if self._received else 0
            case 2:
                value = self._identification()
                if value == IIR_TRANSMITTER_EMPTY:
                    self._empty = False
                value |= IIR_FIFOS if self._fifos else 0
            case 5:
                return LSR_TRANSMITTER_EMPTY | (LSR_RECEIVED if self._received else 0)
            case 6:
                value = self._modem_status() | self._modem_changes
                self._modem_changes = 0
            case _:
                return self._registers[register]
        self._update()
        return value

    def write(self, port: int, size: int, value: int) -> None:
        """Write a register."""
        register, value = port - COM1, value & 0xFF
        if register <= IER and self._registers[LCR] & LCR_DIVISOR:
            self._divisor[register] = value
            return
        match register:
            case 0:
                self._transmit(value)
            case 1:
                self._empty = self._empty or bool(value & ~self._registers[IER] & IER_TRANSMITTER_EMPTY)
                self._registers[IER] = value & 0xF
            case 2:
                changed = self._fifos is not bool(value & FCR_FIFOS)
                self._fifos = bool(value & FCR_FIFOS)
                if changed or value & FCR_CLEAR_RECEIVED:
                    self._received.clear()
            case 4:
                before = self._modem_status()
                self._registers[MCR] = value & 0x1F
                self._modem_changes |= (before ^ self._modem_status()) >> 4
            case 3 | 7:
                self._registers[register] = value
        self._update()

    def _transmit(self, value: int) -> None:
        if not self._registers[MCR] & MCR_LOOP:
            self._send(bytes([value]))
        elif not self._fifos:
            self._received[:] = [value]
        elif len(self._received) < FIFO_SIZE:
            self._received.append(value)
        if self._registers[IER]:
            self._empty = False
            self._update()
            self._empty = True

    def _modem_status(self) -> int:
        """Return the modem's lines; in loopback RTS is CTS, DTR is DSR, OUT1 is RI and OUT2 is DCD."""
        control = self._registers[MCR]
        if not control & MCR_LOOP:
            return MSR_READY
        return (control & 2) << 3 | (control & 1) << 5 | (control & 0xC) << 4

    def _identification(self) -> int:
        """Return the interrupt of the highest priority."""
        enabled = self._registers[IER]
        if enabled & IER_RECEIVED and self._received:
            return IIR_RECEIVED
        if enabled & IER_TRANSMITTER_EMPTY and self._empty:
            return IIR_TRANSMITTER_EMPTY
        if enabled & IER_MODEM_STATUS and self._modem_changes:
            return IIR_MODEM_STATUS
        return IIR_NONE

    def _update(self) -> None:
        passes = self._registers[MCR] & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
        level = passes and self._identification() != IIR_NONE
        if level is not self._level:
            self._level = level
            self._set_line(level)
