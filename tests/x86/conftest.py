"""Memory with page tables in it, and the same test run with and without the TLB."""

import mmap
from collections.abc import Iterator

import pytest

from shadowmmu.x86.bits import ADDR, P, U, W
from shadowmmu.x86.paging import PagingFormat
from shadowmmu.x86.processor import Processor


class Memory:
    """Some frames; the first is never used as a table."""

    def __init__(self, frames: int) -> None:
        self.words = memoryview(mmap.mmap(-1, frames << 12)).cast("B").cast("Q")
        self.next_frame = 1

    def frame(self) -> int:
        self.next_frame += 1
        return self.next_frame - 1 << 12

    def get(self, form: PagingFormat, hpa: int) -> int:
        if form.entry_bytes == 8:
            return self.words[hpa >> 3]
        return self.words[hpa >> 3] >> 8 * (hpa & 4) & 0xFFFF_FFFF

    def set(self, form: PagingFormat, hpa: int, entry: int) -> None:
        if form.entry_bytes == 4:
            shift = 8 * (hpa & 4)
            entry = self.words[hpa >> 3] & ~(0xFFFF_FFFF << shift) | entry << shift
        self.words[hpa >> 3] = entry

    def entry_at(self, form: PagingFormat, root: int, gva: int, level: int = 1) -> int:
        """The address of the entry for `gva` at `level`; missing tables on the way are made."""
        table = root
        for at in range(form.levels, level, -1):
            hpa = table + form.index(gva, at) * form.entry_bytes
            if not self.get(form, hpa) & P:
                self.set(form, hpa, self.frame() | (P if form.levels == at == 3 else P | W | U))
            table = self.get(form, hpa) & ADDR
        return table + form.index(gva, level) * form.entry_bytes

    def map(self, form: PagingFormat, root: int, gva: int, entry: int, level: int = 1) -> int:
        hpa = self.entry_at(form, root, gva, level)
        self.set(form, hpa, entry)
        return hpa


@pytest.fixture
def memory() -> Memory:
    return Memory(1024)


@pytest.fixture(params=[True, False], ids=["tlb", "walks"])
def cpu(request: pytest.FixtureRequest, memory: Memory) -> Iterator[Processor]:
    """A processor in 4-level paging whose root is a fresh table; once with a TLB, once without."""
    processor = Processor(memory.words, tlb=request.param)
    processor.set_paging(levels=4)
    processor.root = memory.frame()
    yield processor
    assert memory.next_frame < 1024, "the test ran out of frames"


@pytest.fixture
def cached(memory: Memory) -> Processor:
    """The same, with a TLB."""
    processor = Processor(memory.words)
    processor.set_paging(levels=4)
    processor.root = memory.frame()
    return processor
