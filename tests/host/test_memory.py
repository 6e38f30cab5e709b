"""The arena: frames handed out, and bytes in 64-bit words."""

import pytest
from hypothesis import given, strategies as st

from shadowmmu.host.memory import Arena, OutOfFrames, sparse_words

MASK = (1 << 64) - 1


@pytest.fixture
def arena() -> Arena:
    return Arena(1 << 28)


def test_the_first_frame_is_the_zero_page(arena: Arena) -> None:
    assert arena.alloc_table() == 0x1000
    assert arena.alloc_table() == 0x2000
    assert arena.page_bytes(0) == bytes(4096)


def test_freed_frames_come_back_oldest_first(arena: Arena) -> None:
    frames = [arena.alloc_table() for _ in range(3)]
    for hpa in frames[::-1]:
        arena.free_table(hpa)
    assert [arena.alloc_table() for _ in range(4)] == [*frames[::-1], 0x4000]


def test_tables_end_where_user_memory_begins(arena: Arena) -> None:
    for _ in range(1023):
        arena.alloc_table()
    with pytest.raises(OutOfFrames, match="all 1024 are in use"):
        arena.alloc_table()
    assert arena.reserve(1, 1, 0) == 1024


@pytest.mark.parametrize(
    ("npages", "align", "offset", "pfn"),
    [(3, 1, 0, 1024), (1, 512, 0, 1024), (1, 512, 5, 1029), (1, 512, 517, 1029)],
)
def test_runs_are_aligned(arena: Arena, npages: int, align: int, offset: int, pfn: int) -> None:
    assert arena.reserve(npages, align, offset) == pfn
    assert arena.reserve(1, 1, 0) == pfn + npages


def test_more_than_there_is(arena: Arena) -> None:
    with pytest.raises(OutOfFrames, match="no 65536 contiguous frames"):
        arena.reserve(65536, 1, 0)


def test_sparse_arrays_cost_nothing_until_they_are_written() -> None:
    words = sparse_words(1 << 36)
    assert len(words) == 1 << 36
    words[(1 << 36) - 1] = MASK
    assert (words[0], words[(1 << 36) - 1]) == (0, MASK)
    assert len(sparse_words(1)) == 1
    with pytest.raises(IndexError):
        sparse_words(3)[3]


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 8), st.integers(0, MASK)), max_size=30))
def test_loads_and_stores_are_little_endian_bytes(stores: list[tuple[int, int, int]]) -> None:
    arena = Arena(1 << 20)
    model = bytearray(256)
    for offset, size, value in stores:
        arena.store(0x5000 + offset, size, value)
        model[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    assert arena.page_bytes(0x5000)[:256] == bytes(model)
    for offset, size, _ in stores:
        assert arena.load(0x5000 + offset, size) == int.from_bytes(model[offset : offset + size], "little")


def test_pages_are_copied_whole(arena: Arena) -> None:
    arena.store(0x5000, 8, 1)
    arena.store(0x5FF8, 8, MASK)
    arena.store(0x6000, 8, 3)
    arena.copy_page(0x5000, 0x7000)
    assert arena.page_bytes(0x7000) == arena.page_bytes(0x5000)
    assert arena.load(0x8000, 8) == 0
