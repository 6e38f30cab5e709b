"""A small guest kernel: processes with page tables in guest memory, as Linux keeps them.

It has no code: what it does to memory is a stream of accesses and stores, made through a direct map of all
memory in the upper half of each address space, and of INVLPG and MOV to CR3, in the order of Linux's mm
(fork with copy on write, demand paging, exec, munmap with page by page or full flush). What runs at user
level is given as accesses; their page faults come back here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby

from ...kvm.state.vcpu import QueuedException
from ...x86.bits import PF_VECTOR, PFERR_P, PFERR_W, PS, A, D, P, U, W
from ..scenario.modes import Mode
from .frames import Frames
from .stream import CLEAR, INVLPG, MOV_CR3, STORE4, STORE8
from .stream_cpu import Stream, StreamCpu

__all__ = ["Area", "GuestKernel", "KernelPanic", "Kind", "Process"]

PAGE_SHIFT, PAGE = 12, 4096
FLUSH_CEILING = 33
"""Most pages that are flushed one by one (Linux: tlb_single_page_flush_ceiling)."""
READ, WRITE = 0, 1
TABLE_FLAGS = P | W | U | A
DIRECT_MAPS = {"long4": 0xFFFF888000000000, "long5": 0xFF11000000000000, "pae": 0xC0000000, "32": 0xC0000000}
"""Where a guest of each paging mode has all memory mapped."""
HUGE_LEVEL = 2


class KernelPanic(Exception):
    """The guest got an exception that its kernel has no answer to: the workload is wrong."""


class Kind(Enum):
    """What fills the pages of an area."""

    PRIVATE = "private"
    """Zeros; fork shares the pages until one side writes."""
    SHARED = "shared"
    """Zeros, shared with the children."""
    FILE = "file"
    """A file in the page cache, read-only."""


@dataclass(frozen=True, slots=True)
class Area:
    """Virtual memory from page `first` to before page `end`.

    Attributes:
        first: Number of the first page.
        end: Number of the page after the last.
        kind: What fills it.
        file: The file, by any name; "" if it is none.
        huge: Mapped by pages of level 2.
    """

    first: int
    end: int
    kind: Kind
    file: str = ""
    huge: bool = False


@dataclass(slots=True)
class Process:
    """A process.

    Attributes:
        pid: Its number.
        root: Guest-physical address of its root table.
        areas: Its areas, in order.
        pages: Leaf gptes by number of the page (of the first 4 KiB page, for huge ones).
        tables: Guest-physical addresses of its tables below the root by (level, number of the first page
            shifted by what a table of the level maps).
        filled: Entries in use of each of these tables, by its address.
    """

    pid: int
    root: int
    areas: list[Area] = field(default_factory=list)
    pages: dict[int, int] = field(default_factory=dict)
    tables: dict[tuple[int, int], int] = field(default_factory=dict)
    filled: dict[int, int] = field(default_factory=dict)

    def area(self, page: int) -> Area | None:
        """Return the area that has a page."""
        at = bisect_right(self.areas, page, key=lambda area: area.first)
        found = self.areas[at - 1] if at else None
        return found if found is not None and page < found.end else None


class GuestKernel:
    """A guest kernel on some vCPUs.

    The direct map of `mode` must exist in the tables at `root`, which are those of the kernel: each process
    gets copies of their entries. `frames` is the memory that may be used. A vCPU starts without a process.
    """

    def __init__(
        self, cpus: Sequence[StreamCpu], mode: Mode, root: int, kernel_entries: dict[int, int], frames: Frames
    ) -> None:
        self.cpus = cpus
        self.mode = mode
        self.root = root
        self.frames = frames
        self.kernel_entries = kernel_entries
        self.current: list[Process | None] = [None] * len(cpus)
        self.processes: dict[int, Process] = {}
        self.page_cache: dict[tuple[str, int], int] = {}
        self._direct = DIRECT_MAPS[mode.name]
        self._store = STORE8 if mode.entry_size == 8 else STORE4
        self._top = 2 if mode.name == "32" else mode.levels
        self._next_pid = 1
        self._interrupts: dict[int, Stream] = {}

    def direct_address(self, gpa: int) -> int:
        """Return where the kernel has a guest-physical address mapped."""
        return self._direct + gpa

    # -- streams -------------------------------------------------------------------------------------------

    def _set(self, stream: Stream, table: int, index: int, entry: int) -> None:
        stream.add(self._store, self._direct + table + index * self.mode.entry_size, entry)

    def _new_frame(self, stream: Stream) -> int:
        """Take a frame and clear it."""
        frame = self.frames.take()
        stream.add(CLEAR, self._direct + frame)
        return frame

    def _index(self, page: int, level: int) -> int:
        return self.mode.index(page << PAGE_SHIFT, level)

    def _table(self, stream: Stream, process: Process, page: int, level: int) -> int:
        """Return the table of `level` for a page, made with those above it if it is missing."""
        if level == self._top:
            return process.root
        bits = self.mode.index_bits
        key = (level, page >> bits * level)
        table = process.tables.get(key)
        if table is None:
            above = self._table(stream, process, page, level + 1)
            table = self._new_frame(stream)
            process.tables[key] = table
            process.filled[table] = 0
            entry = self.mode.nonleaf(table, level + 1, TABLE_FLAGS)
            self._set(stream, above, self._index(page, level + 1), entry)
            if above != process.root:
                process.filled[above] += 1
            elif self.mode.name == "pae":
                stream.add(MOV_CR3, 0, process.root)
        return table

    def _map(self, stream: Stream, process: Process, page: int, pte: int, level: int) -> None:
        table = self._table(stream, process, page, level)
        self._set(stream, table, self._index(page, level), pte)
        if page not in process.pages and table != process.root:
            process.filled[table] += 1
        process.pages[page] = pte

    def _unmap(self, stream: Stream, process: Process, pages: Iterable[int]) -> None:
        """Clear leaves and give their frames back (zap_pte_range)."""
        for run in self._runs(process, pages):
            level = HUGE_LEVEL if process.pages[run[0]] & PS else 1
            table = self._table(stream, process, run[0], level)
            at = self._direct + table
            self.frames.drop(process.pages.pop(page) & ~0xFFF for page in run)
            gvas = [at + offset for offset in self._offsets(run, level)]
            stream.stores(self._store, gvas, [0] * len(run))
            if table != process.root:
                process.filled[table] -= len(run)

    def _free_tables(self, stream: Stream, process: Process) -> None:
        """Free the tables that map nothing (free_pgtables), lowest first."""
        bits = self.mode.index_bits
        for key in sorted(process.tables):
            level, region = key
            table = process.tables[key]
            if process.filled[table]:
                continue
            page = region << bits * level
            above = (
                process.root
                if level + 1 == self._top
                else process.tables[level + 1, page >> bits * (level + 1)]
            )
            self._set(stream, above, self._index(page, level + 1), 0)
            if above != process.root:
                process.filled[above] -= 1
            del process.tables[key], process.filled[table]
            self.frames.drop([table])

    def _flush(self, stream: Stream, process: Process, pages: Sequence[int], cpu: int) -> None:
        """Flush pages of a process on the vCPU that changes them with `stream`.

        Others that run it get an interrupt, once the stream has run.
        """
        for number, running in enumerate(self.current):
            if running is not process:
                continue
            there = stream if number == cpu else self._interrupts.setdefault(number, Stream())
            if len(pages) <= FLUSH_CEILING:
                for page in pages:
                    there.add(INVLPG, page << PAGE_SHIFT)
            else:
                there.add(MOV_CR3, 0, process.root)

    def _run(self, cpu: int, stream: Stream) -> None:
        """Run code of the kernel, then what it has others do by interrupts."""
        self._run_alone(cpu, stream)
        interrupts, self._interrupts = self._interrupts, {}
        for number, there in interrupts.items():
            self._run_alone(number, there)

    def _run_alone(self, cpu: int, stream: Stream) -> None:
        """Run code of the kernel, which has no page faults."""
        at, exception = self.cpus[cpu].run(stream)
        if exception is not None:
            raise KernelPanic(
                f"exception {exception.vector} in the kernel at {stream.gvas[at]:#x}, kind {stream.kinds[at]}"
            )

    # -- processes -----------------------------------------------------------------------------------------

    def _new_process(self, stream: Stream) -> Process:
        root = self.frames.take_low() if self.mode.name == "pae" else self.frames.take()
        stream.add(CLEAR, self._direct + root)
        process = Process(self._next_pid, root)
        self._next_pid += 1
        self.processes[process.pid] = process
        for index, entry in self.kernel_entries.items():
            self._set(stream, root, index, entry)
        return process

    def spawn(self, areas: Iterable[Area] = (), cpu: int = 0) -> Process:
        """Make a process with these areas, none of whose pages is mapped."""
        stream = Stream()
        process = self._new_process(stream)
        process.areas = sorted(areas, key=lambda area: area.first)
        self._run(cpu, stream)
        return process

    def switch(self, process: Process, cpu: int = 0) -> None:
        """Switch a vCPU to a process, by MOV to CR3."""
        if self.current[cpu] is process:
            return
        stream = Stream()
        stream.add(MOV_CR3, 0, process.root)
        self._run(cpu, stream)
        self.current[cpu] = process

    def fork(self, parent: Process, cpu: int = 0) -> Process:
        """Copy the address space of the process that runs on `cpu` (dup_mm).

        Private pages become read-only in both, pages of files are left to the child's faults.
        """
        stream = Stream()
        child = self._new_process(stream)
        child.areas = list(parent.areas)
        for area in parent.areas:
            if area.kind is not Kind.FILE:
                for run in self._runs(parent, _pages_of(parent, area)):
                    self._copy_run(stream, parent, child, run, private=area.kind is Kind.PRIVATE)
        self._flush(stream, parent, range(FLUSH_CEILING + 1), cpu)
        self._run(cpu, stream)
        return child

    def _copy_run(
        self, stream: Stream, parent: Process, child: Process, pages: list[int], *, private: bool
    ) -> None:
        """Copy gptes of one table, each after its parent's was write-protected (copy_pte_range)."""
        level = HUGE_LEVEL if parent.pages[pages[0]] & PS else 1
        above = self._direct + self._table(stream, parent, pages[0], level)
        table = self._table(stream, child, pages[0], level)
        below = self._direct + table
        keep = ~(W | D) if private else ~0
        old, new = parent.pages, child.pages
        gvas: list[int] = []
        values: list[int] = []
        for page, at in zip(pages, self._offsets(pages, level), strict=True):
            pte = old[page]
            if private and pte & W:
                old[page] = pte & ~W
                gvas.append(above + at)
                values.append(pte & ~W)
            new[page] = pte & keep
            gvas.append(below + at)
            values.append(pte & keep)
        self.frames.share(new[page] & ~0xFFF for page in pages)
        stream.stores(self._store, gvas, values)
        if table != child.root:
            child.filled[table] += len(pages)

    def _offsets(self, pages: list[int], level: int) -> list[int]:
        """Return where the gptes of pages are in their table of `level`, in bytes."""
        shift, entry = self.mode.index_bits * (level - 1), self.mode.entry_size
        mask = (1 << self.mode.index_bits) - 1
        return [(page >> shift & mask) * entry for page in pages]

    def _runs(self, process: Process, pages: Iterable[int]) -> Iterator[list[int]]:
        """Return pages in lists of those whose gptes are in one table."""
        bits = self.mode.index_bits

        def table(page: int) -> tuple[int, int]:
            level = HUGE_LEVEL if process.pages[page] & PS else 1
            return level, page >> bits * level

        for _, run in groupby(pages, key=table):
            yield list(run)

    def exec(self, process: Process, areas: Iterable[Area], cpu: int = 0) -> None:
        """Replace all that the process that runs on `cpu` has mapped."""
        stream = Stream()
        self._drop_all(stream, process, cpu)
        process.areas = sorted(areas, key=lambda area: area.first)
        self._run(cpu, stream)

    def exit(self, process: Process, cpu: int = 0) -> None:
        """End a process: vCPUs that run it switch to the kernel's own tables, then its memory is freed."""
        stream = Stream()
        for number, running in enumerate(self.current):
            if running is process:
                there = stream if number == cpu else Stream()
                there.add(MOV_CR3, 0, self.root)
                if number != cpu:
                    self._run(number, there)
                self.current[number] = None
        self._drop_all(stream, process, cpu)
        self.frames.drop([process.root])
        del self.processes[process.pid]
        self._run(cpu, stream)

    def _drop_all(self, stream: Stream, process: Process, cpu: int) -> None:
        self._unmap(stream, process, sorted(process.pages))
        process.areas = []
        self._flush(stream, process, range(FLUSH_CEILING + 1), cpu)
        self._free_tables(stream, process)

    # -- areas ---------------------------------------------------------------------------------------------

    def mmap(self, process: Process, area: Area) -> None:
        """Add an area; its pages come with their first access."""
        process.areas.append(area)
        process.areas.sort(key=lambda area: area.first)

    def populate(self, process: Process, area: Area, cpu: int = 0) -> None:
        """Map all pages of an area that was not touched yet, writable, in one go (MAP_POPULATE)."""
        bits = self.mode.index_bits
        first = area.first
        while first < area.end:
            end = min(area.end, (first >> bits) + 1 << bits)
            stream = Stream()
            frames = [self.frames.take() for _ in range(first, end)]
            table = self._table(stream, process, first, 1)
            stream.accesses(CLEAR, array("Q", [self._direct + frame for frame in frames]))
            at = self._direct + table
            ptes = [frame | P | W | U | A | D for frame in frames]
            pages = list(range(first, end))
            stream.stores(self._store, [at + offset for offset in self._offsets(pages, 1)], ptes)
            process.pages.update(zip(pages, ptes, strict=True))
            if table != process.root:
                process.filled[table] += end - first
            self._run(cpu, stream)
            first = end

    def munmap(self, process: Process, area: Area, cpu: int = 0) -> None:
        """Remove an area of the process that runs on `cpu`: clear its gptes, flush, free tables."""
        process.areas.remove(area)
        stream = Stream()
        pages = list(_pages_of(process, area))
        self._unmap(stream, process, pages)
        if pages:
            self._flush(stream, process, pages, cpu)
            self._free_tables(stream, process)
        self._run(cpu, stream)

    # -- user level ----------------------------------------------------------------------------------------

    def run_user(self, process: Process, kinds: array[int] | int, gvas: array[int], cpu: int = 0) -> None:
        """Make accesses at user level (kinds 4 read, 5 write, 6 fetch), with their page faults."""
        self.switch(process, cpu)
        stream = Stream()
        stream.accesses(kinds, gvas)
        at = 0
        while True:
            at, exception = self.cpus[cpu].run(stream, at)
            if exception is None:
                return
            self._page_fault(process, exception, gvas[at], cpu)

    def _page_fault(self, process: Process, exception: QueuedException, gva: int, cpu: int) -> None:
        page = gva >> PAGE_SHIFT
        area = process.area(page)
        if exception.vector != PF_VECTOR or area is None:
            raise KernelPanic(f"process {process.pid}: exception {exception.vector} at {gva:#x}")
        error = exception.error_code or 0
        stream = Stream()
        if area.huge:
            page -= page % (1 << self.mode.index_bits)
        if error & PFERR_P:
            if not error & PFERR_W or area.kind is Kind.FILE:
                raise KernelPanic(f"process {process.pid}: {gva:#x} is read-only")
            self._copy_on_write(stream, process, page, cpu)
        else:
            self._demand(stream, process, page, area, write=bool(error & PFERR_W))
        self._run(cpu, stream)

    def _demand(self, stream: Stream, process: Process, page: int, area: Area, *, write: bool) -> None:
        """Map a page at its first access."""
        if area.kind is Kind.FILE:
            key = (area.file, page - area.first)
            frame = self.page_cache.get(key)
            if frame is None:
                frame = self.page_cache[key] = self._new_frame(stream)
            self.frames.share([frame])
            self._map(stream, process, page, frame | P | U | A, 1)
            return
        writable = write or area.kind is Kind.SHARED
        flags = P | U | A | (W | D if writable else 0)
        if area.huge:
            frame = self.frames.take_huge(self.mode.page_size(HUGE_LEVEL))
            stream.add(WRITE, self._direct + frame)
            self._map(stream, process, page, frame | flags | PS, HUGE_LEVEL)
            return
        self._map(stream, process, page, self._new_frame(stream) | flags, 1)

    def _copy_on_write(self, stream: Stream, process: Process, page: int, cpu: int) -> None:
        """Make a private page writable: the frame itself if nobody else has it, else a copy."""
        old = process.pages[page]
        frame, level = old & ~0xFFF, HUGE_LEVEL if old & PS else 1
        if self.frames.users(frame) > 1:
            size = self.mode.page_size(level)
            copy = self.frames.take() if level == 1 else self.frames.take_huge(size)
            stream.add(READ, self._direct + frame)
            stream.add(WRITE, self._direct + copy)
            self.frames.drop([frame])
            frame = copy
        self._map(stream, process, page, frame | P | W | U | A | D | (old & PS), level)
        self._flush(stream, process, [page], cpu)


def _pages_of(process: Process, area: Area) -> Iterator[int]:
    """Return the mapped pages of an area, in order."""
    if area.end - area.first <= len(process.pages):
        return iter([page for page in range(area.first, area.end) if page in process.pages])
    return iter(sorted(page for page in process.pages if area.first <= page < area.end))
