"""Pages that are mapped shared: anonymous memory, and files."""

import os
from contextlib import suppress

from .directory import reopened
from .frames import Frames, drop_beyond_end
from .layout import PAGE


class SharedPages:
    """Anonymous memory that is shared: by the processes that inherit it."""

    writable = True

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.pages: dict[int, int] = {}
        self.areas = 0

    def get(self, index: int) -> int | None:
        """Return a page; None where there is none. Raises OutOfMemory."""
        gpa = self.pages.get(index)
        if gpa is None:
            gpa = self.pages[index] = self.frames.page()
        return gpa

    def leave(self) -> None:
        """Count one area less; after the last one give the pages back."""
        self.areas -= 1
        if not self.areas:
            for gpa in self.pages.values():
                self.frames.drop(gpa)
            self.pages.clear()


class SharedFile(SharedPages):
    """A file that is mapped shared: what is written to its pages is written to the file, and the other way.

    The file is the host's: before a system call looks at it, store() writes what has changed, and after one
    that may have changed it, load() reads.
    """

    def __init__(self, frames: Frames, fd: int, *, writable: bool) -> None:
        super().__init__(frames)
        self.fd = reopened(fd, os.O_RDWR if writable else os.O_RDONLY)
        self.writable = writable
        self.size = os.fstat(fd).st_size
        self._stored: dict[int, bytes] = {}

    def write_through(self, fd: int) -> None:
        """Reopen the file for writing: somebody has it open so and maps it."""
        if not self.writable:
            os.close(self.fd)
            self.fd = reopened(fd, os.O_RDWR)
            self.writable = True

    def get(self, index: int) -> int | None:
        gpa = self.pages.get(index)
        if gpa is None:
            data = os.pread(self.fd, PAGE, index * PAGE)
            if data:
                self._stored[index] = data.ljust(PAGE, b"\0")
                gpa = self.pages[index] = self.frames.page(self._stored[index])
        return gpa

    def cut(self) -> int | None:
        """Drop the pages beyond the end of a file that became shorter. Return the first of them, or None."""
        first = drop_beyond_end(self)
        if first is not None:
            self._stored = {index: data for index, data in self._stored.items() if index < first}
        return first

    def store(self) -> None:
        """Write to the file what has changed in memory."""
        if not self.writable:
            return
        size = os.fstat(self.fd).st_size
        for index, gpa in self.pages.items():
            data = self.frames.memory.read(gpa, PAGE)
            if data != self._stored[index]:
                self._stored[index] = data
                with suppress(OSError):  # the disk is full: what is mapped is lost, as on Linux
                    os.pwrite(self.fd, data[: max(size - index * PAGE, 0)], index * PAGE)

    def load(self) -> None:
        """Read from the file what has changed there."""
        for index, gpa in self.pages.items():
            data = os.pread(self.fd, PAGE, index * PAGE).ljust(PAGE, b"\0")
            if data != self._stored[index]:
                self._stored[index] = data
                self.frames.memory.write(gpa, data)

    def leave(self) -> None:
        self.store()
        super().leave()
        if not self.areas:
            self.frames.forget_shared_file(self)
            os.close(self.fd)


def shared_file(frames: Frames, fd: int, *, writable: bool) -> SharedFile:
    """Return an open file's pages, the same for all who map it shared; `writable`: the
    file is open for that.
    """
    status = os.fstat(fd)
    key = status.st_dev, status.st_ino
    found = frames.shared_files.get(key)
    if found is None:
        found = frames.shared_files[key] = SharedFile(frames, fd, writable=writable)
    elif writable:
        found.write_through(fd)
    return found
