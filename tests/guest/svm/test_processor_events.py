"""What the emulator does not do as a processor: flags that events push, canonical addresses, traps, NMIs."""

import pytest
from guest.svm.board import (
    CODE,
    DATA,
    GDT,
    HANDLERS,
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

from shadowmmu.x86.bits import CR0_TS, CR4_PGE, CR4_SMAP, P, U, W

RF = 1 << 16
NEVER = 1 << 63
"""Not canonical with any number of levels."""


def skipping(board: Board, length: int, *vectors: int) -> None:
    """Let handlers go on behind an instruction of that length."""
    for vector in vectors:
        board.handlers[vector] = lambda event, place: board.write_word(place, event.rip + length, board.word)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["32", "4"])
def test_faults_push_the_resume_flag_and_traps_do_not(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    skipping(board, 2, 6)
    skipping(board, 2, 13)
    skipping(board, 0, 3)
    board.execute("ud2\n mov fs, eax\n int3\n hlt", rax=0x1230)
    assert [(event.vector, event.flags & RF) for event in board.events] == [(6, RF), (13, RF), (3, 0)]


@pytest.mark.parametrize("mmu", MMUS)
def test_pushf_does_not_show_the_resume_flag(mmu: dict[str, bool]) -> None:
    board = Board("4", **mmu)
    text = """mov rax, rsp
    push {ss}
    push rax
    push {flags}
    push 8
    lea rax, [rip + next]
    push rax
    iretq
    next: pushfq
    pop rbx
    ud2
    pushfq
    pop rcx
    hlt"""
    skipping(board, 2, 6)
    board.execute(text.format(ss=16, flags=RF | 2).replace("lea rax, [rip + next]", "mov eax, offset next"))
    assert (board.get("rbx"), board.get("rcx")) == (2, 2)


@pytest.mark.parametrize("mmu", MMUS)
def test_int1_is_a_trap_whatever_its_gate(mmu: dict[str, bool]) -> None:
    board = Board("4", **mmu)
    board.handlers[1] = lambda event, place: None
    board.start(".byte 0xf1\n vmmcall", user=True)
    assert board.run().reason == "hlt"
    assert [(event.vector, event.rip) for event in board.events] == [(1, USER_CODE + 1)]


@pytest.mark.parametrize("mmu", MMUS)
def test_invpcid_runs_with_cr0_ts(mmu: dict[str, bool]) -> None:
    board = Board("4", **mmu)
    board.execute(
        f"mov rax, cr0\n or rax, {CR0_TS}\n mov cr0, rax\n mov eax, 2\n invpcid rax, [0x3000]\n hlt"
    )
    assert not board.events
    board.handlers[7] = lambda event, place: board.write_word(place, event.rip + 3)
    board.execute(f"mov rax, cr0\n or rax, {CR0_TS}\n mov cr0, rax\n movaps xmm0, xmm1\n hlt")
    assert [event.vector for event in board.events] == [7]


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize(
    ("text", "length"),
    [
        pytest.param("lgdt [0x3000]", 8, id="lgdt"),
        pytest.param("lidt [0x3000]", 8, id="lidt"),
        pytest.param("invpcid rax, [rbx]", 5, id="the descriptor of invpcid"),
        pytest.param("invpcid rcx, [0x3010]", 10, id="the address of invpcid"),
    ],
)
def test_addresses_that_are_not_canonical_fault(text: str, length: int, mmu: dict[str, bool]) -> None:
    board = Board("4", **mmu)
    skipping(board, length, 13)
    board.machine.write(DATA, b"\xff\0" + NEVER.to_bytes(8, "little"))
    board.write_word(DATA + 0x10, 0)
    board.write_word(DATA + 0x18, 1 << 47)
    board.execute(f"{text}\n hlt", rax=2, rbx=1 << 47, rcx=0)
    assert [(event.vector, event.error_code) for event in board.events] == [(13, 0)]


def test_five_levels_have_57_bits() -> None:
    board = Board("5")
    board.write_word(DATA + 0x10, 0)
    board.write_word(DATA + 0x18, 1 << 47)
    board.execute("invpcid rcx, [0x3010]\n hlt", rcx=0)
    assert not board.events


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("text", ["lldt ax", "ltr ax"])
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param({}, None, id="good"),
        pytest.param({"base": NEVER}, (13, TASK), id="base"),
        pytest.param({"kind": 0x8E}, (13, TASK), id="type"),
        pytest.param({"present": False}, (11, TASK), id="not present"),
        pytest.param({"selector": TASK | 4}, (13, TASK | 4), id="in the LDT"),
        pytest.param({"selector": 0x38}, (13, 0x38), id="beyond the GDT"),
        pytest.param({"selector": 3}, "null", id="null"),
    ],
)
def test_descriptors_of_ldt_and_tss(
    text: str, change: dict[str, int], fault: tuple[int, int] | str | None, mmu: dict[str, bool]
) -> None:
    board = Board("4", **mmu)
    skipping(board, 3, 11, 13)
    kind = change.get("kind", 0x82 if text.startswith("lldt") else 0x89)
    kind &= 0xFF if change.get("present", True) else 0x7F
    base = change.get("base", TSS)
    low = 0x67 | (base & 0xFFFFFF) << 16 | kind << 40 | (base >> 24 & 0xFF) << 56
    board.write_word(GDT + TASK, low)
    board.write_word(GDT + TASK + 8, base >> 32)
    board.execute(f"{text}\n sldt bx\n str cx\n hlt", rax=change.get("selector", TASK))
    expected = ((13, 0) if text.startswith("ltr") else None) if fault == "null" else fault
    assert [(event.vector, event.error_code) for event in board.events] == ([expected] if expected else [])
    if fault is None:
        assert board.get("rbx" if text.startswith("lldt") else "rcx") & 0xFFFF == TASK
        if text.startswith("ltr"):
            assert board.read_word(GDT + TASK) >> 40 & 0xFF == 0x8B


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["32", "pae"])
def test_table_registers_of_32_bits(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    board.machine.write(DATA, b"\x34\x12\x78\x56\x34\x92")
    board.execute(f"lidt [{DATA}]\n sidt [{DATA + 8}]\n data16 lidt [{DATA}]\n sidt [{DATA + 16}]\n hlt")
    assert board.machine.read(DATA + 8, 6) == b"\x34\x12\x78\x56\x34\x92"
    assert board.machine.read(DATA + 16, 6) == b"\x34\x12\x78\x56\x34\0"


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("stack", ["mapped", "first touched"])
def test_far_returns_at_cpl_3_use_the_users_rights(stack: str, far: bool, mmu: dict[str, bool]) -> None:
    board = Board("4", **mmu)
    place = 0x10000000
    board.map(place, DATA | P | W | U)
    frame = (USER_CODE + 0x100, USER_CS, 2, USER_STACK, USER_DS)
    for number, word in enumerate(frame):
        board.write_word(DATA + 0x40 + 8 * number, word)
    touch = f"mov rax, [{place}]\n " if stack == "mapped" else ""
    board.machine.write(USER_CODE + 0x100, b"\x0f\x01\xd9")
    text = f"{touch}mov rsp, {place + 0x40}\n {'retfq' if far else 'iretq'}"
    board.start(text, user=True, cr4=CR4_SMAP)
    assert board.run().reason == "hlt", board.events
    assert board.machine.cpl == 3


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("entry", [0, DATA | P | W])
def test_a_far_return_at_cpl_3_faults_as_a_users_access(entry: int, mmu: dict[str, bool]) -> None:
    board = Board("4", **mmu)
    board.map(0x10000000, entry)
    board.handlers[14] = lambda event, place: board.machine.stop("fault", event)
    if entry and mmu:
        pytest.skip("the emulator reads there with the rights of CPL 0")
    board.start("mov rsp, 0x10000040\n iretq", user=True)
    assert board.run().reason == "fault"
    assert [event.error_code for event in board.events] == [5 if entry else 4]


@pytest.mark.parametrize("mmu", MMUS)
def test_smap_is_on_again_after_a_far_return(mmu: dict[str, bool]) -> None:
    board = Board("4", **mmu)
    board.machine.write(USER_CODE + 0x100, b"\x0f\x01\xd9")
    for number, word in enumerate((USER_CODE + 0x100, USER_CS)):
        board.write_word(USER_STACK - 16 + 8 * number, word)
    board.start("mov rax, [rsp - 8]\n lea rsp, [rsp - 16]\n retfq", user=True, cr4=CR4_SMAP)
    assert board.run().reason == "hlt"
    board.handlers[14] = lambda event, place: board.machine.stop("fault", event)
    board.start(f"mov rax, [{DATA}]\n hlt", cr4=CR4_SMAP)
    assert board.run().reason == "fault"


@pytest.mark.parametrize("mmu", MMUS)
def test_an_nmi_waits_for_an_iret_that_exits(mmu: dict[str, bool]) -> None:
    """The frame is on a page that is touched first by IRET: an exit, but no end of the handler."""
    board = Board("4", **mmu)
    place, machine = 0x10000000, board.machine
    board.map(place, DATA | P | W)
    order: list[tuple[int, int]] = []
    for number, word in enumerate((0x1200, 8, 2, STACK, 16)):
        board.write_word(DATA + 0x40 + 8 * number, word)
    machine.write(0x1200, b"\x90\x90\xf4")

    def handler(event: Event, address: int) -> None:
        order.append((event.vector, event.rip))
        if len(order) == 1:
            machine.set("rsp", place + 0x40)
            machine.nmi()

    board.handlers[2] = handler
    board.start("nop\n hlt")
    machine.nmi()
    assert board.run().reason == "hlt"
    assert order == [(2, 0x1000), (2, 0x1200)]


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("text", ["nop", "xor eax, eax\n mov ebx, 5"])
def test_code_ends_at_the_last_address(text: str, mmu: dict[str, bool]) -> None:
    """What lies before the end runs; #GP is behind it, each time."""
    board = Board("4", **mmu)
    length = 1 if text == "nop" else 7
    end = 1 << 47
    board.map(end - 0x1000, DATA | P | W)
    board.machine.write(DATA + 0x1000 - length, b"\x90" if text == "nop" else b"\x31\xc0\xbb\5\0\0\0")
    board.handlers[13] = lambda event, place: board.write_word(place, HANDLERS + 0x180)
    board.machine.write(HANDLERS + 0x180, b"\xff\xc9\x74\x02\xff\xe6\xf4")
    board.start("jmp rsi", rsi=end - length, rcx=3, rbx=0)
    assert board.run().reason == "hlt"
    assert [(event.vector, event.error_code, event.rip) for event in board.events] == [(13, 0, end)] * 3
    assert board.get("rbx") == (0 if text == "nop" else 5)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("register", ["dr6", "dr7"])
def test_debug_registers_have_32_bits(register: str, mmu: dict[str, bool]) -> None:
    board = Board("4", **mmu)
    skipping(board, 3, 13)
    board.execute(
        f"mov {register}, rax\n mov {register}, rbx\n mov rcx, {register}\n hlt", rax=1 << 32, rbx=0x4000
    )
    assert [(event.vector, event.error_code) for event in board.events] == [(13, 0)]
    assert board.get("rcx") == (0xFFFF4FF0 if register == "dr6" else 0x400)
    assert not board.get("rflags") & 0x100


def test_general_detect_is_a_debug_exception() -> None:
    board = Board("4")
    skipping(board, 3, 1)
    board.execute("mov eax, 0x2400\n mov dr7, rax\n mov rbx, dr0\n mov rcx, dr7\n mov rdx, dr6\n hlt", rbx=7)
    assert [(event.vector, event.rip) for event in board.events] == [(1, CODE + 8)]
    assert (board.get("rbx"), board.get("rcx"), board.get("rdx")) == (7, 0x400, 0xFFFF2FF0)


def test_an_instruction_breakpoint_is_passed_with_the_resume_flag() -> None:
    board = Board("4")
    board.handlers[1] = lambda event, place: board.write_word(place + 16, event.flags | RF)
    text = "mov eax, offset here\n mov dr0, rax\n mov eax, 0x402\n mov dr7, rax\n here: mov ebx, 5\n hlt"
    board.execute(text)
    assert [(event.vector, event.flags & RF) for event in board.events] == [(1, 0)]
    assert board.get("rbx") == 5


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["32", "4"])
def test_an_nmi_waits_for_iret_though_the_handler_changes_cr4(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    order: list[int] = []

    def handler(event: Event, address: int) -> None:
        order.append(event.rip)
        if len(order) < 3:
            board.machine.nmi()
            board.machine.set("cr4", board.get("cr4") ^ CR4_PGE)

    board.handlers[2] = handler
    board.start("nop\n nop\n hlt")
    board.machine.nmi()
    assert board.run().reason == "hlt"
    assert order == [CODE] * 3
