"""What KVM emulates does what the processor does: each instruction on a page table and on plain memory."""

import random

import pytest
from guest.svm.board import DATA, MORE_DATA, Board
from guest.svm.invariants import check

from shadowmmu.x86.bits import P, W

FLAGS = 0x8D5
OPERANDS = {
    "mov [{m}], {a}": ("8", "16", "32", "64"),
    "mov dword ptr [{m}], 0x12345678": ("32",),
    "mov qword ptr [{m}], -5": ("64",),
    "mov byte ptr [{m}], 0x80": ("8",),
    "xchg [{m}], {a}": ("8", "16", "32", "64"),
    "add [{m}], {a}": ("8", "16", "32", "64"),
    "adc [{m}], {a}": ("32", "64"),
    "sub [{m}], {a}": ("8", "32", "64"),
    "sbb [{m}], {a}": ("16", "64"),
    "and [{m}], {a}": ("32", "64"),
    "or [{m}], {a}": ("8", "64"),
    "xor [{m}], {a}": ("64",),
    "lock or dword ptr [{m}], -2": ("32",),
    "inc {p} [{m}]": ("8", "32", "64"),
    "dec {p} [{m}]": ("16", "64"),
    "not {p} [{m}]": ("32", "64"),
    "neg {p} [{m}]": ("8", "64"),
    "shl {p} [{m}], 3": ("32", "64"),
    "shr {p} [{m}], 1": ("8", "64"),
    "sar {p} [{m}], 5": ("16", "64"),
    "rol {p} [{m}], 3": ("8", "32", "64"),
    "ror {p} [{m}], 1": ("16", "32", "64"),
    "pop qword ptr [{m}]": ("64",),
    "lock xadd [{m}], {a}": ("8", "32", "64"),
    "lock bts [{m}], {a}": ("32", "64"),
    "btr {p} [{m}], 5": ("32", "64"),
    "btc {p} [{m}], 31": ("32", "64"),
    "lock cmpxchg [{m}], {c}": ("8", "32", "64"),
    "lock cmpxchg8b [{m}]": ("64",),
    "lock cmpxchg16b [{m}]": ("64",),
    "setc [{m}]": ("8",),
    "setg [{m}]": ("8",),
    "stosb": ("8",),
    "stosq": ("64",),
    "rep stosd": ("32",),
    "rep movsq": ("64",),
    "movsb": ("8",),
    "movups [{m}], xmm1": ("64",),
    "movntdq [{m}], xmm1": ("64",),
    "movq [{m}], xmm1": ("64",),
    "movnti [{m}], {a}": ("32", "64"),
    "push {a}": ("64",),
}
A = {"8": "bl", "16": "bx", "32": "ebx", "64": "rbx"}
C = {"8": "cl", "16": "cx", "32": "ecx", "64": "rcx"}
SIZES = {"8": "byte ptr", "16": "word ptr", "32": "dword ptr", "64": "qword ptr"}
CASES = [(text, size) for text, sizes in OPERANDS.items() for size in sizes]


def outcome(board: Board, page: int, text: str, seed: int) -> tuple[object, ...]:
    """Registers, flags and memory after the instruction with its operand in the page."""
    rng = random.Random(seed)
    board.machine.write(page + 0x800, rng.randbytes(0x100))
    board.machine.write(DATA, rng.randbytes(0x80))
    names = ("rax", "rbx", "rcx", "rdx")
    values = {name: rng.choice((rng.getrandbits(64), rng.getrandbits(5))) for name in names}
    if text.startswith("rep"):
        values["rcx"] = 4
    if "bts" in text:
        values["rbx"] = rng.randrange(-64, 64) & (1 << 64) - 1
    if "cmpxchg" in text and seed & 1:
        old = board.read_word(page + 0x820)
        values["rax"] = (
            old & 0xFFFFFFFF if "ecx" in text else old
        )  # the emulator clears the rest, equal or not
        values["rdx"] = old >> 32
    board.start(f"{text}\n vmmcall", **values, rdi=page + 0x820, rsi=DATA, rflags=rng.choice((2, 3, 0x8D7)))
    board.machine.processor.set_xmm(1, rng.getrandbits(128))
    if text.startswith("pop"):
        board.machine.set("rsp", DATA + 0x40)
    if text.startswith("push"):
        board.machine.set("rsp", page + 0x828)
    assert board.run().reason == "hlt", board.machine.history
    registers = tuple(board.get(name) for name in names)
    pointers = tuple(board.get(name) - page for name in ("rdi", "rsp") if board.get(name) >> 12 == page >> 12)
    return (*registers, *pointers, board.get("rflags") & FLAGS, board.machine.read(page + 0x800, 0x100))


@pytest.mark.parametrize(("text", "size"), CASES)
def test_an_instruction_does_the_same_on_a_page_table(text: str, size: str) -> None:
    board = Board("4")
    text = text.format(m="rdi", a=A[size], c=C[size], p=SIZES[size])
    table = board.entry(DATA, 2) & ~0xFFF
    for gva, page in ((0x10000000, table), (0x10001000, MORE_DATA)):
        board.map(gva, page | P | W)
    board.map(table, table | P | W)
    for seed in range(4):
        emulated = board.machine.vcpu.stat.insn_emulation
        here = outcome(board, table, text, seed)
        assert board.machine.vcpu.stat.insn_emulation > emulated, "the write was not emulated"
        board.machine.write(table + 0x800, bytes(0x100))
        assert here == outcome(board, MORE_DATA, text, seed)
    check(board)


@pytest.mark.parametrize("text", ["fnsave [rdi]", "fxsave [rdi]", "sgdt [rdi]", "enter 16, 0"])
def test_what_is_not_emulated_runs_alone(text: str) -> None:
    """KVM gives up the shadow of the table; the instruction then runs as it is."""
    board = Board("4")
    table = board.entry(DATA, 2) & ~0xFFF
    board.map(table, table | P | W)
    board.map(0x10000000, DATA | P | W)
    board.start(f"mov rax, [{DATA}]\n {text}\n vmmcall", rdi=table + 0x800, rsp=table + 0x900, rbp=5)
    assert board.run().reason == "hlt"
    assert any(board.machine.read(table + 0x800, 0x100))
    board.machine.write(table + 0x800, bytes(0x100))
    check(board)


def test_what_is_not_emulated_is_stepped_where_it_maps_itself() -> None:
    """The table maps the page it is in: to give up its shadow would not end, so it is written to once."""
    board = Board("4")
    directory = board.entry(0x10000000, 2) & ~0xFFF
    board.map(0x10000000, directory | P | W)
    board.start(f"mov rax, [{DATA}]\n fninit\n fnstcw [rdi]\n vmmcall", rdi=0x10000E00)
    assert board.run().reason == "hlt"
    assert board.read_word(directory | 0xE00, 2) == 0x37F
    assert not board.machine.exits[0x41], "a step of its own is no exit of KVM's"
    assert not board.get("rflags") & 0x100
    check(board)
