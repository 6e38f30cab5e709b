"""No translation of an address space that the guest has left, or flushed, is used."""

import pytest
from guest.svm.board import DATA, MMUS, MORE_DATA, Board

from shadowmmu.x86.bits import CR4_PCIDE, CR4_PGE, G, P, W

PLACE = 0x10000000
KEEP = 1 << 63


def other_space(board: Board) -> int:
    """A second root whose PLACE is MORE_DATA; the first one's is DATA."""
    first, pages = board.root, board.next_table
    board.map(PLACE, DATA | P | W)
    board.root = board.next_table
    board.next_table = pages + 0x1000
    for page in range(0, 0x10000, 0x1000):
        board.map(page, page | P | W)
    board.map(PLACE, MORE_DATA | P | W)
    second, board.root = board.root, first
    board.write_word(DATA, 0xAAAA)
    board.write_word(MORE_DATA, 0xBBBB)
    return second


def with_pcids(board: Board, text: str, **registers: int) -> None:
    board.execute(f"mov rax, cr4\n or rax, {CR4_PCIDE:#x}\n mov cr4, rax\n {text}\n hlt", **registers)


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("keep", [0, KEEP])
def test_another_pcid_has_its_own_translations(mmu: dict[str, bool], keep: int) -> None:
    board = Board("4", **mmu)
    second = other_space(board)
    with_pcids(
        board,
        f"""mov cr3, r8
        mov cr3, r9
        mov cr3, r10
        mov rbx, [{PLACE}]
        mov cr3, r11
        mov rcx, [{PLACE}]
        mov cr3, r10
        mov rdx, [{PLACE}]""",
        r8=board.root | 1,
        r9=second | 2,
        r10=board.root | 1 | keep,
        r11=second | 2 | keep,
    )
    assert [board.get(name) for name in ("rbx", "rcx", "rdx")] == [0xAAAA, 0xBBBB, 0xAAAA]


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_a_pcid_is_flushed_while_another_runs_on_the_same_tables(mmu: dict[str, bool], kind: int) -> None:
    board = Board("4", **mmu)
    board.map(PLACE, DATA | P | W)
    board.write_word(DATA, 0xAAAA)
    board.write_word(MORE_DATA, 0xBBBB)
    leaf = board.entry(PLACE)
    board.map(PLACE + 0x1000, leaf & ~0xFFF | P | W)
    board.write_word(0x8000, 1)
    board.write_word(0x8008, PLACE)
    with_pcids(
        board,
        f"""mov cr3, r8
        mov rbx, [{PLACE}]
        mov cr3, r9
        mov rbx, [{PLACE}]
        mov qword ptr [{PLACE + 0x1000 + (leaf & 0xFFF)}], {MORE_DATA | P | W:#x}
        mov eax, {kind}
        invpcid rax, [0x8000]
        mov cr3, r10
        mov rcx, [{PLACE}]""",
        r8=board.root | 1,
        r9=board.root | 2,
        r10=board.root | 1 | KEEP,
    )
    assert board.get("rcx") == 0xBBBB


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("bit", [CR4_PGE, CR4_PCIDE])
def test_a_change_of_cr4_flushes_global_pages(mmu: dict[str, bool], bit: int) -> None:
    board = Board("4", **mmu)
    board.map(PLACE, DATA | P | W | G)
    board.write_word(DATA, 0xAAAA)
    board.write_word(MORE_DATA, 0xBBBB)
    leaf = board.entry(PLACE)
    board.map(PLACE + 0x1000, leaf & ~0xFFF | P | W)
    board.execute(
        f"""mov rax, cr4
        or rax, {bit | CR4_PGE:#x}
        mov cr4, rax
        mov rbx, [{PLACE}]
        mov qword ptr [{PLACE + 0x1000 + (leaf & 0xFFF)}], {MORE_DATA | P | W | G:#x}
        xor rax, {bit:#x}
        mov cr4, rax
        mov rcx, [{PLACE}]
        hlt"""
    )
    assert (board.get("rbx"), board.get("rcx")) == (0xAAAA, 0xBBBB)
