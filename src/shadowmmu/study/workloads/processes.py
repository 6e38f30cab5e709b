"""Processes that come and go: what makes shadow paging expensive."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import accumulate

from ...guest.workload.kernel import Area, Kind, Process
from ...guest.workload.stream import INVLPG, STORE4, STORE8
from ...guest.workload.stream_cpu import Stream
from ...x86.bits import U
from ..configuration import Guest
from ..workload import workload
from .patterns import FIRST, gvas

__all__ = ["areas_of_program"]

READ, WRITE, FETCH = U | 0, U | 1, U | 2
PAGE_SHIFT = 12
TEXT, STACK, MAPS = 0x20000, 0x70000, 0x40000
"""Numbers of the first pages of a program's text, stack and mmap area."""


def areas_of_program(name: str, text: int, heap: int, stack: int = 8) -> list[Area]:
    """Return the areas of a program: its text from a file, heap and stack; sizes in pages."""
    return [
        Area(FIRST, FIRST + heap, Kind.PRIVATE),
        Area(TEXT, TEXT + text, Kind.FILE, name),
        Area(STACK, STACK + stack, Kind.PRIVATE),
    ]


def run_program(guest: Guest, process: Process, *, text: int, heap: int, cpu: int = 0) -> None:
    """Let a program start: fetch its text, write its stack and its heap."""
    kernel = guest.kernel
    kernel.run_user(process, FETCH, array("Q", [TEXT + page << PAGE_SHIFT for page in range(text)]), cpu)
    kernel.run_user(process, WRITE, array("Q", [STACK << PAGE_SHIFT]), cpu)
    kernel.run_user(process, WRITE, gvas(range(heap)), cpu)


@workload(
    "fork-storm",
    pages="private pages that the parent has written",
    forks="children, one after the other",
    touched="pages that each child writes",
)
def fork_storm(guest: Guest, pages: int = 2_048, forks: int = 32, touched: int = 64) -> Iterator[None]:
    """A process forks children that write a few pages and end, and writes the same pages itself."""
    kernel = guest.kernel
    parent = kernel.spawn(areas_of_program("shell", 64, pages))
    run_program(guest, parent, text=64, heap=pages)
    yield
    for _ in range(forks):
        written = gvas(guest.rng.sample(range(pages), min(touched, pages)))
        child = kernel.fork(parent)
        kernel.run_user(child, WRITE, written)
        kernel.exit(child)
        kernel.run_user(parent, WRITE, written)


@workload("demand", pages="pages that the process writes for the first time")
def demand(guest: Guest, pages: int = 1_024) -> Iterator[None]:
    """A process writes memory that it never touched: a page fault of the guest for each page."""
    kernel = guest.kernel
    process = kernel.spawn(areas_of_program("demand", 16, pages))
    frames = [kernel.frames.take() for _ in range(pages + pages // 64)]
    stream = Stream()
    stream.accesses(0, array("Q", map(kernel.direct_address, frames)))
    guest.cpus[0].run(stream)
    kernel.frames.drop(frames)
    run_program(guest, process, text=16, heap=0)
    yield
    kernel.run_user(process, WRITE, gvas(range(pages)))


@workload("mmap-loop", pages="pages of each mapping", rounds="mappings, one after the other")
def mmap_loop(guest: Guest, pages: int = 64, rounds: int = 200) -> Iterator[None]:
    """A process maps memory, writes each page once and unmaps it, over and over."""
    kernel = guest.kernel
    process = kernel.spawn(areas_of_program("loop", 16, 64))
    run_program(guest, process, text=16, heap=64)
    written = array("Q", [MAPS + page << PAGE_SHIFT for page in range(pages)])
    area = Area(MAPS, MAPS + pages, Kind.PRIVATE)
    yield
    for _ in range(rounds):
        kernel.mmap(process, area)
        kernel.run_user(process, WRITE, written)
        kernel.munmap(process, area)


@workload(
    "build",
    jobs="compilers that run, one after the other",
    text="pages of the compiler's text",
    heap="pages that a compiler writes on average",
)
def build_mix(guest: Guest, jobs: int = 40, text: int = 192, heap: int = 384) -> Iterator[None]:
    """A make forks and executes compilers, each of its own size, with the access pattern of a build."""
    kernel, rng = guest.kernel, guest.rng
    make = kernel.spawn(areas_of_program("make", 96, 256))
    run_program(guest, make, text=96, heap=256)
    yield
    for _ in range(jobs):
        child = kernel.fork(make)
        kernel.switch(child)
        kernel.run_user(child, WRITE, gvas(range(8)))
        kernel.exec(child, areas_of_program("cc", text, 4 * heap))
        _compile(guest, child, text, max(1, int(rng.gammavariate(2, heap / 2))))
        kernel.exit(child)
        kernel.run_user(make, WRITE, gvas(rng.sample(range(256), 16)))


def _compile(guest: Guest, process: Process, text: int, heap: int) -> None:
    """Let a program run with locality: each burst fetches from few pages of text and writes a new page."""
    kernel, rng = guest.kernel, guest.rng
    weights = list(accumulate(1 / (rank + 1) for rank in range(text)))
    kinds, addresses = array("B"), array("Q")
    for page in range(min(heap, 4 * heap)):
        fetched = rng.choices(range(text), cum_weights=weights, k=4)
        kinds.extend([FETCH] * 4)
        addresses.extend(TEXT + one << PAGE_SHIFT for one in fetched)
        kinds.extend([WRITE, READ, WRITE])
        addresses.extend([FIRST + page << PAGE_SHIFT, FIRST + rng.randrange(page + 1) << PAGE_SHIFT])
        addresses.append(STACK + rng.randrange(4) << PAGE_SHIFT)
    kernel.run_user(process, kinds, addresses)


@workload(
    "switch-ring",
    processes="processes that pass a token",
    rounds="times that the token goes round",
    pages="pages that each writes when it has the token",
)
def switch_ring(guest: Guest, processes: int = 8, rounds: int = 50, pages: int = 16) -> Iterator[None]:
    """Processes in a ring wake each other, and each writes its own pages."""
    kernel = guest.kernel
    ring = [kernel.spawn(areas_of_program("ring", 16, pages)) for _ in range(processes)]
    written = gvas(range(pages))
    for process in ring:
        kernel.run_user(process, WRITE, written)
    yield
    for _ in range(rounds):
        for process in ring:
            kernel.run_user(process, WRITE, written)


@workload(
    "table-churn",
    tables="leaf tables that the process uses",
    rounds="times that one page of each is unmapped and mapped again",
)
def table_churn(guest: Guest, tables: int = 32, rounds: int = 50) -> Iterator[None]:
    """A process maps and unmaps single pages far from each other, so that tables come and go."""
    kernel = guest.kernel
    process = kernel.spawn(areas_of_program("churn", 16, 16))
    run_program(guest, process, text=16, heap=16)
    areas = [Area(MAPS + 1024 * n, MAPS + 1024 * n + 1, Kind.PRIVATE) for n in range(tables)]
    yield
    for _ in range(rounds):
        for area in areas:
            kernel.mmap(process, area)
            kernel.run_user(process, WRITE, array("Q", [area.first << PAGE_SHIFT]))
        for area in areas:
            kernel.munmap(process, area)


@workload(
    "shared-tables",
    processes="processes that share the leaf table of a mapping",
    rounds="times that one of them writes a gpte in it and another looks the page up",
)
def shared_tables(guest: Guest, processes: int = 4, rounds: int = 100) -> Iterator[None]:
    """Directory entries that lead to the same leaf table are used for the first time while it is unsync."""
    kernel = guest.kernel
    region = kernel.mode.page_size(2)
    frame = kernel.frames.take()
    start = MAPS << PAGE_SHIFT
    guest.vm.map(start, frame)
    table = guest.vm.gpte_address(start)
    directory = guest.vm.gpte_address(start, 2)
    entry = guest.vm.host_read(directory, kernel.mode.entry_size)
    kernel_read = Stream()
    kernel_read.add(0, start)
    guest.cpus[0].run(kernel_read)
    yield
    kind = STORE8 if kernel.mode.entry_size == 8 else STORE4
    for turn in range(rounds):
        slot = 1 + turn % max(processes, 1)
        stream = Stream()
        stream.add(kind, kernel.direct_address(directory + slot * kernel.mode.entry_size), entry)
        stream.add(kind, kernel.direct_address(table + 8 * kernel.mode.entry_size), 0)
        stream.add(0, start + slot * region)
        stream.add(kind, kernel.direct_address(directory + slot * kernel.mode.entry_size), 0)
        stream.add(INVLPG, start + slot * region)
        guest.cpus[0].run(stream)
