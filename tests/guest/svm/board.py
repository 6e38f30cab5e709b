"""A guest for tests: page tables, descriptor tables, handlers and two stacks in low memory.

    0x1000 code (CPL 0)   0x2000 code (CPL 3)   0x3000, 0x4000 data for both
    0x5000 handlers, 16 bytes a vector: VMMCALL, drop the error code, IRET
    0x6000 IDT   0x7000 GDT   0x7800 TSS   0x9000 top of stack, CPL 0   0xA000 CPL 3   0xB000 IST1
    0x100000 page tables
The first 2 MiB are mapped one to one, in 4 KiB pages.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from guest.svm.assembler import asm

from shadowmmu.guest.svm.machine import Outcome, SvmMachine
from shadowmmu.guest.svm.registers import Segment
from shadowmmu.x86.bits import (
    CR0_NE,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_OSFXSR,
    CR4_PAE,
    CR4_PSE,
    EFER_NX,
    P,
    U,
    W,
)

MMUS = [
    pytest.param({}, id="shadow"),
    pytest.param({"npt": True}, id="tdp"),
    pytest.param({"npt": True, "tdp_mmu": False}, id="direct"),
]
"""Keyword arguments of a Board: shadow paging, the TDP MMU, two-dimensional paging without it."""
CODE, USER_CODE, DATA, MORE_DATA = 0x1000, 0x2000, 0x3000, 0x4000
HANDLERS, IDT, GDT, TSS, STACK, USER_STACK, IST = 0x5000, 0x6000, 0x7000, 0x7800, 0x9000, 0xA000, 0xB000
TABLES, MAPPED = 0x100000, 2 << 20
LEVELS = {"none": 0, "32": 2, "pae": 3, "4": 4, "5": 5}
WITH_ERROR = (8, 10, 11, 12, 13, 14, 17)
KERNEL_CS, KERNEL_DS, USER_DS, USER_CS, TASK = 0x08, 0x10, 0x1B, 0x23, 0x28


@dataclass
class Event:
    """What a handler found on its stack."""

    vector: int
    error_code: int | None
    rip: int
    cs: int
    flags: int
    rsp: int | None
    ss: int | None
    stack: int
    cpl: int
    cr2: int


class Board:
    """The guest in one paging mode ("none", "32", "pae", "4", "5") on one of KVM's MMUs.

    `handlers[vector]` is called with the Event and the address of the saved RIP, where IRET returns to.
    """

    def __init__(
        self,
        mode: str = "4",
        *,
        npt: bool = False,
        tdp_mmu: bool = True,
        kernel: str = "6.12.111",
        memory: int = 16 << 20,
    ) -> None:
        self.mode = mode
        self.bits = 64 if mode in ("4", "5") else 32
        self.levels = LEVELS[mode]
        self.entry_size = 4 if mode == "32" else 8
        self.machine = SvmMachine(memory, npt=npt, tdp_mmu=tdp_mmu, kernel=kernel)
        self.next_table = TABLES
        self.events: list[Event] = []
        self.handlers: dict[int, Callable[[Event, int], None]] = {}
        self.word = self.bits // 8
        self.root = self._new_table() if self.levels else 0
        if mode == "pae":
            for index in range(4):
                self.write_word(self.root + 8 * index, self._new_table() | P)
        for page in range(0, MAPPED if self.levels else 0, 0x1000):
            user = USER_CODE <= page < HANDLERS or page == USER_STACK - 0x1000
            self.map(page, page | P | W | (U if user else 0))
        self._descriptors()
        self.machine.on_vmmcall(self._called)

    # -- memory ------------------------------------------------------------------------------------------

    def _new_table(self) -> int:
        table = self.next_table
        self.next_table += 0x1000
        return table

    def read_word(self, gpa: int, size: int = 8) -> int:
        return int.from_bytes(self.machine.read(gpa, size), "little")

    def write_word(self, gpa: int, value: int, size: int = 8) -> None:
        self.machine.write(gpa, value.to_bytes(size, "little"))

    def entry(self, gva: int, level: int = 1) -> int:
        """Address of the guest's entry of that level for gva; tables on the way are made."""
        bits = 10 if self.entry_size == 4 else 9
        table = self.root
        for current in range(self.levels, 0, -1):
            place = table + (gva >> 12 + bits * (current - 1) & (1 << bits) - 1) * self.entry_size
            if current == level:
                return place
            entry = self.read_word(place, self.entry_size)
            if not entry & P:
                entry = self._new_table() | P | W | U
                self.write_word(place, entry, self.entry_size)
            table = entry & 0xFFFFFFFFF000
        raise AssertionError

    def map(self, gva: int, entry: int, level: int = 1) -> None:
        """Write a guest's entry as user space does: before the guest runs, or with a flush of its own."""
        self.write_word(self.entry(gva, level), entry, self.entry_size)

    def gpte(self, gva: int, level: int = 1) -> int:
        return self.read_word(self.entry(gva, level), self.entry_size)

    # -- descriptors -------------------------------------------------------------------------------------

    def _descriptors(self) -> None:
        code = 0x00AF9B000000FFFF if self.bits == 64 else 0x00CF9B000000FFFF
        data = 0x00CF93000000FFFF
        user = 3 << 45
        for number, value in enumerate((0, code, data, data | user, code | user)):
            self.write_word(GDT + 8 * number, value)
        low = TSS & 0xFFFFFF
        self.write_word(GDT + TASK, 0x67 | low << 16 | 0x8B << 40)
        self.write_word(GDT + TASK + 8, 0)
        if self.bits == 64:
            self.write_word(TSS + 4, STACK)
            self.write_word(TSS + 0x24, IST)
        else:
            self.write_word(TSS + 4, STACK | KERNEL_DS << 32)
        for vector in range(32):
            drop = (b"\x48" if self.bits == 64 else b"") + b"\x83\xc4" + bytes([self.word])
            leave = b"\x48\xcf" if self.bits == 64 else b"\xcf"
            stub = b"\x0f\x01\xd9" + (drop if vector in WITH_ERROR else b"") + leave
            self.machine.write(HANDLERS + 16 * vector, stub)
            self.gate(vector)

    def gate(self, vector: int, *, dpl: int = 0, ist: int = 0, present: bool = True, kind: int = 0xE) -> None:
        """An IDT entry for the handler of `vector`."""
        target = HANDLERS + 16 * vector
        low = target & 0xFFFF | KERNEL_CS << 16 | (present << 7 | dpl << 5 | kind) << 40 | ist << 32
        low |= (target >> 16 & 0xFFFF) << 48
        if self.bits == 64:
            self.write_word(IDT + 16 * vector, low)
            self.write_word(IDT + 16 * vector + 8, 0)
        else:
            self.write_word(IDT + 8 * vector, low)

    # -- running -----------------------------------------------------------------------------------------

    def start(self, text: str, *, user: bool = False, **registers: int) -> None:
        """Put code in its place and let the guest be about to run it."""
        machine = self.machine
        origin = USER_CODE if user else CODE
        machine.write(origin, asm(text, self.bits, origin))
        if self.bits == 64:
            cr4 = CR4_PAE | CR4_OSFXSR | (CR4_LA57 if self.mode == "5" else 0)
            machine.start_long(origin, self.root, rsp=STACK, cr4=registers.pop("cr4", 0) | cr4)
        else:
            machine.start_protected(origin, esp=STACK)
            if self.levels:
                machine.set("cr3", self.root)
                machine.set("cr4", CR4_PAE if self.mode == "pae" else registers.pop("cr4", CR4_PSE))
                if self.mode == "pae":
                    machine.set("efer", EFER_NX)
                machine.set("cr0", CR0_PG | CR0_WP | CR0_PE | CR0_NE | 0x10)
        machine.set_segment("gdtr", Segment(0, GDT, 0x37, 0))
        machine.set_segment("idtr", Segment(0, IDT, 32 * (16 if self.bits == 64 else 8) - 1, 0))
        machine.set_segment("tr", Segment(TASK, TSS, 0x67, 0x008B00))
        self.privilege(3 if user else 0)
        if user:
            machine.set("rsp", USER_STACK)
        for name, value in registers.items():
            machine.set(name, value)

    def privilege(self, cpl: int) -> None:
        """Flat segments for code at that CPL."""
        long = 0x200000 if self.bits == 64 else 0x400000
        code = Segment(USER_CS if cpl else KERNEL_CS, 0, 0xFFFFFFFF, 0x809B00 | long | cpl << 13)
        data = Segment(USER_DS if cpl else KERNEL_DS, 0, 0xFFFFFFFF, 0xC09300 | cpl << 13)
        for name in ("es", "ss", "ds", "fs", "gs"):
            self.machine.set_segment(name, data)
        self.machine.set_segment("cs", code, cpl=cpl)

    def run(self, seconds: float = 20) -> Outcome:
        return self.machine.run(seconds=seconds)

    def execute(self, text: str, **registers: int) -> None:
        """Run code that ends with HLT."""
        self.start(text, **registers)
        outcome = self.run()
        assert outcome.reason == "hlt", (outcome, self.events, list(self.machine.history)[-5:])

    def get(self, name: str) -> int:
        return self.machine.get(name)

    def _called(self) -> None:
        """VMMCALL: from a handler, or the end of code at CPL 3."""
        machine = self.machine
        rip = machine.get("rip") - 3
        if not HANDLERS <= rip < HANDLERS + 0x200:
            machine.stop("hlt")
            return
        vector = rip - HANDLERS >> 4
        size, stack = self.word, machine.get("rsp")
        position = stack
        error_code = None
        if vector in WITH_ERROR:
            error_code = self.read_word(position, size)
            position += size
        frame = [self.read_word(position + size * i, size) for i in range(5)]
        whole = self.bits == 64 or frame[1] & 3
        event = Event(
            vector,
            error_code,
            *frame[:3],
            frame[3] if whole else None,
            frame[4] if whole else None,
            stack,
            machine.cpl,
            machine.get("cr2"),
        )
        self.events.append(event)
        if vector in self.handlers:
            self.handlers[vector](event, position)
        else:
            machine.stop("unexpected event", event)
