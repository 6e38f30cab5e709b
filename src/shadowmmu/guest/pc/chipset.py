"""The parts of a PC around its processor, as far as programs without an operating system look at them.

Each has read(address, size) and write(address, size, value) for the ports or addresses it is given.
"""

import time
from collections.abc import Callable

__all__ = ["Cmos", "Counters", "FwCfg", "Pci", "Pic", "Pit", "TestDevice"]

PIT_HZ = 1193182
SHORTEST_PERIOD = 0.0005
"""Seconds between two interrupts of a timer."""


class FwCfg:
    """QEMU's firmware configuration: a selector port, then the item byte by byte, little-endian."""

    SIGNATURE, ID, UUID, RAM_SIZE, NB_CPUS, MAX_CPUS, FILE_DIR = 0, 1, 2, 3, 5, 15, 0x19
    CMDLINE_SIZE, CMDLINE_DATA = 0x14, 0x15

    def __init__(self, memory: int, cpus: int) -> None:
        self.items = {
            self.SIGNATURE: b"QEMU",
            self.ID: (1).to_bytes(4, "little"),
            self.UUID: bytes(16),
            self.RAM_SIZE: memory.to_bytes(8, "little"),
            self.NB_CPUS: cpus.to_bytes(2, "little"),
            self.MAX_CPUS: cpus.to_bytes(2, "little"),
            self.FILE_DIR: bytes(4),
        }
        self._item = b""
        self._position = 0

    def set_command_line(self, line: str) -> None:
        data = line.encode() + b"\0"
        self.items[self.CMDLINE_SIZE] = len(data).to_bytes(4, "little")
        self.items[self.CMDLINE_DATA] = data

    def select(self, port: int, size: int, value: int) -> None:
        self._item = self.items.get(value & 0xFFFF, b"")
        self._position = 0

    def read(self, port: int, size: int) -> int:
        data = self._item[self._position : self._position + size]
        self._position += size
        return int.from_bytes(data, "little")


class Cmos:
    """The clock and its memory; `time_ns` gives the nanoseconds since 1970."""

    def __init__(self, memory: int, time_ns: Callable[[], int] = time.time_ns) -> None:
        self._time_ns = time_ns
        self._index = 0
        self._bytes = bytearray(128)
        extended = min(memory - (1 << 20) >> 10, 0xFFFF) if memory > 1 << 20 else 0
        above = min(memory - (16 << 20) >> 16, 0xFFFF) if memory > 16 << 20 else 0
        self._bytes[0x17:0x19] = self._bytes[0x30:0x32] = extended.to_bytes(2, "little")
        self._bytes[0x34:0x36] = above.to_bytes(2, "little")
        self._bytes[0x15:0x17] = (640).to_bytes(2, "little")
        self._bytes[0x0A:0x0E] = bytes((0x26, 0x02, 0x00, 0x80))

    def read(self, port: int, size: int) -> int:
        if not port & 1:
            return 0xFF
        now = time.gmtime(self._time_ns() // 10**9)
        clock = {
            0: now.tm_sec,
            2: now.tm_min,
            4: now.tm_hour,
            6: (now.tm_wday + 1) % 7 + 1,
            7: now.tm_mday,
            8: now.tm_mon,
            9: now.tm_year % 100,
            0x32: now.tm_year // 100,
        }
        value = clock.get(self._index)
        return self._bytes[self._index] if value is None else value // 10 << 4 | value % 10

    def write(self, port: int, size: int, value: int) -> None:
        if not port & 1:
            self._index = value & 0x7F
        elif self._index >= 0x0E:
            self._bytes[self._index] = value & 0xFF


class Pci:
    """Configuration space without any device."""

    def __init__(self) -> None:
        self._address = 0

    def read(self, port: int, size: int) -> int:
        return self._address if port == 0xCF8 and size == 4 else (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        if port == 0xCF8 and size == 4:
            self._address = value


class _Pic8259:
    """One of the two."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.lines = self.requested = self.in_service = 0
        self.mask = 0xFF
        self.levels = 0
        self._expected = 0
        self._command = 0
        self._reads_service = self._automatic = False

    def pending(self) -> int | None:
        """Return the line of the interrupt that is to be delivered."""
        wanted = self.requested & ~self.mask
        first = (wanted & -wanted).bit_length() - 1
        served = (self.in_service & -self.in_service).bit_length() - 1
        return first if wanted and (not self.in_service or first < served) else None

    def set_line(self, line: int, *, level: bool) -> None:
        bit = 1 << line
        if level and (not self.lines & bit or self.levels & bit):
            self.requested |= bit
        elif not level and self.levels & bit:
            self.requested &= ~bit
        self.lines = self.lines | bit if level else self.lines & ~bit

    def take(self, line: int) -> int:
        """Return its vector; the interrupt is in service then."""
        bit = 1 << line
        if not self.levels & bit:
            self.requested &= ~bit
        if not self._automatic:
            self.in_service |= bit
        return self.base + line

    def read(self, port: int) -> int:
        if port & 1:
            return self.mask
        return self.in_service if self._reads_service else self.requested

    def write(self, port: int, value: int) -> None:
        if port & 1:
            self._data(value)
        elif value & 0x10:  # ICW1
            self._expected, self._command = 2, value
            self.mask = self.requested = self.in_service = 0
            self._automatic = self._reads_service = False
        elif value & 0x08:  # OCW3
            if value & 2:
                self._reads_service = bool(value & 1)
        elif value & 0x20:  # OCW2, the end of an interrupt
            bit = 1 << (value & 7) if value & 0x40 else self.in_service & -self.in_service
            self.in_service &= ~bit

    def _data(self, value: int) -> None:
        """Write the next word of an initialization, or the mask."""
        match self._expected:
            case 2:
                self.base = value & 0xF8
                self._expected = (
                    4 if self._command & 2 and self._command & 1 else 0 if self._command & 2 else 3
                )
            case 3:
                self._expected = 4 if self._command & 1 else 0
            case 4:
                self._automatic = bool(value & 2)
                self._expected = 0
            case _:
                self.mask = value


class Pic:
    """The two 8259 interrupt controllers, the second at line 2 of the first; `changed()` after each change.

    All lines are masked until the guest unmasks them: no firmware has left them otherwise.
    """

    CASCADE = 2

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._chips = _Pic8259(0x08), _Pic8259(0x70)

    def listens(self, line: int) -> bool:
        """Return whether an interrupt on that line would be delivered anywhere."""
        chip, line = divmod(line, 8)
        return not self._chips[chip].mask >> line & 1

    def set_line(self, line: int, *, level: bool) -> None:
        self._chips[line >> 3].set_line(line & 7, level=level)
        self._cascade()
        self._changed()

    def _cascade(self) -> None:
        first, second = self._chips
        waits = second.pending() is not None
        first.set_line(self.CASCADE, level=False)
        if not waits:
            first.requested &= ~(1 << self.CASCADE)
        first.set_line(self.CASCADE, level=waits)

    def pending(self) -> bool:
        return self._chips[0].pending() is not None

    def take(self) -> int | None:
        """Return the vector of the interrupt that is delivered now."""
        first, second = self._chips
        line = first.pending()
        if line is None:
            return None
        vector = first.take(line)
        if line == self.CASCADE:
            slave = second.pending()
            vector = second.base + 7 if slave is None else second.take(slave)
            self._cascade()
        return vector

    def read(self, port: int, size: int) -> int:
        if port >> 4 == 0x4D:
            return self._chips[port & 1].levels
        return self._chips[port >> 7].read(port)

    def write(self, port: int, size: int, value: int) -> None:
        if port >> 4 == 0x4D:
            self._chips[port & 1].levels = value & (0xDE if port & 1 else 0xF8)
        else:
            self._chips[port >> 7].write(port, value & 0xFF)
        self._cascade()
        self._changed()


class Pit:
    """The 8254: three counters that follow a clock, with port 0x61.

    `changed()` is called when the first one, whose output is an interrupt line, was programmed.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._clock = clock
        self._changed = changed
        self._told = 0
        self._reload = [0x10000] * 3
        self._started = [clock()] * 3
        self._access = [3] * 3
        self._mode = [3, 0, 0]
        self._latched: list[int | None] = [None] * 3
        self._high = [False] * 3
        self._control = 0

    def _elapsed(self, counter: int) -> int:
        return int((self._clock() - self._started[counter]) * PIT_HZ)

    def _count(self, counter: int) -> int:
        reload, elapsed = self._reload[counter], self._elapsed(counter)
        if self._mode[counter] in (2, 3):
            return reload - elapsed % reload
        return reload - elapsed & 0xFFFF

    @property
    def due(self) -> float | None:
        """When the first counter interrupts next; None if it does not. A guest may ask for too often."""
        reload = self._reload[0]
        if self._mode[0] in (2, 3):
            due = self._started[0] + (self._told + 1) * reload / PIT_HZ
            return max(due, self._clock() + SHORTEST_PERIOD) if reload < SHORTEST_PERIOD * PIT_HZ else due
        return None if self._told else self._started[0] + reload / PIT_HZ

    def tick(self) -> bool:
        """Return whether the first counter has come to its end since it was asked last."""
        ends = self._elapsed(0) // self._reload[0]
        if self._mode[0] not in (2, 3):
            ends = min(ends, 1)
        before, self._told = self._told, ends
        return ends > before

    def _output(self, counter: int) -> bool:
        if self._mode[counter] in (2, 3):
            return self._count(counter) > self._reload[counter] // 2
        return self._elapsed(counter) >= self._reload[counter]

    def read(self, port: int, size: int) -> int:
        if port == 0x61:
            return self._control & 3 | (self._elapsed(1) & 1) << 4 | self._output(2) << 5
        if port == 0x43:
            return 0xFF
        counter = port & 3
        latched = self._latched[counter]
        value = self._count(counter) if latched is None else latched
        if self._access[counter] == 3:
            high = self._high[counter]
            self._high[counter] = not high
        else:
            high = self._access[counter] == 2
        if high or self._access[counter] != 3:
            self._latched[counter] = None
        return (value >> 8 if high else value) & 0xFF

    def write(self, port: int, size: int, value: int) -> None:
        value &= 0xFF
        if port == 0x61:
            if value & 1 and not self._control & 1:
                self._started[2] = self._clock()
            self._control = value & 3
        elif port == 0x43:
            self._command(value)
        else:
            self._load(port & 3, value)

    def _command(self, value: int) -> None:
        counter, access = value >> 6, value >> 4 & 3
        if counter == 3:
            for n in range(3):
                if value >> n + 1 & 1 and not value & 0x20:
                    self._latched[n] = self._count(n)
        elif access == 0:
            self._latched[counter] = self._count(counter)
        else:
            self._access[counter] = access
            self._mode[counter] = value >> 1 & (3 if value & 4 else 7)
            self._high[counter] = False

    def _load(self, counter: int, value: int) -> None:
        old = self._reload[counter]
        if self._access[counter] == 3 and not self._high[counter]:
            self._reload[counter] = old & 0xFF00 | value
            self._high[counter] = True
            return
        high = self._access[counter] == 2 or self._high[counter]
        self._high[counter] = False
        if self._access[counter] == 3:
            loaded = old & 0xFF | value << 8
        else:
            loaded = value << 8 if high else value
        self._reload[counter] = loaded or 0x10000
        self._started[counter] = self._clock()
        if counter == 0:
            self._told = 0
            self._changed()


class Counters:
    """KVM's counters for a guest that is curious: it writes a number to the port and reads the counter there.

    Number 0 says that the device is there. No other computer has this.
    """

    PORT = 0x5C0
    SIGNATURE = int.from_bytes(b"UMMS", "little")
    NAMES = (
        "exits",
        "pf_taken",
        "pf_fixed",
        "pf_emulate",
        "pf_spurious",
        "pf_guest",
        "invlpg",
        "mmio_exits",
        "insn_emulation",
        "mmu_shadow_zapped",
        "mmu_pte_write",
        "mmu_flooded",
        "mmu_unsync",
        "pages_4k",
        "pages_2m",
        "pages_1g",
    )

    def __init__(self, count: Callable[[str], int]) -> None:
        self._count = count
        self._number = 0

    def write(self, port: int, size: int, value: int) -> None:
        self._number = value

    def read(self, port: int, size: int) -> int:
        if self._number == 0:
            return self.SIGNATURE
        if self._number > len(self.NAMES):
            return (1 << 8 * size) - 1
        return self._count(self.NAMES[self._number - 1])


class TestDevice:
    """The device that QEMU has for tests (pc-testdev): a port, memory by MMIO, interrupt lines."""

    PORTS, FLUSH, LINES, MEMORY, MEMORY_SIZE = 0xE0, 0xE4, 0x2000, 0xFF000000, 0x10000
    __test__ = False

    def __init__(self, set_line: Callable[[int, bool], None], flush: Callable[[int], None]) -> None:
        self._set_line = set_line
        self._flush = flush
        self._port = 0
        self._memory = bytearray(self.MEMORY_SIZE)

    def read_port(self, port: int, size: int) -> int:
        return self._port

    def write_port(self, port: int, size: int, value: int) -> None:
        """Write the one register, of the size last written, that all its ports are."""
        self._port = value

    def flush_page(self, port: int, size: int, value: int) -> None:
        """Let the host take the guest's page at `value` away for a moment."""
        self._flush(value)

    def write_line(self, port: int, size: int, value: int) -> None:
        self._set_line(port - self.LINES, bool(value))

    def read_memory(self, gpa: int, size: int) -> int:
        offset = gpa - self.MEMORY
        return int.from_bytes(self._memory[offset : offset + size], "little")

    def write_memory(self, gpa: int, size: int, value: int) -> None:
        offset = gpa - self.MEMORY
        end = min(offset + size, self.MEMORY_SIZE)
        self._memory[offset:end] = value.to_bytes(size, "little")[: end - offset]
