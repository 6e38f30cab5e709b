"""Who runs on a machine, and what its addresses are: process, symbol, mapping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ..linux.elf import ET_DYN, PIE_BASE
from ..linux.entry import ENTRY
from ..linux.guest import LinuxGuest
from ..linux.layout import DIRECT_MAP, PAGE
from ..linux.numbers import NAMES
from .symbols import NO_SYMBOLS, Symbols, read_symbols

if TYPE_CHECKING:
    from ..linux.memory import Area
    from ..linux.tasks import Process
    from ..pc.pc import Pc

__all__ = ["KERNEL", "Running", "Who"]

KERNEL = "guest kernel"
LARGEST_FILE = 1 << 28
"""Bytes of a program whose symbols are read."""


class Who(NamedTuple):
    """A process, or an address space of a bare machine: name and pid are empty and 0 then."""

    name: str
    pid: int
    cr3: int

    def __str__(self) -> str:
        return f"{self.name} {self.pid}" if self.pid else f"CR3 {self.cr3:#x}"


@dataclass(frozen=True, slots=True)
class _Program:
    """A program's symbols, and where the file is mapped."""

    symbols: Symbols
    name: str


class Running:
    """What runs on a PC, or with processes on our kernel; `data` is the program's file."""

    def __init__(self, pc: Pc | LinuxGuest, data: bytes) -> None:
        self.machine = pc.machine
        self.kernel = pc.kernel if isinstance(pc, LinuxGuest) else None
        self.calling = ""
        """The system call that is about to be made, where the run stopped at one."""
        self._programs: dict[str, _Program] = {}
        self._first = NO_SYMBOLS if self.kernel is not None else read_symbols(data)

    @property
    def who(self) -> Who:
        """Who runs now."""
        if self.kernel is not None:
            process = self.kernel.current.process
            return Who(process.name, process.pid, process.mm.pgd)
        return Who("", 0, self.machine.get("cr3"))

    @property
    def processes(self) -> list[tuple[Who, int]]:
        """The processes that ran so far, by their last names in the order of their first turns, each with how
        often its tables were loaded.
        """
        if self.kernel is None:
            return []
        loads = self.kernel.registers.loads.items()
        return [(Who(process.name, process.pid, cr3), count) for (process, cr3), count in loads]

    @property
    def symbols(self) -> Symbols:
        """The symbols of the program that runs now."""
        if self.kernel is None:
            return self._first
        return self._of(self.kernel.current.process).symbols

    @property
    def call(self) -> str:
        """What the process asked its kernel for: a system call's name; empty if there is none."""
        if self.calling:
            return self.calling
        call = None if self.kernel is None else self.kernel.current.call
        return "" if call is None else NAMES.get(call[0], f"system call {call[0]}")

    def _of(self, process: Process) -> _Program:
        known = self._programs.get(process.program)
        if known is None:
            known = self._programs[process.program] = _Program(
                _symbols_of(process.program), process.program.rpartition("/")[2]
            )
        return known

    def symbol(self, address: int) -> str:
        """Return an address of code as people read it: `main+0x12`, `busybox+0x4012`, or a number."""
        if self.kernel is not None and ENTRY <= address < ENTRY + PAGE:
            return KERNEL
        return self.symbols.text(address) or self._in_file(address) or f"{address:#x}"

    def _in_file(self, address: int) -> str | None:
        """Return where in its file an address of a mapping is."""
        if self.kernel is None:
            return None
        process = self.kernel.current.process
        area = process.mm.find(address)
        if area is None or area.file is None:
            return None
        return f"{self._of(process).name}+{address - area.start + area.offset * PAGE:#x}"

    def region(self, address: int) -> str:
        """Return what an address of data belongs to: a symbol, a mapping, or a range."""
        symbol = self.symbols.at(address)
        if symbol is not None and symbol.size:
            return symbol.name
        if self.kernel is None:
            return f"{address & -(1 << 21):#x}, 2 MiB"
        if address >= DIRECT_MAP:
            return KERNEL
        process = self.kernel.current.process
        area = process.mm.find(address)
        if area is None:
            return "nothing mapped"
        return f"{_area_name(area, process, self._of(process).name)} at {area.start:#x}"


def _area_name(area: Area, process: Process, program: str) -> str:
    if area.name:
        return f"[{area.name}]"
    if area.start == process.mm.brk_start and area.file is None:
        return "[heap]"
    if area.file is not None:
        return program
    return "shared" if area.shared is not None else "anonymous"


def _symbols_of(path: str) -> Symbols:
    """Return the symbols of a program's file; none if it cannot be read any more."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE)
    except OSError:
        return NO_SYMBOLS
    movable = data[16:18] == ET_DYN.to_bytes(2, "little")
    return read_symbols(data, PIE_BASE if movable else 0)
