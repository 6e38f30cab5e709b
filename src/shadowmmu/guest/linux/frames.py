"""Guest-physical pages: who has them, and the page cache."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from .directory import reopened
from .entry import Memory, Work
from .layout import DIRECT_MAP, KERNEL_PGD, PAGE, TEXT

if TYPE_CHECKING:
    from .shared_pages import SharedFile

ZEROES = bytes(PAGE)
READAHEAD = 16
"""Pages that are read from a file at once, aligned (fault-around)."""


class OutOfMemory(Exception):
    """All of the guest's memory is in use."""


class Frames:
    """The pages of guest memory from `first` on, by their addresses.

    Pages of page tables come back zeroed by the vCPU and are used for page tables again: other pages are
    zeroed from outside, which KVM does not see.
    """

    def __init__(self, memory: Memory, work: Work, first: int) -> None:
        self.memory = memory
        self.work = work
        self._next = first
        self._end = memory.size & -PAGE
        self._free: list[int] = []
        self._tables: list[int] = []
        self._pgds: list[int] = []
        self._users: dict[int, int] = {}
        self.files: dict[tuple[int, ...], FilePages] = {}
        self.shared_files: dict[tuple[int, int], SharedFile] = {}

    @property
    def total(self) -> int:
        return self._end

    @property
    def free(self) -> int:
        """Bytes that are not in use."""
        return self._end - self._next + PAGE * len(self._free)

    def page(self, data: bytes | None = None) -> int:
        """Return a page with one user that holds `data`, or zeroes. Raises OutOfMemory."""
        if self._free:
            gpa = self._free.pop()
            self.memory.write(gpa, ZEROES if data is None else data)
        else:
            gpa = self._fresh()
            if data is not None:
                self.memory.write(gpa, data)
        self._users[gpa] = 1
        return gpa

    def _fresh(self) -> int:
        if self._next >= self._end:
            for pages in self.files.values():
                pages.forget()
            if self._free:
                gpa = self._free.pop()
                self.memory.write(gpa, ZEROES)
                return gpa
            raise OutOfMemory
        self._next += PAGE
        return self._next - PAGE

    def share(self, gpa: int) -> None:
        self._users[gpa] += 1

    def drop(self, gpa: int) -> None:
        """Count one user less; after the last one the page is free."""
        users = self._users[gpa] - 1
        if users:
            self._users[gpa] = users
        else:
            del self._users[gpa]
            self._free.append(gpa)

    def share_all(self, pages: Iterable[int]) -> None:
        users = self._users
        for gpa in pages:
            users[gpa] += 1

    def drop_all(self, pages: Iterable[int]) -> None:
        users = self._users
        for gpa in pages:
            left = users[gpa] - 1
            if left:
                users[gpa] = left
            else:
                del users[gpa]
                self._free.append(gpa)

    def users(self, gpa: int) -> int:
        return self._users[gpa]

    # -- page tables -------------------------------------------------------------------------------------

    def table(self) -> int:
        """Return a page of zeroes for a page table. Raises OutOfMemory."""
        if self._tables:
            return self._tables.pop()
        gpa = self._free.pop() if self._free else self._fresh()
        self.work.fill(gpa, PAGE // 8)
        return gpa

    def pgd(self) -> int:
        """Return a root that maps the kernel only. Raises OutOfMemory."""
        if self._pgds:
            return self._pgds.pop()
        gpa = self.table()
        for index in (DIRECT_MAP >> 39 & 511, TEXT >> 39 & 511):
            entry = int.from_bytes(self.memory.read(KERNEL_PGD + 8 * index, 8), "little")
            self.work.store(gpa + 8 * index, entry)
        return gpa

    def give_back(self, tables: Iterable[int], pgd: int) -> None:
        """Take back page tables that the vCPU has cleared."""
        self._tables += tables
        self._pgds.append(pgd)

    # -- the page cache ----------------------------------------------------------------------------------

    def file_pages(self, fd: int) -> "FilePages":
        """Return the cached pages of an open file as it is now."""
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        pages = self.files.get(key)
        if pages is None:
            pages = self.files[key] = FilePages(self, reopened(fd, os.O_RDONLY), status.st_size)
        return pages

    def forget_shared_file(self, file: "SharedFile") -> None:
        """Forget a file that is mapped nowhere any more."""
        self.shared_files = {key: one for key, one in self.shared_files.items() if one is not file}

    def close(self) -> None:
        """Close the files of the page cache."""
        for file in self.shared_files.values():
            file.store()
            os.close(file.fd)
        self.shared_files.clear()
        for pages in self.files.values():
            os.close(pages.fd)
        self.files.clear()


class CachedFile(Protocol):
    """A file with pages in memory.

    Attributes:
        frames: Where the pages come from.
        fd: The file's descriptor.
        size: Bytes of the file when it was last looked at.
        pages: Number of a page -> its guest-physical address.
    """

    frames: Frames
    fd: int
    size: int
    pages: dict[int, int]


def drop_beyond_end(file: CachedFile) -> int | None:
    """Drop the pages beyond the end of a file that became shorter. Return the first of them, or None."""
    before, file.size = file.size, os.fstat(file.fd).st_size
    if file.size >= before:
        return None
    first = -(-file.size // PAGE)
    for index in [index for index in file.pages if index >= first]:
        file.frames.drop(file.pages.pop(index))
    return first


class FilePages:
    """A file's pages in memory, shared by all who map it."""

    def __init__(self, frames: Frames, fd: int, size: int) -> None:
        self.frames = frames
        self.fd = fd
        self.size = size
        self.pages: dict[int, int] = {}

    def get(self, index: int) -> int | None:
        """Return page `index` of the file; None beyond its end. Raises OutOfMemory, OSError."""
        gpa = self.pages.get(index)
        if gpa is not None:
            return gpa
        self.size = max(self.size, os.fstat(self.fd).st_size)
        if index * PAGE >= self.size:
            return None
        first = index & -READAHEAD
        data = os.pread(self.fd, READAHEAD * PAGE, first * PAGE)
        for number in range(first, first + READAHEAD):
            offset = (number - first) * PAGE
            if number not in self.pages and offset < len(data):
                self.pages[number] = self.frames.page(data[offset : offset + PAGE].ljust(PAGE, b"\0"))
        return self.pages.get(index)

    def cut(self) -> int | None:
        """Drop the pages beyond the end of a file that became shorter, and clear what follows its end in the
        last page. Return the first page dropped, or None if the file did not become shorter.
        """
        first = drop_beyond_end(self)
        if first is not None and self.size % PAGE and first - 1 in self.pages:
            rest = PAGE - self.size % PAGE
            self.frames.memory.write(self.pages[first - 1] + PAGE - rest, bytes(rest))
        return first

    def forget(self) -> None:
        """Give back the pages that nobody maps."""
        for index, gpa in list(self.pages.items()):
            if self.frames.users(gpa) == 1:
                del self.pages[index]
                self.frames.drop(gpa)
