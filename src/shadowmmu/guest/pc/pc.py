"""The PC: devices wired to a machine, a boot loader, and the loop that runs it until the program is done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

from ...host.backing import HostError
from ...kvm.registers.msr import MSR_APIC_BASE, MSR_TSC
from ...x86.bits import MASK64
from ..svm.emulator import FetchFault
from ..svm.machine import Outcome, SvmMachine
from ..svm.msrs import MSR_TSC_ADJUST, MSR_TSC_DEADLINE
from .apic import APIC_BASE, IOAPIC_BASE, IoApic, LocalApic, Tsc
from .chipset import Cmos, Counters, FwCfg, Pci, Pic, Pit, TestDevice
from .image import Image, ImageError
from .multiboot import BOOT_MAGIC, bios_data, boot_information
from .serial import Serial

__all__ = ["HOLE", "Ending", "Limits", "Pc", "memory_slots"]

HOLE, ABOVE_HOLE = 3 << 30, 4 << 30
"""Memory beyond 3 GiB is above 4 GiB, so that devices have room below."""
POWER_OFF = b"Shutdown"
"""What Bochs wants at its port 0x8900 to switch itself off; QEMU's programs use it, too."""
FLAG_IF = 1 << 9
SERIAL_LINE = 4
PIT_PIN = 2
"""Of the I/O APIC: the timer's interrupt, line 0 of the ISA bus."""
SLICE = 0.5
SPINNING = (
    (0, b"\xeb\xfe"),
    (0, b"\xe9\xfb\xff\xff\xff"),
    (0, b"\xf3\x90\xeb\xfc"),
    (2, b"\xf3\x90\xeb\xfc"),
)
"""Jumps to themselves, with or without PAUSE, and where in them RIP may be."""


def memory_slots(size: int) -> list[tuple[int, int]]:
    """Return (address, size) of the memory of a PC that has `size` bytes."""
    if size <= HOLE:
        return [(0, size)]
    return [(0, HOLE), (ABOVE_HOLE, size - HOLE)]


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a run ends if the program does not: in all, not for each call of run()."""

    exits: int | None = None
    instructions: int | None = None
    seconds: float | None = None

    def run_slice(self, machine: SvmMachine, seconds: float) -> Outcome:
        """Run the machine, which has run for so many seconds, for half a second or what the limits leave."""
        left = SLICE if self.seconds is None else min(SLICE, max(self.seconds - seconds, 0.0))
        exits = None if self.exits is None else max(self.exits - machine.exits.total(), 1)
        instructions = self.instructions
        if instructions is not None:
            instructions = max(instructions - machine.processor.instructions, 1)
        return machine.run(exits=exits, instructions=instructions, seconds=left)


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.

    reason      "exit": by the debug-exit port; "power off", "reset": as a PC does that
                "endless loop": a jump to itself with interrupts disabled
                "halted": HLT, and nothing will ever wake it; "interrupted": by interrupt()
                "exits", "instructions", "seconds": a limit; else that of the machine's Outcome
    status      what the program gives its caller; None if it is not that it has ended
    detail      more about it
    """

    reason: str
    status: int | None = None
    detail: str = ""


class Pc:
    """A PC with one processor around `machine`; `output` gets what the program sends to the serial port.

    `memory` is its size; the machine has it as memory_slots() says.
    """

    def __init__(self, machine: SvmMachine, memory: int, output: Callable[[bytes], None]) -> None:
        self.machine = machine
        self.memory = memory
        self.seconds = 0.0
        self._output = output
        self._ending: Ending | None = None
        self._interrupted = False
        self._shutdown = b""
        clock = self.clock = machine.clock
        self.tsc = Tsc(clock.now)
        self.io_apic = IoApic(
            lambda vector: self.apic.accept(vector), lambda vector: self.apic.accept(vector, level=True)
        )
        self.apic = LocalApic(
            self._changed,
            base=lambda: machine.vcpu.apic_base,
            served=self.io_apic.end_of_interrupt,
            nmi=machine.nmi,
            clock=clock.now,
            tsc=self.tsc,
        )
        self.pic = Pic(self._changed)
        self.pit = Pit(clock.now, self._changed)
        self.fw_cfg = FwCfg(memory, cpus=1)
        self._tsc_adjust = 0
        self._connect()
        self._connect_interrupts()

    # -- devices -----------------------------------------------------------------------------------------

    def _connect(self) -> None:
        machine, pit = self.machine, self.pit
        serial = Serial(self._send, partial(self._set_line, SERIAL_LINE))
        cmos, pci = Cmos(self.memory, self.clock.time_ns), Pci()
        test = TestDevice(self._set_line, self._flush_page)
        port = machine.on_port
        port(0x3F8, 0x3FF, read=serial.read, write=serial.write)
        port(0xE9, write=lambda port, size, value: self._send(bytes([value & 0xFF])))
        port(0xF4, 0xF7, read=lambda port, size: 0, write=self._debug_exit)
        port(0x501, write=self._debug_exit)
        port(0x510, 0x511, read=self.fw_cfg.read, write=self.fw_cfg.select)
        port(0x40, 0x43, read=pit.read, write=pit.write)
        counters = Counters(self._counter)
        port(counters.PORT, counters.PORT + 3, read=counters.read, write=counters.write)
        port(0x61, read=pit.read, write=pit.write)
        for first in (0x20, 0xA0, 0x4D0):
            port(first, first + 1, read=self.pic.read, write=self.pic.write)
        port(0x70, 0x71, read=cmos.read, write=cmos.write)
        port(0xCF8, 0xCFF, read=pci.read, write=pci.write)
        port(0xCF9, write=self._reset_control)
        port(0x64, read=lambda port, size: 0x1C, write=self._keyboard_controller)
        port(0x92, read=lambda port, size: 2, write=self._fast_reset)
        port(0x604, write=self._acpi_control)
        port(0x8900, write=self._bochs_power_off)
        port(test.PORTS, test.PORTS + 3, read=test.read_port, write=test.write_port)
        port(test.FLUSH, test.FLUSH + 3, write=test.flush_page)
        port(test.LINES, test.LINES + IoApic.PINS - 1, write=test.write_line)
        self._apic_window = machine.on_mmio(APIC_BASE, 0x1000, read=self.apic.read, write=self.apic.write)
        machine.on_mmio(IOAPIC_BASE, 0x1000, read=self.io_apic.read, write=self._write_io_apic)
        machine.on_mmio(test.MEMORY, test.MEMORY_SIZE, read=test.read_memory, write=test.write_memory)

    def _send(self, data: bytes) -> None:
        if self._ending is None:
            self._output(data)

    def _end(self, reason: str, status: int | None, detail: str = "") -> None:
        """End the run: the program is done; what its processor still does is of no interest."""
        if self._ending is None:
            self._ending = Ending(reason, status, detail)
            self.machine.stop(reason)

    def _debug_exit(self, port: int, size: int, value: int) -> None:
        self._end("exit", (value << 1 | 1) & 0xFF, f"{value:#x}")

    def _bochs_power_off(self, port: int, size: int, value: int) -> None:
        self._shutdown = (self._shutdown + bytes([value & 0xFF]))[-len(POWER_OFF) :]
        if self._shutdown == POWER_OFF:
            self._end("power off", 0)

    def _acpi_control(self, port: int, size: int, value: int) -> None:
        if value & 0x2000:
            self._end("power off", 0)

    def _reset_control(self, port: int, size: int, value: int) -> None:
        if value & 4:
            self._end("reset", 0)

    def _keyboard_controller(self, port: int, size: int, value: int) -> None:
        if value & 0xFF == 0xFE:
            self._end("reset", 0)

    def _fast_reset(self, port: int, size: int, value: int) -> None:
        if value & 1:
            self._end("reset", 0)

    def _flush_page(self, gpa: int) -> None:
        """Make a page of the guest's inaccessible to the host, then accessible again."""
        try:
            hva = self.machine.machine.hva(gpa & ~0xFFF)
        except HostError:
            return
        self.machine.machine.host.mprotect(hva, 0x1000, 0)
        self.machine.machine.host.mprotect(hva, 0x1000, 3)

    def _counter(self, name: str) -> int:
        machine = self.machine
        if name == "exits":
            return machine.exits.total()
        return (machine.vcpu.stat.as_dict() | machine.kvm.vm_stats()).get(name, 0)

    # -- interrupts and time -----------------------------------------------------------------------------

    def _connect_interrupts(self) -> None:
        machine, apic = self.machine, self.apic
        for index in range(0x800, 0x900):
            register = (index & 0xFF) << 4
            machine.on_msr(
                index, read=partial(apic.read_msr, register), write=partial(apic.write_msr, register)
            )
        machine.msrs.watchers[MSR_APIC_BASE] = self._apic_base_changed
        machine.on_msr(MSR_TSC_DEADLINE, read=apic.read_deadline, write=apic.write_deadline)
        machine.on_msr(MSR_TSC, read=self.tsc.read, write=self._write_tsc)
        machine.on_msr(MSR_TSC_ADJUST, read=lambda: self._tsc_adjust, write=self._adjust_tsc)
        machine.has_apic()
        machine.on_rdtsc(self.tsc.read)
        machine.on_cr8(lambda: apic.task_priority, self._set_task_priority)
        machine.system_calls.send_ipi = apic.send_to_itself
        machine.on_interrupts(self)
        machine.on_idle(self._tick, every=inf)

    def _apic_base_changed(self) -> None:
        base = self.machine.vcpu.apic_base & ~0xFFF
        self._apic_window.first, self._apic_window.last = base, base + 0xFFF
        self.apic.base_changed()

    def pending(self) -> bool:
        """Return whether there is an interrupt for the processor."""
        return self.apic.pending() or (self.pic.pending() and self.apic.passes_pic)

    def take(self) -> int | None:
        """Return the vector of the interrupt that is delivered now."""
        if self.pic.pending() and self.apic.passes_pic:
            return self.pic.take()
        return self.apic.take()

    def _changed(self) -> None:
        """Handle a change of interrupts or timers."""
        self.machine.events.interrupts_changed()
        self.machine.loop.wake_at(self._due())

    def _due(self) -> float:
        """Return when the next timer is due."""
        apic, pit = self.apic.due, self.pit.due if self._hears_pit() else None
        return min(inf if apic is None else apic, inf if pit is None else pit)

    def _hears_pit(self) -> bool:
        return self.pic.listens(0) or self.io_apic.listens(PIT_PIN)

    def _tick(self) -> None:
        self.apic.tick()
        if self.pit.tick() and self._hears_pit():
            self._set_line(0, True)
            self._set_line(0, False)
        self.machine.loop.wake_at(self._due())

    def _set_line(self, line: int, level: bool) -> None:  # noqa: FBT001
        """Set an interrupt line of the ISA bus, or of the I/O APIC only."""
        if line < 16:
            self.pic.set_line(line, level=level)
        self.io_apic.set_line(PIT_PIN if line == 0 else line, level)

    def _write_io_apic(self, gpa: int, size: int, value: int) -> None:
        self.io_apic.write(gpa, size, value)
        self._changed()

    def _set_task_priority(self, value: int) -> None:
        self.apic.task_priority = value

    def _write_tsc(self, value: int) -> None:
        self._tsc_adjust = self._tsc_adjust + self.tsc.write(value) & MASK64

    def _adjust_tsc(self, value: int) -> None:
        self.tsc.offset += value - self._tsc_adjust
        self._tsc_adjust = value

    # -- booting -----------------------------------------------------------------------------------------

    def load(self, image: Image, command_line: str, modules: Sequence[bytes] = ()) -> None:
        """Load a multiboot program with its modules and start it. Raises ImageError if they do not fit."""
        slots = memory_slots(self.memory)
        for place, data in bios_data(slots[0][1]):
            self.machine.write(place, data)
        for segment in image.segments:
            end = segment.address + segment.size
            if not any(start <= segment.address and end <= start + size for start, size in slots):
                raise ImageError(
                    f"it needs memory at {segment.address:#x} to {end:#x}; the machine has "
                    f"{self.memory >> 20} MiB (--memory gives it more)"
                )
            self.machine.write(segment.address, segment.data)
        self.fw_cfg.set_command_line(command_line)
        taken = [(segment.address, segment.address + segment.size) for segment in image.segments]
        places = []
        for data in modules:
            start = max(to for _, to in taken) + 0xFFF & ~0xFFF
            if start + len(data) > slots[0][1]:
                raise ImageError(
                    f"its modules do not fit in {self.memory >> 20} MiB (--memory gives it more)"
                )
            self.machine.write(start, data)
            places.append((start, start + len(data)))
            taken.append(places[-1])
        address, block = boot_information(command_line, slots, taken, places)
        self.machine.write(address, block)
        self.machine.start_protected(image.entry, eax=BOOT_MAGIC, ebx=address)

    # -- running -----------------------------------------------------------------------------------------

    @property
    def instructions(self) -> int:
        """Those of the guest so far, if a limit asks for counting."""
        return self.machine.processor.instructions

    def interrupt(self) -> None:
        """Let run() end soon; from a signal handler, for instance."""
        self._interrupted = True
        self.machine.stop("interrupted")

    def run(self, limits: Limits = NO_LIMITS, progress: Callable[[], None] = lambda: None) -> Ending:
        """Run until the program ends, or a limit is reached; `progress` is called twice a second."""
        while True:
            started = self.clock.now()
            outcome = limits.run_slice(self.machine, self.seconds)
            self.seconds += self.clock.now() - started
            progress()
            ending = self._ending_of(outcome, limits)
            if ending is not None:
                return ending

    def _ending_of(self, outcome: Outcome, limits: Limits) -> Ending | None:
        """Return how the run ended; None if it continues."""
        if self._ending is not None:
            return self._ending
        if self._interrupted:
            return Ending("interrupted")
        match outcome.reason:
            case "hlt":
                return self._wait_for_interrupt(limits)
            case "seconds":
                reached = limits.seconds is not None and self.seconds >= limits.seconds
                if self._spins():
                    return Ending("endless loop")
                return Ending("seconds") if reached else None
        return Ending(outcome.reason, None, "" if outcome.detail is None else str(outcome.detail))

    def _spins(self) -> bool:
        """Return whether the program is at a jump to itself that no interrupt will end."""
        emulator = self.machine.emulator
        if self.machine.get("rflags") & FLAG_IF:
            return False
        rip = emulator.linear_rip()
        limit = MASK64 if emulator.bits() == 64 else 0xFFFFFFFF
        try:
            return any(
                emulator.page_of_code(rip - before & limit).startswith(code) for before, code in SPINNING
            )
        except FetchFault:
            return False

    def _wait_for_interrupt(self, limits: Limits) -> Ending | None:
        """Sleep until the timer is due (HLT)."""
        if not self.machine.get("rflags") & FLAG_IF:
            return Ending("halted", 0, "with interrupts disabled")
        started = self.clock.now()
        while not self.machine.interrupts_pending:
            due = self._due()
            if due == inf:
                return Ending("halted", 0, "with no interrupt to come")
            self.clock.sleep(min(max(due - self.clock.now(), 0), 0.1))
            self._tick()
            waited = self.clock.now() - started
            if self._interrupted:
                return Ending("interrupted")
            if limits.seconds is not None and self.seconds + waited >= limits.seconds:
                return Ending("seconds")
        self.seconds += self.clock.now() - started
        return None
