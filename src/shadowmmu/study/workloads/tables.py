"""Many shadow pages: large guests whose memory, or whose tables, are touched once."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from ...guest.workload.stream_cpu import Stream
from ..configuration import Guest
from ..workload import workload
from .patterns import FIRST

__all__: list[str] = []

PAGE = 4096
READ = 0


def _read(guest: Guest, addresses: Iterable[int]) -> None:
    stream = Stream()
    stream.accesses(READ, array("Q", addresses))
    guest.cpus[0].run(stream)


@workload(
    "huge-memory",
    pages="pages of 4 KiB from the start of memory that are read, in order",
    step="pages from one that is read to the next",
    reads="random ones that are read instead, if not 0",
)
def huge_memory(guest: Guest, pages: int = 65_536, step: int = 512, reads: int = 0) -> Iterator[None]:
    """A guest reads words of its memory through its kernel's map of it, which has pages of 2 MiB."""
    end = min(pages * PAGE, guest.vm.slots[0].size)
    start, stride = guest.kernel.direct_address(0), max(step, 1) * PAGE
    addresses: list[int] | range = range(start, start + end, stride)
    if reads:
        addresses = guest.rng.choices(addresses, k=reads)
    yield
    _read(guest, addresses)


@workload("many-tables", pages="leaf tables of the guest, each of which maps one page")
def many_tables(guest: Guest, pages: int = 128) -> Iterator[None]:
    """A guest reads one word below each of its leaf tables, which lie side by side in memory."""
    frame = guest.kernel.frames.take()
    region = guest.kernel.mode.page_size(2)
    start = FIRST * PAGE // region * region + region
    for page in range(pages):
        guest.vm.map(start + page * region, frame)
    yield
    _read(guest, range(start, start + pages * region, region))
