"""Exceptions and interrupts reach the guest's handlers through its IDT, stacks and tables."""

import pytest
from guest.svm.board import (
    CODE,
    DATA,
    HANDLERS,
    IDT,
    IST,
    KERNEL_CS,
    KERNEL_DS,
    MMUS,
    MORE_DATA,
    STACK,
    TSS,
    USER_CODE,
    USER_CS,
    USER_DS,
    USER_STACK,
    Board,
    Event,
)
from guest.svm.invariants import check

from shadowmmu.x86.bits import P, U, W

ALL = ["none", "32", "pae", "4", "5"]
PAGING = ["32", "pae", "4", "5"]
NOWHERE = 0x30000000


def skip_bytes(board: Board, count: int) -> "callable":
    def handler(event: Event, place: int) -> None:
        board.write_word(place, event.rip + count, board.word)

    return handler


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ALL)
def test_an_undefined_instruction(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    board.handlers[6] = skip_bytes(board, 2)
    board.execute("mov ebx, 7\n ud2\n add ebx, 1\n hlt")
    (event,) = board.events
    assert (event.vector, event.error_code, event.rip, event.cs) == (6, None, CODE + 5, KERNEL_CS)
    assert board.get("rbx") == 8
    assert board.get("rsp") == STACK
    assert event.flags & 0x202 == 2
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", PAGING)
def test_a_page_fault_of_the_guest_has_error_code_and_cr2(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)

    def repair(event: Event, place: int) -> None:
        board.machine.vcpu.cpu.flush_all()
        board.map(NOWHERE, DATA | P | W)

    board.handlers[14] = repair
    board.map(NOWHERE + 0x1000, 0)
    board.execute(f"mov esi, {NOWHERE + 8:#x}\n mov dword ptr [esi], 0x1234\n mov ebx, [esi]\n hlt")
    (event,) = board.events
    assert (event.vector, event.error_code, event.cr2, event.rip) == (14, 2, NOWHERE + 8, CODE + 5)
    assert board.get("rbx") == 0x1234
    assert board.read_word(DATA + 8, 4) == 0x1234
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", PAGING)
def test_a_fault_at_cpl_3_switches_stacks_and_returns(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    board.handlers[14] = skip_bytes(board, 3 if board.bits == 64 else 2)
    text = "mov ebx, [esi]\n mov ecx, 5\n vmmcall"
    board.start(text, user=True, rsi=DATA)
    board.map(DATA, DATA | P | W)
    assert board.run().reason == "hlt"
    (event,) = board.events
    assert (event.error_code, event.cr2, event.rip, event.cs) == (5, DATA, USER_CODE, USER_CS)
    assert (event.rsp, event.ss, event.cpl) == (USER_STACK, USER_DS, 0)
    assert STACK - 64 < event.stack < STACK
    assert (board.get("rcx"), board.machine.cpl, board.get("rsp")) == (5, 3, USER_STACK)
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["32", "4"])
def test_software_interrupts_need_the_right(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    board.gate(3, dpl=3)
    board.handlers[3] = lambda event, place: None
    board.handlers[13] = skip_bytes(board, 2)
    board.start("int3\n int 5\n int 3\n vmmcall", user=True)
    assert board.run().reason == "hlt"
    assert [(event.vector, event.error_code, event.rip) for event in board.events] == [
        (3, None, USER_CODE + 1),
        (13, 5 * 8 + 2, USER_CODE + 1),
        (3, None, USER_CODE + 4),
    ]


@pytest.mark.parametrize("mmu", MMUS)
def test_an_interrupt_stack_table_entry_is_the_stack(mmu: dict[str, bool]) -> None:
    board = Board("4", **mmu)
    board.gate(6, ist=1)
    board.handlers[6] = skip_bytes(board, 2)
    board.execute("sub rsp, 24\n ud2\n hlt")
    (event,) = board.events
    assert event.stack == IST - 40
    assert event.rsp == STACK - 24
    assert board.get("rsp") == STACK - 24


def test_frames_are_aligned_in_long_mode() -> None:
    board = Board("4")
    board.handlers[6] = skip_bytes(board, 2)
    board.execute("sub rsp, 3\n ud2\n hlt")
    assert board.events[0].stack == (STACK - 3 & ~15) - 40
    assert board.get("rsp") == STACK - 3


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ALL)
def test_an_external_interrupt_waits_for_the_flag(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    board.handlers[20] = lambda event, place: None
    board.start("mov ebx, 1\n cpuid\n mov esi, 3\n sti\n nop\n xor eax, eax\n cpuid\n hlt")
    board.machine.interrupt(20)
    assert board.run().reason == "hlt"
    (event,) = board.events
    assert event.vector == 20
    assert event.flags & 0x200
    assert board.get("rsi") == 3
    assert not board.machine.interrupts_pending


def test_an_interrupt_ends_hlt() -> None:
    board = Board("4")
    board.handlers[21] = lambda event, place: None
    board.start("sti\n hlt\n mov ebx, 9\n hlt")
    assert board.run().reason == "hlt"
    board.machine.interrupt(21)
    assert board.run().reason == "hlt"
    assert board.get("rbx") == 9
    assert board.events[0].rip == CODE + 2


@pytest.mark.parametrize("mode", ["32", "4"])
def test_a_loop_without_exits_takes_interrupts(mode: str) -> None:
    board = Board(mode)
    board.handlers[22] = lambda event, place: board.machine.set("rbx", 1)
    board.start("sti\n xor ebx, ebx\nagain: test ebx, ebx\n jz again\n hlt")
    board.machine.interrupt(22)
    assert board.run(5).reason == "hlt"


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["none", "32", "pae", "4"])
def test_a_fault_on_the_way_to_a_handler_is_a_double_fault(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    board.gate(14, present=False)
    board.gate(13, present=False)
    board.handlers[8] = lambda event, place: board.machine.stop("double fault")
    board.start("mov eax, 0x1230\n mov ds, eax\n hlt")
    assert board.run().reason == "double fault"
    (event,) = board.events
    assert (event.vector, event.error_code) == (8, 0)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["none", "32", "pae", "4"])
def test_a_fault_on_the_way_to_the_double_fault_is_a_triple_fault(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    for vector in (8, 11, 13):
        board.gate(vector, present=False)
    board.start("mov eax, 0x1230\n mov ds, eax\n hlt")
    assert board.run().reason == "triple fault"
    assert not board.events


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", PAGING)
def test_the_guest_cannot_push_the_frame(mode: str, mmu: dict[str, bool]) -> None:
    """A #PF whose own stack is not mapped: #DF, on a stack of its own in long mode, else a triple fault.

    CR2 is of the second fault; KVM, which merges them when it shadows, leaves that of the first.
    """
    board = Board(mode, **mmu)
    if board.bits == 64:
        board.gate(8, ist=1)
    board.handlers[8] = lambda event, place: board.machine.stop("double fault")
    board.start(f"mov esp, {NOWHERE + 0x800:#x}\n mov eax, [{NOWHERE:#x}]\n hlt")
    outcome = board.run()
    assert outcome.reason == ("double fault" if board.bits == 64 else "triple fault")
    if board.bits == 64:
        assert board.get("cr2") == (NOWHERE + 0x7D0 if board.machine.npt else NOWHERE)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", PAGING)
def test_delivery_walks_the_tables(mode: str, mmu: dict[str, bool]) -> None:
    """IDT, GDT, TSS and stack are first touched by a delivery, which faults into KVM like any access."""
    board = Board(mode, **mmu)
    for page in (IDT, TSS & ~0xFFF, HANDLERS, STACK - 0x1000):
        assert not board.gpte(page) & 0x20
    board.handlers[6] = skip_bytes(board, 2)
    board.start("ud2\n vmmcall", user=True)
    assert board.run().reason == "hlt"
    for page in (IDT, TSS & ~0xFFF, HANDLERS, STACK - 0x1000):
        assert board.gpte(page) & 0x20
    assert board.gpte(STACK - 0x1000) & 0x40
    check(board)


@pytest.mark.parametrize("mode", ["4", "5"])
def test_syscall_and_sysret(mode: str) -> None:
    board = Board(mode)
    machine = board.machine
    text = "mov ebx, 3\n syscall\n add ebx, 1\n vmmcall"
    board.start(text, user=True)
    machine.processor.set_field("star", (KERNEL_CS | (KERNEL_DS | 3) << 16) << 32)
    machine.processor.set_field("lstar", 0x5600)
    machine.processor.set_field("fmask", 0x200)
    machine.set("rflags", 0x202)
    from guest.svm.assembler import asm

    machine.write(0x5600, asm("mov esi, 77\n mov r8, r11\n pushfq\n pop r9\n sysretq", 64, 0x5600))
    machine.set("rsp", USER_STACK)
    board.map(USER_STACK - 0x1000, USER_STACK - 0x1000 | P | W | U)
    assert board.run().reason == "hlt"
    assert (board.get("rsi"), board.get("rbx")) == (77, 4)
    assert board.get("r8") & 0x200
    assert not board.get("r9") & 0x200
    assert (machine.cpl, board.get("rflags") & 0x200) == (3, 0x200)


def test_a_syscall_can_be_served_by_the_host() -> None:
    board = Board("4")
    served = []

    def serve() -> None:
        served.append((board.get("rax"), board.get("rcx")))
        board.machine.set("rax", 42)

    board.machine.on_syscall(serve)
    board.start("mov eax, 39\n syscall\n mov ebx, eax\n vmmcall", user=True)
    assert board.run().reason == "hlt"
    assert served == [(39, USER_CODE + 7)]
    assert board.get("rbx") == 42


def test_a_syscall_served_by_the_host_can_leave_for_elsewhere() -> None:
    board = Board("4")
    board.machine.on_syscall(lambda: board.machine.set("rip", USER_CODE + 0x20))
    board.start("syscall\n hlt\n .org 0x20\n mov ebx, 6\n vmmcall", user=True)
    assert board.run().reason == "hlt"
    assert board.get("rbx") == 6


def test_an_exception_can_be_taken_by_the_host() -> None:
    board = Board("4")
    taken = []

    def take(vector: int, error_code: int | None, cr2: int) -> bool:
        taken.append((vector, error_code, cr2))
        board.map(NOWHERE, MORE_DATA | P | W | U)
        return True

    board.machine.on_exception(take)
    board.start("mov dword ptr [rdi], 5\n vmmcall", user=True, rdi=NOWHERE + 4)
    assert board.run().reason == "hlt"
    assert taken == [(14, 6, NOWHERE + 4)]
    assert board.read_word(MORE_DATA + 4, 4) == 5


@pytest.mark.parametrize("mmu", MMUS)
def test_sysenter_outside_of_long_mode(mmu: dict[str, bool]) -> None:
    board = Board("32", **mmu)
    board.handlers[13] = lambda event, place: board.machine.stop("hlt")
    board.start("sysenter\n hlt", user=True)
    assert board.run().reason == "hlt"
    assert [(event.vector, event.error_code, event.rip) for event in board.events] == [(13, 0, USER_CODE)]
    board.machine.write(CODE + 0x100, b"\xf4")
    write = "mov ecx, {}\n mov eax, {}\n xor edx, edx\n wrmsr\n"
    board.execute(
        write.format(0x174, 8) + write.format(0x175, STACK) + write.format(0x176, CODE + 0x100) + "hlt"
    )
    board.start("sysenter\n hlt", user=True)
    assert board.run().reason == "hlt"
    assert (board.get("rip"), board.get("rsp"), board.machine.cpl) == (CODE + 0x101, STACK, 0)


def test_sysenter_is_undefined_in_long_mode() -> None:
    board = Board("4")
    board.handlers[6] = lambda event, place: board.machine.stop("hlt")
    board.start("sysenter\n hlt", user=True)
    assert board.run().reason == "hlt"
    assert [(event.vector, event.rip) for event in board.events] == [(6, USER_CODE)]


@pytest.mark.parametrize("mmu", MMUS)
def test_syscall_outside_of_long_mode_leads_to_star(mmu: dict[str, bool]) -> None:
    board = Board("32", **mmu)
    board.machine.write(CODE + 0x100, b"\xf4")
    write = "mov ecx, {}\n mov eax, {}\n mov edx, {}\n wrmsr\n"
    board.execute(write.format(0xC0000080, 1, 0) + write.format(0xC0000081, CODE + 0x100, 8) + "hlt")
    board.start("syscall\n hlt", user=True, rflags=0x202)
    board.machine.set("efer", 1)
    assert board.run().reason == "hlt"
    assert (board.get("rip"), board.get("rcx"), board.machine.cpl) == (CODE + 0x101, USER_CODE + 2, 0)
    assert not board.get("rflags") & 0x200
    assert not board.machine.get_segment("cs").flags & 0x200000
