"""One process that goes over its memory, in the orders in which programs do."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate

from ...guest.workload.kernel import Area, Kind, Process
from ...x86.bits import U
from ..configuration import Guest
from ..workload import workload

__all__ = ["mapped_process", "user_reads", "user_writes"]

READ, WRITE = U | 0, U | 1
FIRST = 0x400
"""Number of the first page of a process's heap."""
PAGE_SHIFT = 12


def gvas(pages: Iterable[int]) -> array[int]:
    """Return the addresses of pages, by their numbers from the heap's first on."""
    return array("Q", [(FIRST + page) << PAGE_SHIFT for page in pages])


def mapped_process(guest: Guest, pages: int) -> Process:
    """Make a process whose heap of so many pages is mapped; KVM then forgets all that it shadows."""
    heap = Area(FIRST, FIRST + pages, Kind.PRIVATE)
    process = guest.kernel.spawn([heap])
    guest.kernel.populate(process, heap)
    guest.kernel.switch(process)
    guest.vm.zap_all()
    return process


def user_reads(guest: Guest, process: Process, pages: Iterable[int]) -> None:
    """Read a word in each of these pages, at user level."""
    guest.kernel.run_user(process, READ, gvas(pages))


def user_writes(guest: Guest, process: Process, pages: Iterable[int]) -> None:
    """Write a word in each of these pages, at user level."""
    guest.kernel.run_user(process, WRITE, gvas(pages))


@workload("sequential", pages="pages that are read, each once")
def sequential(guest: Guest, pages: int = 16_384) -> Iterator[None]:
    """Read memory from the first page to the last."""
    process = mapped_process(guest, pages)
    yield
    user_reads(guest, process, range(pages))


@workload("backward", pages="pages that are read, each once")
def backward(guest: Guest, pages: int = 16_384) -> Iterator[None]:
    """Read memory from the last page to the first."""
    process = mapped_process(guest, pages)
    yield
    user_reads(guest, process, range(pages - 1, -1, -1))


@workload("strided", pages="pages of the heap", stride="pages from one access to the next")
def strided(guest: Guest, pages: int = 16_384, stride: int = 4) -> Iterator[None]:
    """Read every so-many-th page, then those after them, until all are read."""
    process = mapped_process(guest, pages)
    yield
    for first in range(max(stride, 1)):
        user_reads(guest, process, range(first, pages, max(stride, 1)))


@workload("random", pages="pages of the heap", reads="accesses, each to a random page")
def random_reads(guest: Guest, pages: int = 16_384, reads: int = 4_000) -> Iterator[None]:
    """Read random pages, all equally often."""
    process = mapped_process(guest, pages)
    yield
    user_reads(guest, process, [guest.rng.randrange(pages) for _ in range(reads)])


@workload(
    "zipf", pages="pages of the heap", reads="accesses", skew="100 times the exponent of the distribution"
)
def zipf(guest: Guest, pages: int = 16_384, reads: int = 20_000, skew: int = 99) -> Iterator[None]:
    """Read pages whose popularity follows Zipf's law, popular ones scattered over the heap."""
    process = mapped_process(guest, pages)
    order = list(range(pages))
    guest.rng.shuffle(order)
    weights = list(accumulate(1 / (rank + 1) ** (skew / 100) for rank in range(pages)))
    chosen = guest.rng.choices(order, cum_weights=weights, k=reads)
    yield
    user_reads(guest, process, chosen)


@workload("pointer-chase", pages="pages of the heap", rounds="times that the whole heap is read")
def pointer_chase(guest: Guest, pages: int = 8_192, rounds: int = 4) -> Iterator[None]:
    """Follow a random cycle through all pages, which KVM has mapped, again and again."""
    process = mapped_process(guest, pages)
    order = list(range(pages))
    guest.rng.shuffle(order)
    user_reads(guest, process, order)
    yield
    for _ in range(rounds):
        user_reads(guest, process, order)
