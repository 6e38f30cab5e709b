"""Points of a program's run: an instruction, an exit, a system call, an event, an address that is touched."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ...kvm.tracepoints.event import Event
from ...kvm.tracepoints.exits import PageFault
from ...kvm.tracepoints.tracer import TRACEPOINTS
from ...x86.bits import MASK64
from ..linux.numbers import NAMES
from ..play.guest_walk import guest_walk
from ..svm.interrupts import PF
from ..svm.machine import SvmMachine
from ..svm.registers import RAX
from .entries import after_exits
from .running import Running

__all__ = ["Point", "PointError", "arm", "parse_point"]

REASON = "point"
"""Why the machine stops there."""
_NUMBERED = re.compile(r"(exit|gva):(0[xX][0-9a-fA-F]+|\d+)(?:#(\d+))?")
_NAMED = re.compile(r"(syscall|event):(\w+)(?:#(\d+))?")
_SYMBOL = re.compile(r"([^\s:+]+)(?:\+(0[xX][0-9a-fA-F]+|\d+))?")
FORMS = (
    "0x401000, main, main+0x10, exit:N, syscall:mmap, syscall:mmap#3, event:kvm_mmu_sync_page or gva:0x400000"
)


class PointError(ValueError):
    """A point that cannot be; the message says what can."""


@dataclass(frozen=True, slots=True)
class Point:
    """Where a run stops.

    kind    "rip", "symbol", "exit", "syscall", "event" or "gva"
    value   an address; of an exit its number; of a symbol the offset from it
    name    of the symbol, system call or event
    count   which time it is reached: 1 is the first
    """

    kind: str
    value: int = 0
    name: str = ""
    count: int = 1

    def __str__(self) -> str:
        number = f"#{self.count}" if self.count > 1 else ""
        match self.kind:
            case "rip":
                return f"{self.value:#x}"
            case "symbol":
                return f"{self.name}+{self.value:#x}" if self.value else self.name
            case "exit":
                return f"exit:{self.value}"
            case "gva":
                return f"gva:{self.value:#x}{number}"
        return f"{self.kind}:{self.name}{number}"


def parse_point(text: str) -> Point:
    """Return the point that a text names. Raises PointError."""
    if match := _NUMBERED.fullmatch(text):
        value = int(match[2], 0)
        if not value <= MASK64 or (match[1] == "exit" and (not value or match[3])):
            raise PointError(f"{text!r}: exits are numbered from 1, addresses have 64 bits")
        return Point(match[1], value, count=_count(text, match[3]))
    if match := _NAMED.fullmatch(text):
        kind, name, count = match[1], match[2], _count(text, match[3])
        known = TRACEPOINTS if kind == "event" else NAMES.values()
        if name not in known:
            raise PointError(f"{text!r}: {kind} {name} does not exist{_like(name, known)}")
        return Point(kind, 0, name, count)
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", text):
        return Point("rip", int(text, 16))
    if (match := _SYMBOL.fullmatch(text)) and not match[1][0].isdigit():
        return Point("symbol", int(match[2] or "0", 0), match[1])
    raise PointError(f"{text!r} must be a point: {FORMS}")


def _count(text: str, number: str | None) -> int:
    if number is not None and not int(number):
        raise PointError(f"{text!r}: the first time is #1")
    return int(number or 1)


def _like(name: str, known: object) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), 1)  # type: ignore[call-overload]
    return f"; do you mean {close[0]}?" if close else ""


def arm(point: Point, running: Running, reached: Callable[[], None]) -> None:
    """Call `reached` when a program that has not started yet is at a point, then stop the machine.

    At an instruction and at a system call the guest is about to execute it, at a page fault KVM is about to
    handle it; of exits and events KVM is done with the exit, and the guest is about to continue. Raises
    PointError.
    """
    machine = running.machine
    done = False

    def here() -> None:
        nonlocal done
        if not done:
            done = True
            reached()
        machine.stop(REASON)

    match point.kind:
        case "rip" | "symbol":
            machine.processor.break_at(_address(point, running), partial(_at_instruction, machine, here))
        case "syscall":
            _at_call(point, running, here)
        case "exit":
            after_exits(machine, lambda: here() if machine.exits.total() >= point.value else None)
        case "event":
            left = _counted(machine, point.name, point.count)
            after_exits(machine, lambda: here() if left() <= 0 else None)
        case _:
            _at_touch(machine, point, here)


def _address(point: Point, running: Running) -> int:
    if point.kind == "rip":
        return point.value
    symbols = running.symbols
    address = symbols.address(point.name)
    if address is not None:
        return address + point.value
    if not len(symbols):
        raise PointError(f"{point}: the program has no symbols (it is stripped); give an address, 0x401000")
    like = ", ".join(symbols.like(point.name))
    raise PointError(f"{point}: the program has no such symbol{f'; do you mean {like}?' if like else ''}")


def _at_instruction(machine: SvmMachine, here: Callable[[], None]) -> None:
    machine.switch.note_state()
    here()
    machine.processor.stop()


def _at_call(point: Point, running: Running, here: Callable[[], None]) -> None:
    """Watch the system calls of a Linux program."""
    if running.kernel is None:
        raise PointError(f"{point}: only Linux programs have system calls with names; give an address")
    calls, before = running.machine.system_calls, running.machine.system_calls.syscall
    number = next(number for number, name in NAMES.items() if name == point.name)
    q, left = running.machine.processor.q, point.count

    def called() -> None:
        nonlocal left
        if q[RAX] & 0xFFFFFFFF == number:
            left -= 1
            if left <= 0:
                running.calling = point.name
                here()
                return
        if before is not None:
            before()

    calls.syscall = called


def _counted(machine: SvmMachine, name: str, count: int) -> Callable[[], int]:
    """Return what says how often an event has still to fire."""
    left = count

    def heard(event: Event) -> None:
        nonlocal left
        left -= 1

    machine.kvm.tracer.add(heard, name)
    return lambda: left


def _at_touch(machine: SvmMachine, point: Point, here: Callable[[], None]) -> None:
    """Watch the page faults of an address; with nested paging those that the guest gets, too."""
    left = point.count

    def touched() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            here()

    def heard(event: Event) -> None:
        if _touches(machine, point.value, event):
            touched()

    def raised(vector: int, error_code: int | None, cr2: int) -> bool:
        if vector == PF and cr2 >> 12 == point.value >> 12:
            touched()
        return left <= 0 or (before is not None and before(vector, error_code, cr2))

    machine.kvm.tracer.add(heard, "kvm_page_fault")
    before = machine.on_exception(raised) if machine.npt else None


def _touches(machine: SvmMachine, gva: int, event: Event) -> bool:
    """Return whether a page fault is one of the page at `gva`, of an access of the guest."""
    assert isinstance(event, PageFault)
    address = gva
    if machine.npt:
        gpa = guest_walk(machine.machine, machine.vcpu, gva)[1]
        if gpa is None:
            return False
        address = gpa
    return event.fault_address >> 12 == address >> 12
