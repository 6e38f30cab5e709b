"""Hardware task switches and call gates outside of long mode."""

import struct

import pytest
from guest.svm.board import (
    CODE,
    DATA,
    GDT,
    IDT,
    IST,
    KERNEL_CS,
    KERNEL_DS,
    MMUS,
    STACK,
    TASK,
    TSS,
    USER_CODE,
    USER_CS,
    USER_DS,
    USER_STACK,
    Board,
    Event,
)
from guest.svm.invariants import check

from shadowmmu.guest.svm.registers import Segment
from shadowmmu.x86.bits import CR0_TS, P, U, W

OTHER, OTHER_TSS, GATE, PLACE = 0x30, 0x7900, 0x38, 0x1800
NT = 1 << 14
WIDE_TSS, NARROW_TSS, TASK_GATE, CALL_GATE = 0x89, 0x81, 0x85, 0x8C


def descriptor(base: int, limit: int, kind: int) -> int:
    return limit & 0xFFFF | (base & 0xFFFFFF) << 16 | kind << 40 | (base >> 24) << 56


def gate(selector: int, offset: int, kind: int, parameters: int = 0) -> int:
    return offset & 0xFFFF | selector << 16 | parameters << 32 | kind << 40 | (offset >> 16) << 48


def write_task(
    board: Board, text: bytes, *, cr3: int | None = None, flags: int = 2, **selectors: int
) -> None:
    """Another task at PLACE with its registers in OTHER_TSS, by OTHER or through GATE."""
    board.machine.write(PLACE, text)
    names = ("es", "cs", "ss", "ds", "fs", "gs", "ldt")
    values = [selectors.get(name, KERNEL_CS if name == "cs" else KERNEL_DS) for name in names[:6]]
    state = (board.root if cr3 is None else cr3, PLACE, flags, *range(0xA0, 0xA4), IST, *range(0xA5, 0xA8))
    board.machine.write(OTHER_TSS, struct.pack("<7I", 0, STACK, KERNEL_DS, 0, 0, 0, 0))
    board.machine.write(OTHER_TSS + 0x1C, struct.pack("<18I", *state, *values, selectors.get("ldt", 0)))
    board.write_word(TSS + 0x1C, board.root, 4)
    board.write_word(GDT + OTHER, descriptor(OTHER_TSS, 0x67, WIDE_TSS))
    board.write_word(GDT + GATE, gate(OTHER, 0, TASK_GATE))


def execute(board: Board, text: str, **registers: int) -> None:
    board.start(text, **registers)
    board.machine.set_segment("gdtr", Segment(0, GDT, 0x47, 0))
    board.handlers.setdefault(10, lambda event, place: board.machine.stop("fault", event))
    board.handlers.setdefault(13, lambda event, place: board.machine.stop("fault", event))
    outcome = board.run()
    assert outcome.reason in ("hlt", "fault"), (outcome, board.machine.history[-4:])


def kinds(board: Board) -> tuple[int, int]:
    """Types of the two TSSs in the GDT."""
    return tuple(board.read_word(GDT + place) >> 40 & 0xFF for place in (TASK, OTHER))


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["none", "32", "pae"])
@pytest.mark.parametrize("selector", [OTHER, GATE])
def test_jmp_goes_on_in_another_task(selector: int, mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    write_task(board, b"\x0f\x20\xc3\xf4")  # mov ebx, cr0; hlt
    execute(board, f"jmp {selector:#x}, 0\n nop", rax=0x11, rdi=0x77)
    assert board.get("rip") == PLACE + 4
    assert [board.get(name) for name in ("rax", "rdx", "rsp", "rdi")] == [0xA0, 0xA2, IST, 0xA7]
    assert board.get("rbx") & CR0_TS
    assert kinds(board) == (0x89, 0x8B)
    saved = struct.unpack("<10I", board.machine.read(TSS + 0x20, 40))
    assert saved == (CODE + 7, 2, 0x11, 0, 0, 0, STACK, 0, 0, 0x77)
    assert board.machine.get_segment("tr").selector == OTHER
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["none", "32", "pae"])
def test_iret_returns_to_the_task_that_called(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    write_task(
        board, b"\x9c\x5b\x89\x1d\x00\x30\x00\x00\xcf\xeb\xf5"
    )  # pushf; pop ebx; mov [DATA], ebx; iret; jmp
    execute(board, f"call {OTHER:#x}, 0\n mov esi, 5\n call {OTHER:#x}, 0\n hlt", rax=0x11)
    assert board.get("rip") == CODE + 20
    assert (board.get("rax"), board.get("rsi")) == (0x11, 5)
    assert board.read_word(DATA, 4) == 2 | NT
    assert board.read_word(OTHER_TSS, 2) == TASK
    assert kinds(board) == (0x8B, 0x89)
    assert not board.get("rflags") & NT


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["32", "pae"])
def test_an_exception_starts_a_task(mode: str, mmu: dict[str, bool]) -> None:
    """Its error code is on the new task's stack."""
    board = Board(mode, **mmu)
    write_task(board, b"\x58\xf4")  # pop eax; hlt
    board.write_word(IDT + 8 * 14, gate(OTHER, 0, TASK_GATE))
    execute(board, "mov dword ptr [0x20001234], 1")
    assert board.get("rip") == PLACE + 2
    assert (board.get("rax"), board.get("cr2")) == (2, 0x20001234)
    assert board.read_word(TSS + 0x20, 4) == CODE
    assert board.read_word(TSS + 0x24, 4) & 1 << 16, "a fault: RF"


@pytest.mark.parametrize("mmu", MMUS)
def test_an_int_starts_a_task_and_iret_ends_it(mmu: dict[str, bool]) -> None:
    board = Board("32", **mmu)
    write_task(board, b"\xcf")
    board.write_word(IDT + 8 * 5, gate(OTHER, 0, TASK_GATE))
    execute(board, "int 5\n mov esi, 6\n hlt")
    assert board.get("rsi") == 6


@pytest.mark.parametrize("mmu", MMUS)
def test_the_new_tasks_tables_are_the_guests(mmu: dict[str, bool]) -> None:
    """Its CR3 is a guest's address; it is never the processor's."""
    board = Board("32", **mmu)
    first = board.root
    board.root = board._new_table()
    for page in range(0, 0x20000, 0x1000):
        board.map(page, (page if page != DATA else DATA + 0x1000) | P | W)
    second, board.root = board.root, first
    board.write_word(DATA, 0xAAAA)
    board.write_word(DATA + 0x1000, 0xBBBB)
    write_task(board, b"\xa1\x00\x30\x00\x00\xf4", cr3=second)  # mov eax, [DATA]; hlt
    execute(board, f"jmp {OTHER:#x}, 0")
    assert (board.get("rax"), board.get("cr3")) == (0xBBBB, second)
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
def test_a_task_without_tables_is_shut_down(mmu: dict[str, bool]) -> None:
    board = Board("32", **mmu)
    write_task(board, b"\xf4", cr3=0x7FFFF000)
    board.start(f"jmp {OTHER:#x}, 0")
    assert board.run().reason == ("emulation" if mmu else "triple fault")


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize(
    ("text", "change", "vector", "error_code"),
    [
        pytest.param("jmp 0x30, 0", {GDT + OTHER: descriptor(OTHER_TSS, 0x67, 0x8B)}, 13, OTHER, id="busy"),
        pytest.param("jmp 0x30, 0", {GDT + OTHER: descriptor(OTHER_TSS, 0x66, 0x89)}, 10, OTHER, id="short"),
        pytest.param("jmp 0x30, 0", {GDT + OTHER: descriptor(OTHER_TSS, 0x67, 0x09)}, 11, OTHER, id="absent"),
        pytest.param("jmp 0x30, 0", {GDT + OTHER: descriptor(OTHER_TSS, 0x67, 0x82)}, 13, OTHER, id="an LDT"),
        pytest.param("jmp 0x38, 0", {GDT + GATE: gate(KERNEL_DS, 0, TASK_GATE)}, 13, KERNEL_DS, id="no TSS"),
        pytest.param("jmp 0x78, 0", {}, 13, 0x78, id="beyond the GDT"),
        pytest.param("jmp 0x30, 0", {OTHER_TSS + 0x4C: KERNEL_DS}, 10, KERNEL_DS, id="CS of data"),
        pytest.param("jmp 0x30, 0", {OTHER_TSS + 0x50: KERNEL_CS}, 10, KERNEL_CS, id="SS of code"),
        pytest.param("jmp 0x30, 0", {OTHER_TSS + 0x60: KERNEL_DS}, 10, KERNEL_DS, id="no LDT"),
        pytest.param("mov edx, 0x4002\n push edx\n popf\n iret", {}, 10, KERNEL_DS, id="back to no TSS"),
    ],
)
def test_bad_tasks_fault(
    text: str, change: dict[int, int], vector: int, error_code: int, mmu: dict[str, bool]
) -> None:
    board = Board("32", **mmu)
    write_task(board, b"\xf4")
    board.write_word(TSS, KERNEL_DS, 2)
    for place, value in change.items():
        board.write_word(place, value, 8 if place < OTHER_TSS else 4)
    for number in (10, 11, 13):
        board.handlers[number] = lambda event, place: board.machine.stop("fault", event)
    execute(board, text)
    assert [(event.vector, event.error_code) for event in board.events] == [(vector, error_code)]


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["32", "pae"])
def test_a_call_gate_leads_to_the_kernel_and_back(mode: str, mmu: dict[str, bool]) -> None:
    """Two parameters are copied to its stack; RET drops them on both."""
    board = Board(mode, **mmu)
    text = b"\x8b\x44\x24\x08\x8b\x5c\x24\x0c\xca\x08\x00"  # mov eax, [esp+8]; mov ebx, [esp+12]; retf 8
    board.machine.write(PLACE, text)
    board.write_word(GDT + GATE, gate(KERNEL_CS, PLACE, CALL_GATE | 0x60, 2))
    board.start(f"push 7\n push 6\n call {GATE:#x}, 0\n mov esi, esp\n vmmcall", user=True)
    board.machine.set_segment("gdtr", Segment(0, GDT, 0x47, 0))
    assert board.run().reason == "hlt", board.events
    assert (board.get("rax"), board.get("rbx"), board.get("rsi")) == (6, 7, USER_STACK)
    assert board.machine.cpl == 3


@pytest.mark.parametrize("mmu", MMUS)
def test_a_jmp_through_a_call_gate_and_a_pointer_in_memory(mmu: dict[str, bool]) -> None:
    board = Board("32", **mmu)
    board.machine.write(PLACE, b"\xf4")
    board.write_word(GDT + GATE, gate(KERNEL_CS, PLACE, CALL_GATE))
    board.write_word(DATA + 4, GATE, 2)
    execute(board, f"jmp fword ptr [{DATA}]")
    assert board.get("rip") == PLACE + 1


@pytest.mark.parametrize("mmu", MMUS)
def test_a_call_gate_needs_the_right(mmu: dict[str, bool]) -> None:
    board = Board("32", **mmu)
    board.write_word(GDT + GATE, gate(KERNEL_CS, PLACE, CALL_GATE))
    board.handlers[13] = lambda event, place: board.machine.stop("fault", event)
    board.start(f"call {GATE:#x}, 0", user=True)
    board.machine.set_segment("gdtr", Segment(0, GDT, 0x47, 0))
    assert board.run().reason == "fault"
    assert board.events[-1].error_code == GATE


@pytest.mark.parametrize("mmu", MMUS)
def test_the_trap_flag_that_iret_restores_is_the_guests(mmu: dict[str, bool]) -> None:
    board = Board("32", **mmu)
    events: list[Event] = []
    board.handlers[1] = lambda event, place: (events.append(event), board.write_word(place + 8, 2, 4))[0]
    execute(board, "push 0x102\n push 8\n push offset next\n iret\n next: nop\n nop\n hlt")
    assert [event.rip - CODE for event in events] == [len(b"\x68\2\1\0\0\x6a\x08\x68\0\0\0\0\xcf") + 1]


def test_user_code_far_jumps_within_its_segment() -> None:
    board = Board("32")
    board.start(
        f"jmp {USER_CS:#x}, offset next\n next: mov eax, {USER_DS}\n mov fs, eax\n vmmcall", user=True
    )
    assert board.run().reason == "hlt"
    assert board.get("rip") < USER_CODE + 0x20


def test_kvm_does_not_emulate_a_far_pointer_to_a_task() -> None:
    """Its emulator has far jumps to code segments only (X86_TRANSFER_CALL_JMP, emulate.c)."""
    board = Board("32")
    write_task(board, b"\xf4")
    pointer = (OTHER << 32).to_bytes(8, "little")
    board.machine.on_mmio(
        0x8000000, 8, read=lambda gpa, size: int.from_bytes(pointer[gpa & 7 :][:size], "little")
    )
    board.map(0x10000000, 0x8000000 | P | W)
    board.start("jmp fword ptr [0x10000000]\n vmmcall")
    outcome = board.run()
    assert (outcome.reason, str(outcome.detail)) == (
        "emulation",
        f"instruction at {CODE:#x} cannot be emulated",
    )


@pytest.mark.parametrize("mmu", MMUS)
def test_a_task_of_virtual_8086_mode(mmu: dict[str, bool]) -> None:
    """Segments are those of real mode, CPL 3; its #UD is for the handler in protected mode."""
    board = Board("32", **mmu)
    for page in range(0, 0x10000, 0x1000):
        board.map(page, page | P | W | U)
    selectors = {"es": 0, "cs": 0x100, "ss": 0x900, "ds": 0x300, "fs": 0, "gs": 0}
    write_task(board, b"\xa1\x10\x00\x0f\x0b", flags=0x20002, **selectors)  # mov ax, [0x10]; ud2
    board.write_word(OTHER_TSS + 0x20, PLACE - 0x1000, 4)
    board.write_word(DATA + 0x10, 0x1234, 2)
    board.handlers[6] = lambda event, place: board.machine.stop("hlt")
    execute(board, f"jmp {OTHER:#x}, 0")
    (event,) = board.events
    assert (event.cs, event.rip, event.flags >> 17 & 1) == (0x100, PLACE - 0x1000 + 3, 1)
    assert board.get("rax") & 0xFFFF == 0x1234
