"""What a guest's accesses do to its tables, KVM's and memory, in each paging mode on each MMU."""

import pytest
from guest.svm.board import CODE, DATA, MORE_DATA, TABLES, Board, Event
from guest.svm.invariants import check

from shadowmmu.kvm.bits import SPTE_MMU_PRESENT
from shadowmmu.kvm.fault.fast_fault import last_sptep_lockless
from shadowmmu.x86.bits import CR0_WP, CR4_SMAP, CR4_SMEP, NX, PS, A, D, P, U, W

MMUS = [
    pytest.param({}, id="shadow"),
    pytest.param({"kernel": "6.1.176"}, id="shadow-6.1"),
    pytest.param({"npt": True}, id="tdp"),
    pytest.param({"npt": True, "tdp_mmu": False}, id="direct"),
]
ALL = ["none", "32", "pae", "4", "5"]
PAGING = ["32", "pae", "4", "5"]
FAR = 0x30003000
HOLE = 0x20000000


def stats(board: Board) -> dict[str, int]:
    return board.machine.kvm.vm_stats() | board.machine.vcpu.stat.as_dict()


def spte(board: Board, gva: int) -> int:
    return board.machine.kvm.read_spte(last_sptep_lockless(board.machine.vcpu, gva))


def register(board: Board, name: str) -> str:
    return f"r{name}" if board.bits == 64 else f"e{name}"


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ALL)
def test_first_accesses_fault_into_kvm(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    board.execute(f"mov eax, 5\n mov [{DATA}], eax\n mov ebx, [{MORE_DATA}]\n add ebx, [{DATA}]\n hlt")
    assert board.get("rbx") == 5
    assert board.read_word(DATA, 4) == 5
    assert stats(board)["pf_fixed"] >= 1
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", PAGING)
def test_accessed_and_dirty_of_the_guest(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    board.execute(f"mov ebx, [{DATA}]\n mov [{MORE_DATA}], ebx\n hlt")
    assert board.gpte(DATA) & (A | D) == A
    assert board.gpte(MORE_DATA) & (A | D) == A | D
    board.start(f"mov [{DATA}], ebx\n hlt")
    assert board.run().reason == "hlt"
    assert board.gpte(DATA) & (A | D) == A | D
    check(board)


@pytest.mark.parametrize("mode", PAGING)
def test_the_processor_sets_dirty_in_kvms_own_spte(mode: str) -> None:
    board = Board(mode)
    board.execute(f"mov [{DATA}], ebx\n hlt")
    assert spte(board, DATA) & (SPTE_MMU_PRESENT | W | A | D) == SPTE_MMU_PRESENT | W | A | D
    board.machine.kvm.arena.store(
        last_sptep_lockless(board.machine.vcpu, DATA), 8, spte(board, DATA) & ~(A | D)
    )
    board.machine.processor.flush()
    board.machine.set("rip", CODE)
    faults = board.machine.exits[0x4E]
    assert board.run().reason == "hlt"
    assert board.machine.exits[0x4E] == faults
    assert spte(board, DATA) & (A | D) == A | D


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", PAGING)
def test_a_leaf_table_is_written_and_flushed(mode: str, mmu: dict[str, bool]) -> None:
    """The guest maps another page at an address it has used: with INVLPG it sees that one."""
    board = Board(mode, **mmu)
    board.write_word(DATA, 0x11, 4)
    board.write_word(MORE_DATA, 0x22, 4)
    board.map(FAR, DATA | P | W)
    table, size = board.entry(FAR), board.entry_size
    board.map(table & ~0xFFF, table & ~0xFFF | P | W)
    text = f"mov ebx, [{FAR}]\n mov eax, {MORE_DATA | P | W:#x}\n"
    text += f"mov [{table:#x}], {'rax' if size == 8 and board.bits == 64 else 'eax'}\n"
    text += f"invlpg [{FAR}]\n mov ecx, [{FAR}]\n mov edx, 7\n mov [{FAR}], edx\n hlt"
    board.execute(text)
    assert (board.get("rbx"), board.get("rcx")) == (0x11, 0x22)
    assert (board.read_word(DATA, 4), board.read_word(MORE_DATA, 4)) == (0x11, 7)
    if not mmu.get("npt"):
        assert stats(board)["invlpg"] == 1
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", PAGING)
def test_an_upper_table_is_written(mode: str, mmu: dict[str, bool]) -> None:
    """A write to a directory is emulated where KVM shadows it, and takes effect with a MOV to CR3."""
    board = Board(mode, **mmu)
    other = FAR + (4 << 20)
    board.write_word(DATA, 0x11, 4)
    board.write_word(MORE_DATA, 0x22, 4)
    board.map(FAR, DATA | P | W)
    board.map(other, MORE_DATA | P | W)
    there, here = board.entry(other, 2), board.entry(FAR, 2)
    a = register(board, "ax")
    text = f"mov ebx, [{FAR}]\n mov ecx, [{other}]\n mov eax, [{there:#x}]\n mov [{here:#x}], eax\n"
    text += f"mov {a}, cr3\n mov cr3, {a}\n mov edx, [{FAR}]\n hlt"
    board.execute(text)
    assert (board.get("rbx"), board.get("rcx"), board.get("rdx")) == (0x11, 0x22, 0x22)
    if not mmu.get("npt"):
        assert stats(board)["pf_emulate"] >= 1
        assert stats(board)["mmu_pte_write"] >= 1
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["32", "pae", "4", "5"])
def test_huge_pages_of_the_guest(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    gva = 0x40000000
    big = 0x400000
    board.write_word(big + 0x5008, 0x77, 4)
    board.map(gva, big | P | W | PS, 2)
    board.execute(f"mov ebx, [{gva + 0x5008:#x}]\n mov [{gva + 0x6000:#x}], ebx\n hlt")
    assert board.get("rbx") == 0x77
    assert board.read_word(big + 0x6000, 4) == 0x77
    assert board.gpte(gva, 2) & (A | D) == A | D
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
def test_without_pse_a_directory_entry_points_to_a_table(mmu: dict[str, bool]) -> None:
    board = Board("32", **mmu)
    gva = 0x40000000
    board.map(gva, DATA | P | W)
    board.map(gva, board.gpte(gva, 2) | PS, 2)
    board.write_word(DATA, 0x99, 4)
    board.execute(f"mov ebx, [{gva:#x}]\n hlt", cr4=0)
    assert board.get("rbx") == 0x99
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", PAGING)
def test_without_write_protect_the_kernel_may_write_everything(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    board.map(DATA, DATA | P | U)
    a = register(board, "ax")
    board.machine.on_exception(
        lambda vector, code, cr2: board.machine.stop("fault", (vector, code, cr2)) or True
    )
    text = f"mov {a}, cr0\n btr eax, 16\n mov cr0, {a}\n mov dword ptr [{DATA}], 3\n"
    text += f"bts eax, 16\n mov cr0, {a}\n mov dword ptr [{DATA}], 4\n hlt"
    board.start(text)
    outcome = board.run()
    assert outcome.reason == "fault"
    assert outcome.detail == (14, 3, DATA)
    assert board.read_word(DATA, 4) == 3
    assert board.get("cr0") & CR0_WP
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["pae", "4", "5"])
def test_no_execute(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    board.map(DATA, DATA | P | W | NX)
    board.handlers[14] = lambda event, place: board.machine.stop(
        "fault", (event.error_code, event.cr2, event.rip)
    )
    board.start(f"mov eax, [{DATA}]\n mov eax, {DATA}\n jmp {register(board, 'ax')}")
    outcome = board.run()
    assert outcome.detail == (0x11, DATA, DATA)
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", PAGING)
def test_supervisor_mode_protection(mode: str, mmu: dict[str, bool]) -> None:
    """SMEP and SMAP: CPL 0 neither executes nor reads pages of CPL 3, but for STAC."""
    board = Board(mode, **mmu)
    faults: list[tuple[int, int]] = []

    def step_over(event: Event, place: int) -> None:
        faults.append((event.error_code or 0, event.rip))
        board.write_word(place, board.get("rbp"), board.word)

    board.handlers[14] = step_over
    board.start("", cr4=CR4_SMEP | CR4_SMAP) if board.bits == 64 else board.start("")
    a, bp = register(board, "ax"), register(board, "bp")
    text = f"mov {a}, cr4\n or eax, {CR4_SMEP | CR4_SMAP:#x}\n mov cr4, {a}\n"
    text += f"mov ebp, offset one\n mov ebx, [{DATA}]\n hlt\none: stac\n mov ebx, [{DATA}]\n clac\n"
    text += f"mov ebp, offset two\n mov eax, {DATA}\n jmp {a}\n hlt\ntwo: mov ecx, 1\n hlt"
    board.map(DATA, DATA | P | W | U)
    board.write_word(DATA, 0x55, 4)
    board.execute(text)
    assert board.get("rcx") == 1
    assert board.get("rbx") == 0x55
    assert [code for code, _ in faults] == [1, 0x11]
    assert bp
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ALL)
def test_devices_answer_where_no_memory_is(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    gva = HOLE
    if board.levels:
        board.map(gva, HOLE | P | W)
    written: list[tuple[int, int, int]] = []
    board.machine.on_mmio(
        HOLE,
        0x100,
        read=lambda gpa, size: gpa & 0xFF | size << 8,
        write=lambda *access: written.append(access),
    )
    text = f"mov ebx, [{gva + 0x10:#x}]\n movzx ecx, byte ptr [{gva + 4:#x}]\n"
    text += f"mov dword ptr [{gva + 8:#x}], 0x1234\n"
    text += f"or byte ptr [{gva + 1:#x}], 0x80\n mov edx, [{gva + 0x200:#x}]\n hlt"
    board.execute(text)
    assert (board.get("rbx"), board.get("rcx"), board.get("rdx")) == (0x410, 4, 0xFFFFFFFF)
    assert written == [(HOLE + 8, 4, 0x1234), (HOLE + 1, 1, 0x81)]
    assert stats(board)["mmio_exits"] >= 5
    check(board)


@pytest.mark.parametrize("mmu", MMUS)
def test_instructions_read_devices(mmu: dict[str, bool]) -> None:
    board = Board("4", **mmu)
    board.map(HOLE, HOLE | P | W)
    board.machine.on_mmio(HOLE, 0x100, read=lambda gpa, size: 0xFFFFFFF0 | gpa & 0xF)
    text = f"imul ebx, [{HOLE:#x}], 3\n push qword ptr [{HOLE + 1:#x}]\n pop rcx\n mov edx, 5\n"
    text += f"imul edx, [{HOLE + 2:#x}]\n movsx esi, byte ptr [{HOLE:#x}]\n cmovz rdi, [{HOLE:#x}]\n hlt"
    board.execute(text)
    assert (board.get("rbx"), board.get("rcx")) == (-48 & 0xFFFFFFFF, 0xFFFFFFF1)
    assert (board.get("rdx"), board.get("rsi")) == (-70 & 0xFFFFFFFF, -16 & 0xFFFFFFFF)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["none", "4"])
def test_strings_go_to_devices(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    if board.levels:
        board.map(HOLE, HOLE | P | W)
    written: list[tuple[int, int, int]] = []
    board.machine.on_mmio(HOLE, 0x1000, write=lambda *access: written.append(access))
    board.machine.write(DATA, bytes(range(1, 9)))
    board.execute(f"mov esi, {DATA}\n mov edi, {HOLE}\n mov ecx, 4\n rep movsw\n mov al, 9\n stosb\n hlt")
    assert [value for _, _, value in written] == [0x201, 0x403, 0x605, 0x807, 9]
    assert (board.get("rcx"), board.get("rdi"), board.get("rsi")) == (0, HOLE + 9, DATA + 8)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ["32", "4"])
def test_instructions_that_straddle_pages(mode: str, mmu: dict[str, bool]) -> None:
    """A fault on the second page of an instruction is its own, not that of those before it."""
    board = Board(mode, **mmu)
    base = 0x21000
    start = base - 4
    from guest.svm.assembler import asm

    board.machine.write(start, asm("inc ecx\n inc ecx\n mov ebx, 0x11223344\n hlt", board.bits, start)[-9:])
    code = asm("inc ecx\n mov ebx, 0x11223344\n hlt", board.bits, start)
    board.machine.write(start, code)
    seen: list[tuple[int, int]] = []
    board.map(base, 0)

    def repair(event: Event, place: int) -> None:
        seen.append((event.rip, event.cr2))
        board.map(base, base | P | W)

    board.handlers[14] = repair
    board.start(f"xor ecx, ecx\n mov eax, {start:#x}\n jmp {register(board, 'ax')}")
    assert board.run().reason == "hlt"
    assert seen == [(start + (2 if board.bits == 64 else 1), base)]
    assert (board.get("rbx"), board.get("rcx")) == (0x11223344, 1)
    assert not board.get("rflags") & 0x100


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", PAGING)
def test_pushf_before_a_missing_page_knows_no_step(mode: str, mmu: dict[str, bool]) -> None:
    """The fetch of the next page faults with the first instruction, which then runs alone."""
    board = Board(mode, **mmu)
    base = 0x21000
    board.machine.write(base - 2, b"\x9c\x58\xf4")  # pushf; pop eax; hlt
    board.map(base, 0)
    board.handlers[14] = lambda event, place: board.map(base, base | P | W)
    board.start(f"mov edx, {base - 2:#x}\n jmp {register(board, 'dx')}")
    assert board.run().reason == "hlt"
    assert [event.rip for event in board.events] == [base]
    assert not (board.get("rax") | board.get("rflags")) & 0x100


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("mode", ALL)
def test_code_that_is_written_over_runs_as_written(mode: str, mmu: dict[str, bool]) -> None:
    board = Board(mode, **mmu)
    text = f"mov edi, 2\nagain: mov eax, {DATA}\n call {register(board, 'ax')}\n"
    text += f"add ecx, ebx\n mov byte ptr [{DATA + 1}], 40\n dec edi\n jnz again\n hlt"
    from guest.svm.assembler import asm

    board.machine.write(DATA, asm("mov ebx, 2\n ret", board.bits, DATA))
    board.execute(text, rcx=0)
    assert board.get("rcx") == 42


@pytest.mark.parametrize("mode", ["4", "32"])
def test_memory_written_from_outside_is_code_at_once(mode: str) -> None:
    board = Board(mode)
    board.start(f"mov eax, {DATA}\nagain: call {register(board, 'ax')}\n vmmcall\n jmp again")
    from guest.svm.assembler import asm

    board.machine.write(DATA, asm("mov ebx, 2\n ret", board.bits, DATA))
    assert board.run().reason == "hlt"
    assert board.get("rbx") == 2
    board.machine.write(DATA + 1, b"\x07")
    assert board.run().reason == "hlt"
    assert board.get("rbx") == 7


def test_a_table_that_is_no_memory_leads_nowhere() -> None:
    board = Board("4")
    board.machine.on_exception(lambda vector, code, cr2: board.machine.stop("fault", (vector, cr2)) or True)
    board.start(f"mov rax, {HOLE}\n mov cr3, rax\n hlt")
    outcome = board.run()
    assert outcome.reason in ("fault", "triple fault")


def test_the_guest_writes_its_own_leaf_table_through_itself() -> None:
    """An instruction writes to the very table that maps it: what it writes is emulated and seen."""
    board = Board("4")
    table = board.entry(CODE) & ~0xFFF
    board.map(table, table | P | W)
    place = table + 8 * (DATA >> 12)
    board.execute(
        f"mov ebx, [{DATA}]\n mov rax, {MORE_DATA | 3}\n mov [{place:#x}], rax\n invlpg [{DATA}]\n hlt"
    )
    assert board.read_word(place) & ~0x60 == MORE_DATA | 3
    assert place >= TABLES
    check(board)
