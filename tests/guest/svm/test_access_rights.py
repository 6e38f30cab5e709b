"""Random rights, control bits and accesses: the guest gets what the processor's manual says, and no more.

The guest changes its own entries and flushes; the model of the processor, on a copy of the tables, says what
each access must come to.
"""

import random

import pytest
from guest.svm.assembler import asm
from guest.svm.board import CODE, TABLES, USER_CODE, Board
from guest.svm.invariants import check

import shadowmmu
from shadowmmu.host.memory import sparse_words
from shadowmmu.x86.bits import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PGE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NX,
    FAULT,
    FETCH,
    NX,
    PF_VECTOR,
    PS,
    READ,
    WRITE,
    A,
    D,
    G,
    P,
    U,
    W,
)
from shadowmmu.x86.implementation import Implementation
from shadowmmu.x86.processor import Processor

MMUS = [
    pytest.param({}, id="shadow"),
    pytest.param({"kernel": "6.1.176"}, id="shadow-6.1"),
    pytest.param({"npt": True}, id="tdp"),
    pytest.param({"npt": True, "tdp_mmu": False}, id="direct"),
]
UNICORN = Implementation(
    pdpte_accessed=False, rsvd_without_p=False, nonleaf_bit8=True, pcid=False, wide_cr0=True, efer=0x1D01
)
STUBS = {
    "set": "mov [{di}], {a}\n invlpg [{si}]",
    READ: "mov {b}, [{si}]",
    WRITE: "mov [{si}], {b}",
    FETCH: "jmp {si}",
    "cr0": "mov cr0, {a}",
    "cr3": "mov cr3, {a}",
    "cr4": "mov cr4, {a}",
    "wrmsr": "wrmsr",
}
PAGES = (0xC000, 0xD000, 0xE000, 0xF000)
BIG = 0x400000
LOW = (0x40003000, 0x40403000, 0x40801000)
HIGH = (0x8000003000, 0x7F8000003000)
OPERATIONS = 600 if shadowmmu.native else 120


class Rights:
    """A guest with a few addresses whose entries change; `limits` is what each level may be given."""

    def __init__(self, mode: str, mmu: dict[str, bool], seed: int) -> None:
        self.rng = random.Random(seed)
        self.board = board = Board(mode, **mmu)
        self.machine = machine = board.machine
        wide = board.bits == 64
        names = {"a": "rax", "b": "rbx", "di": "rdi", "si": "rsi"}
        if not wide:
            names = {key: "e" + name[1:] for key, name in names.items()}
        text = "".join(
            f".org {16 * number:#x}\n {stub.format(**names)}\n vmmcall\n"
            for number, stub in enumerate(STUBS.values())
        )
        self.offset = {key: 16 * number for number, key in enumerate(STUBS)}
        self.addresses = LOW + (HIGH if wide else ())
        for page in PAGES:
            machine.write(page, b"\x0f\x01\xd9\x90" * 1024)
        machine.write(BIG, b"\x0f\x01\xd9\x90" * (0x800000 // 4))
        self.entries: list[tuple[int, int, int, int]] = []
        for gva in self.addresses:
            board.map(gva, PAGES[0] | P | W | U)
            for level in range(1, board.levels + 1):
                if level < 5 and (level < 4 or gva in HIGH) and not (mode == "pae" and level == 3):
                    place = board.entry(gva, level)
                    self.entries.append((gva, level, place, board.read_word(place, board.entry_size)))
        board.start(text)
        machine.write(USER_CODE, asm(text, board.bits, CODE))
        machine.on_exception(self._exception)
        self.fault: tuple[int, int | None, int] | None = None
        self.words = sparse_words(16 << 20 >> 3)
        self.copy = self.words.cast("B")
        self.copy[BIG : BIG + 0x800000] = machine.read(BIG, 0x800000)

    def _exception(self, vector: int, error_code: int | None, cr2: int) -> bool:
        self.fault = (vector, error_code, cr2)
        self.machine.stop("fault")
        return True

    def do(self, what: object, *, user: bool = False, ac: bool = False, **registers: int) -> object:
        """Run a stub; the exception it ended in, if any."""
        machine = self.machine
        self.board.privilege(3 if user else 0)
        for name, value in registers.items():
            machine.set(name, value)
        machine.set("rflags", 0x40002 if ac else 2)
        machine.set("rip", (USER_CODE if user else CODE) + self.offset[what])
        self.fault = None
        assert machine.run(seconds=20).reason in ("hlt", "fault"), list(machine.history)
        return self.fault

    def expected(self, gva: int, kind: int, *, user: bool, ac: bool) -> tuple[object, bytes]:
        """The exception the processor would raise, and the tables as it leaves them."""
        machine, board = self.machine, self.board
        self.copy[TABLES : board.next_table] = machine.read(TABLES, board.next_table - TABLES)
        cpu = Processor(self.words, tlb=False, implementation=UNICORN)
        cr0, cr4 = machine.get("cr0"), machine.get("cr4")
        cpu.set_paging(
            levels=board.levels,
            cr0_wp=bool(cr0 & CR0_WP),
            efer_nx=bool(machine.get("efer") & EFER_NX),
            cr4_smep=bool(cr4 & CR4_SMEP),
            cr4_smap=bool(cr4 & CR4_SMAP),
            cr4_pse=bool(cr4 & CR4_PSE),
            maxphyaddr=40,
        )
        cpu.root, cpu.user, cpu.eflags_ac = board.root, user, ac
        hpa = cpu.access(gva, kind)
        fault = (PF_VECTOR, cpu.fault_error_code, gva) if hpa == FAULT else None
        return fault, bytes(self.copy[TABLES : board.next_table])

    # -- operations --------------------------------------------------------------------------------------

    def new_entry(self, level: int, good: int) -> int:
        rng, wide = self.rng, self.board.entry_size == 8
        if level == 1:
            entry = rng.choice(PAGES) | (G if rng.random() < 0.2 else 0)
        elif level == 2 and rng.random() < 0.35:
            entry = rng.choice((BIG, 2 * BIG)) | PS
            if rng.random() < 0.1:
                entry |= 1 << (rng.randrange(13, 20) if wide else 21)
        else:
            entry = good & ~(P | W | U | A | D)
        chances = ((P, 0.92), (W, 0.75), (U, 0.75), (A, 0.5), (D, 0.3 if level == 1 or entry & PS else 0))
        for bit, chance in chances:
            entry |= bit if rng.random() < chance else 0
        if wide:
            entry |= NX if rng.random() < 0.25 else 0
            entry |= 1 << rng.choice((40, 45, 51)) if rng.random() < 0.04 else 0
        return entry

    def change_registers(self) -> None:
        rng, machine = self.rng, self.machine
        what = rng.random()
        if what < 0.08:
            self.do("cr0", rax=CR0_PG | CR0_PE | 0x30 | rng.choice((0, CR0_WP)))
        elif what < 0.14:
            bits = rng.choice((0, CR4_SMEP)) | rng.choice((0, CR4_SMAP)) | rng.choice((0, CR4_PGE))
            self.do("cr4", rax=machine.get("cr4") & ~(CR4_SMEP | CR4_SMAP | CR4_PGE) | bits)
        elif what < 0.17 and self.board.mode != "32":
            # KVM keeps what it shadowed under the old EFER.NX, so no entry may have NX then
            for gva, _, place, good in self.entries:
                self.do("set", rdi=place, rax=good, rsi=gva)
            self.do("cr3", rax=self.board.root)
            efer = machine.get("efer") & ~EFER_NX | rng.choice((0, EFER_NX))
            self.do("wrmsr", rcx=0xC0000080, rax=efer, rdx=0)

    def step(self) -> None:
        """Change something, then access it once or more."""
        rng, board = self.rng, self.board
        self.change_registers()
        gva, level, place, good = rng.choice(self.entries)
        entry = self.new_entry(level, good) if rng.random() < 0.8 else good
        assert self.do("set", rdi=place, rax=entry, rsi=gva) is None
        if level > 1:
            self.do("cr3", rax=board.root)
        for _ in range(rng.choice((1, 1, 2, 3))):
            other = gva if rng.random() < 0.75 else rng.choice(self.addresses)
            self.access(
                other, rng.choice((READ, WRITE, WRITE, FETCH)), user=rng.random() < 0.5, ac=rng.random() < 0.3
            )

    def access(self, page: int, kind: int, *, user: bool, ac: bool) -> None:
        board, machine = self.board, self.machine
        gva = page | {READ: 0x10, WRITE: 0xFF0, FETCH: 0}[kind]
        fault, tables = self.expected(gva, kind, user=user, ac=ac)
        got = self.do(kind, user=user, ac=ac, rsi=gva, rbx=0x1122)
        if got != fault and self._is_limitation(kind, user=user, ac=ac):
            return
        assert got == fault, f"{gva:#x} {kind} user={user} ac={ac}"
        if fault is None:
            size = board.entry_size
            for level in range(board.levels, 0, -1):
                index = board.entry(gva, level) - TABLES
                if not 0 <= index < len(tables) - 8:
                    break
                new = machine.read(TABLES + index, size)
                assert new == tables[index : index + size], f"Accessed or Dirty of level {level} of {gva:#x}"
                if int.from_bytes(new, "little") & PS:
                    break

    def _is_limitation(self, kind: int, *, user: bool, ac: bool) -> bool:
        """KVM's SPTE for a write of CPL 0 under CR0.WP=0 is a supervisor's page: SMAP is lost on it."""
        machine = self.machine
        wp, smap = machine.get("cr0") & CR0_WP, machine.get("cr4") & CR4_SMAP
        return not machine.npt and not wp and bool(smap) and not user and not ac and kind != FETCH


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["32", "pae", "4", "5"])
def test_accesses_are_allowed_as_the_manual_says(mode: str, mmu: dict[str, bool]) -> None:
    rights = Rights(mode, mmu, seed=len(mode) + 7 * len(mmu))
    for _ in range(OPERATIONS):
        rights.step()
    check(rights.board)
