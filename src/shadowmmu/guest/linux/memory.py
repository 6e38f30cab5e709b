"""Address spaces: areas, page tables in guest memory, demand paging, copy-on-write.

`pages` mirrors the leaf entries by virtual page number, without what the processor adds (A and D): the tables
themselves are only written, through the entry code (`Work`).
"""

import errno
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from .entry import NX, A, D, P, U, W, Work
from .frames import READAHEAD, FilePages, Frames
from .layout import LOWEST_MMAP, MMAP_TOP, PAGE, USER_END
from .shared_pages import SharedPages

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
ADDRESS = 0x000FFFFFFFFFF000
TABLE_ENTRY = P | W | U | A
INDEX_BITS = 9
MOST_AREAS = 65530


class BadAccess(Exception):
    """SIGSEGV: no area, or one that does not allow it. `mapped`: there is an area."""

    def __init__(self, address: int, *, mapped: bool) -> None:
        super().__init__(f"{address:#x}")
        self.address = address
        self.mapped = mapped


class BeyondFile(Exception):
    """SIGBUS: a page of a mapping beyond the end of its file."""

    def __init__(self, address: int) -> None:
        super().__init__(f"{address:#x}")
        self.address = address


@dataclass(slots=True)
class Area:
    """A range of addresses with one protection; `offset` is in pages, of what backs it."""

    start: int
    end: int
    prot: int
    file: FilePages | None = None
    shared: SharedPages | None = None
    offset: int = 0
    name: str = ""

    def part(self, start: int, end: int) -> "Area":
        return Area(
            start,
            end,
            self.prot,
            self.file,
            self.shared,
            self.offset + (start - self.start) // PAGE,
            self.name,
        )

    def continues(self, other: "Area") -> bool:
        """Return whether `other`, which follows it, is more of the same."""
        return (
            self.end == other.start
            and self.prot == other.prot
            and self.name == other.name
            and self.file is None
            and other.file is None
            and self.shared is None
            and other.shared is None
        )


def page_up(value: int) -> int:
    """Round up to whole pages."""
    return -(-value // PAGE) * PAGE


class AddressSpace:
    """The memory of a process, or of several threads. Raises OutOfMemory."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.memory = frames.memory
        self.work: Work = frames.work
        self.areas: list[Area] = []
        self.starts: list[int] = []
        self.pages: dict[int, int] = {}
        self.tables: tuple[dict[int, int], ...] = ({}, {}, {})
        """By level from the leaf tables up: what a table maps, as its prefix of the address; its address."""
        self.pgd = frames.pgd()
        self.brk_start = self.brk = 0
        self.active = False
        """Whether the processor's CR3 is `pgd`."""
        self.users = 1

    # -- page tables -------------------------------------------------------------------------------------

    def _slot(self, page: int) -> int:
        """Return the address of the leaf entry of a virtual page; make its tables if need be."""
        table = self.tables[0].get(page >> INDEX_BITS)
        if table is None:
            table = self._table(0, page >> INDEX_BITS)
        return table + 8 * (page & 511)

    def _table(self, level: int, prefix: int) -> int:
        if level == 3:
            return self.pgd
        table = self.tables[level].get(prefix)
        if table is None:
            above = self._table(level + 1, prefix >> INDEX_BITS)
            table = self.tables[level][prefix] = self.frames.table()
            self.work.store(above + 8 * (prefix & 511), table | TABLE_ENTRY)
        return table

    def _map(self, page: int, entry: int) -> None:
        """Set an entry that was not present."""
        self.pages[page] = entry
        self.work.store(self._slot(page), entry)

    def _change(self, page: int, entry: int) -> None:
        """Change an entry that may be cached."""
        self.pages[page] = entry
        self.work.store(self._slot(page), entry)
        if self.active:
            self.work.invalidate(page * PAGE)

    def _unmap(self, page: int) -> None:
        entry = self.pages.pop(page)
        self.frames.drop(entry & ADDRESS)
        if entry & P:
            self.work.store(self._slot(page), 0)
            if self.active:
                self.work.invalidate(page * PAGE)

    # -- areas -------------------------------------------------------------------------------------------

    def find(self, address: int) -> Area | None:
        position = bisect_right(self.starts, address) - 1
        if position >= 0:
            area = self.areas[position]
            if address < area.end:
                return area
        return None

    def overlapping(self, start: int, end: int) -> Iterator[Area]:
        position = max(bisect_right(self.starts, start) - 1, 0)
        while position < len(self.areas) and self.areas[position].start < end:
            if self.areas[position].end > start:
                yield self.areas[position]
            position += 1

    def covered(self, start: int, end: int) -> bool:
        """Return whether there are areas without a gap."""
        for area in self.overlapping(start, end):
            if area.start > start:
                return False
            start = area.end
        return start >= end

    def add(self, area: Area) -> None:
        """Add an area where nothing is; neighbours of its kind become one. Raises OSError."""
        if len(self.areas) >= MOST_AREAS:
            raise OSError(errno.ENOMEM, "too many mappings")
        if area.shared is not None:
            area.shared.areas += 1
        position = bisect_right(self.starts, area.start)
        if position and self.areas[position - 1].continues(area):
            self.areas[position - 1].end = area.end
            position -= 1
        else:
            self.areas.insert(position, area)
            self.starts.insert(position, area.start)
        if position + 1 < len(self.areas) and self.areas[position].continues(self.areas[position + 1]):
            self.areas[position].end = self.areas[position + 1].end
            del self.areas[position + 1], self.starts[position + 1]

    def _split(self, address: int) -> None:
        area = self.find(address)
        if area is None or area.start == address:
            return
        upper = area.part(address, area.end)
        area.end = address
        position = bisect_right(self.starts, area.start)
        self.areas.insert(position, upper)
        self.starts.insert(position, address)
        if upper.shared is not None:
            upper.shared.areas += 1

    def _mapped(self, start: int, end: int) -> list[int]:
        """Return the virtual pages of a range that have an entry."""
        first, last = start // PAGE, end // PAGE
        if last - first < len(self.pages):
            return [page for page in range(first, last) if page in self.pages]
        return sorted(page for page in self.pages if first <= page < last)

    def unmap(self, start: int, end: int) -> None:
        self._split(start)
        self._split(end)
        for area in list(self.overlapping(start, end)):
            position = bisect_right(self.starts, area.start) - 1
            del self.areas[position], self.starts[position]
            if area.shared is not None:
                area.shared.leave()
        for page in self._mapped(start, end):
            self._unmap(page)

    def discard(self, start: int, end: int) -> None:
        """Drop pages as madvise(MADV_DONTNEED): private ones are read or zeroed again."""
        for area in self.overlapping(start, end):
            for page in self._mapped(max(area.start, start), min(area.end, end)):
                self._unmap(page)

    def cut(self, backing: FilePages | SharedPages, first: int) -> None:
        """Unmap what maps the pages of a file from `first` on: copies of them, too."""
        for area in self.areas:
            if backing in (area.file, area.shared):
                beyond = area.start + max(first - area.offset, 0) * PAGE
                for page in self._mapped(beyond, area.end):
                    self._unmap(page)

    def protect(self, start: int, end: int, prot: int) -> None:
        """Change rights as mprotect(): up to the first gap, as Linux does. Raises OSError."""
        self._split(start)
        self._split(end)
        reached = start
        for area in self.overlapping(start, end):
            if area.start > reached:
                break
            if prot & PROT_WRITE and area.shared is not None and not area.shared.writable:
                raise OSError(errno.EACCES, "a file that is open for reading")
            reached = area.end
            if area.prot == prot:
                continue
            area.prot = prot
            for page in self._mapped(area.start, area.end):
                old = self.pages[page]
                entry = old & ~(P | W | NX) | self._rights(prot)
                if prot & PROT_WRITE and self._is_own(area, old & ADDRESS):
                    entry |= W
                if entry == old:
                    continue
                if (old | entry) & P:
                    self._change(page, entry)
        if reached < end:
            raise OSError(errno.ENOMEM, "not mapped")

    def free_range(self, size: int, hint: int = 0, top: int = MMAP_TOP) -> int:
        """Return where a new mapping can be: at the hint, or below others and `top`. Raises OSError."""
        hint = hint & -PAGE
        if hint >= LOWEST_MMAP and hint + size <= USER_END and not any(self.overlapping(hint, hint + size)):
            return hint
        end = top
        for area in reversed(self.areas):
            if area.start >= end:
                continue
            if area.end <= end - size:
                break
            end = area.start
        if end - size < LOWEST_MMAP:
            raise OSError(errno.ENOMEM, "no address space")
        return end - size

    def move(self, start: int, old_size: int, target: int, new_size: int) -> None:
        """Move an area's pages to other addresses, where nothing is, and let it grow."""
        area = self.find(start)
        assert area is not None
        self._split(start)
        self._split(start + old_size)
        area = self.find(start)
        assert area is not None
        moved = area.part(start, start + new_size)
        moved.start, moved.end = target, target + new_size
        self.add(moved)
        for page in self._mapped(start, start + old_size):
            entry = self.pages[page]
            self.frames.share(entry & ADDRESS)
            self._map(page + (target - start) // PAGE, entry)
        self.unmap(start, start + old_size)

    # -- faults ------------------------------------------------------------------------------------------

    @staticmethod
    def _rights(prot: int) -> int:
        """Return the bits of an entry but W, which comes with the right to write to this very page."""
        entry = U | A
        if prot:
            entry |= P
        return entry if prot & PROT_EXEC else entry | NX

    def _is_own(self, area: Area, gpa: int) -> bool:
        """Return whether a page that is mapped in an area may be written to without a copy."""
        return area.shared is not None or self.frames.users(gpa) == 1

    def fault(self, address: int, *, write: bool, fetch: bool = False) -> None:
        """Make an access possible. Raises BadAccess, BeyondFile, OutOfMemory."""
        area = self.find(address)
        if area is None:
            raise BadAccess(address, mapped=False)
        prot = area.prot
        if not prot or write and not prot & PROT_WRITE or fetch and not prot & PROT_EXEC:
            raise BadAccess(address, mapped=True)
        page = address // PAGE
        old = self.pages.get(page)
        if old is not None:
            if write and not old & W:
                self._write_to(area, page, old)
            elif self.active:
                self.work.invalidate(page * PAGE)
        elif area.file is not None:
            self._fault_file(area, area.file, page, write=write)
        else:
            rights = self._rights(prot)
            if area.shared is not None:
                shared = area.shared.get(area.offset + page - area.start // PAGE)
                if shared is None:
                    raise BeyondFile(page * PAGE)
                gpa = shared
                self.frames.share(gpa)
            else:
                gpa = self.frames.page()
            self._map(page, gpa | rights | (D | W if prot & PROT_WRITE else 0))

    def _write_to(self, area: Area, page: int, old: int) -> None:
        """Break copy-on-write."""
        gpa = old & ADDRESS
        if self._is_own(area, gpa):
            self._change(page, old | W | D)
            return
        copy = self.frames.page(self.memory.read(gpa, PAGE))
        self.frames.drop(gpa)
        self._change(page, copy | self._rights(area.prot) | W | D)

    def _fault_file(self, area: Area, file: FilePages, page: int, *, write: bool) -> None:
        """Map a file's page: for a read those around it, too, for a write a copy."""
        first = area.start // PAGE
        gpa = file.get(area.offset + page - first)
        if gpa is None:
            raise BeyondFile(page * PAGE)
        rights = self._rights(area.prot)
        if write:
            copy = self.frames.page(self.memory.read(gpa, PAGE))
            self._map(page, copy | rights | W | D)
            return
        around = max(page & -READAHEAD, first)
        for other in range(around, min((page & -READAHEAD) + READAHEAD, area.end // PAGE)):
            cached = file.pages.get(area.offset + other - first)
            if cached is not None and other not in self.pages:
                self.frames.share(cached)
                self._map(other, cached | rights)

    # -- a whole address space ---------------------------------------------------------------------------

    def copy(self) -> "AddressSpace":
        """Return the child's memory for fork(): everything, private pages to be copied
        when they are written.
        """
        child = AddressSpace(self.frames)
        child.brk_start, child.brk = self.brk_start, self.brk
        child.areas = [area.part(area.start, area.end) for area in self.areas]
        child.starts = list(self.starts)
        shared_pages: set[int] = set()
        for area in child.areas:
            if area.shared is not None:
                area.shared.areas += 1
                shared_pages.update(self._mapped(area.start, area.end))
        child.pages = dict(self.pages)
        for page, entry in self.pages.items():
            if entry & W and page not in shared_pages:
                self.pages[page] = child.pages[page] = entry & ~W
                self.work.store(self._slot(page), entry & ~W)
                self.work.flush_all |= self.active
        self.frames.share_all(entry & ADDRESS for entry in child.pages.values())
        tables = {
            prefix: child._slot(prefix << INDEX_BITS)
            for prefix in {page >> INDEX_BITS for page in child.pages}
        }
        self.work.store_all(
            (tables[page >> INDEX_BITS] + 8 * (page & 511), entry) for page, entry in child.pages.items()
        )
        return child

    def drop(self) -> None:
        """Count one user less; after the last one clear the tables and give all memory back."""
        self.users -= 1
        if self.users:
            return
        for area in self.areas:
            if area.shared is not None:
                area.shared.leave()
        self.frames.drop_all(entry & ADDRESS for entry in self.pages.values())
        leaves, *uppers = self.tables
        for table in leaves.values():
            self.work.fill(table, PAGE // 8)
        for level, prefixes in enumerate(self.tables):
            for prefix in prefixes:
                above = self.pgd if level == 2 else self.tables[level + 1][prefix >> INDEX_BITS]
                self.work.store(above + 8 * (prefix & 511), 0)
        self.frames.give_back([*leaves.values(), *uppers[0].values(), *uppers[1].values()], self.pgd)
        self.work.flush_all |= self.active
        self.pages.clear()
        self.areas.clear()
        self.starts.clear()

    @property
    def resident(self) -> int:
        """Bytes that are mapped."""
        return len(self.pages) * PAGE

    # -- the kernel's accesses to user memory --------------------------------------------------------------

    def _gpa(self, address: int, *, write: bool) -> int:
        """Return the guest-physical address, faulted in if need be. Raises OSError."""
        if not 0 <= address < USER_END:
            raise OSError(errno.EFAULT, "bad address")
        entry = self.pages.get(address // PAGE, 0)
        if not entry & P or write and not entry & W:
            try:
                self.fault(address, write=write)
            except (BadAccess, BeyondFile):
                raise OSError(errno.EFAULT, "bad address") from None
            entry = self.pages[address // PAGE]
        return entry & ADDRESS | address % PAGE

    def reach(self, address: int, size: int, *, write: bool) -> int:
        """Return how many bytes from an address on are mapped for that, up to `size`."""
        reached, end = address, min(address + size, USER_END)
        for area in self.overlapping(address, end):
            if area.start > reached or not area.prot or write and not area.prot & PROT_WRITE:
                break
            reached = area.end
        return max(min(reached, end) - address, 0)

    def read(self, address: int, size: int) -> bytes:
        """Return memory of the process. Raises OSError if some of it cannot be read; then nothing is."""
        offset = address % PAGE
        if not size:
            return b""
        if offset + size <= PAGE:
            return self.memory.read(self._gpa(address, write=False), size)
        parts = []
        while size > 0:
            length = min(size, PAGE - address % PAGE)
            parts.append(self.memory.read(self._gpa(address, write=False), length))
            address, size = address + length, size - length
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> None:
        """Write memory of the process. Raises OSError."""
        if address % PAGE + len(data) <= PAGE:
            if data:
                self.memory.write(self._gpa(address, write=True), data)
            return
        position = 0
        while position < len(data):
            length = min(len(data) - position, PAGE - address % PAGE)
            self.memory.write(self._gpa(address, write=True), data[position : position + length])
            address, position = address + length, position + length

    def string(self, address: int, longest: int = 4096) -> bytes:
        """Return the bytes up to a zero. Raises OSError: EFAULT, or ENAMETOOLONG."""
        parts: list[bytes] = []
        while longest > 0:
            length = min(longest, PAGE - address % PAGE)
            data = self.memory.read(self._gpa(address, write=False), length)
            end = data.find(b"\0")
            if end >= 0:
                return b"".join((*parts, data[:end]))
            parts.append(data)
            address, longest = address + length, longest - length
        raise OSError(errno.ENAMETOOLONG, "too long")

    def read_word(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def read_int(self, address: int) -> int:
        """Return a 32-bit integer with its sign."""
        return int.from_bytes(self.read(address, 4), "little", signed=True)
