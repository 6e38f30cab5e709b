"""Open files of guest processes: the host's, with a rule what may be written."""

import errno
import fcntl
import os
import select
import stat
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ...x86.bits import MASK64

FIRST_HOST_FD = 3
O_LARGEFILE = 0x8000
MOST_FILES = 1024
_STAT = struct.Struct("<QQQIIIiQqqqQQQQQQ24x")


@dataclass(slots=True)
class OpenFile:
    """An open file description: shared by the descriptors that dup() and fork() made of one."""

    fd: int
    flags: int
    inside: bool = False
    """Whether the guest may change its attributes, or open it for writing: it is beneath the root."""
    waits: bool = False
    """Whether reading may have to wait: pipes, terminals, sockets."""
    internal: bool = False
    """Whether only the guest has it: a pipe of its own."""
    users: int = 1
    least: int = 0
    """Bytes that a read must have room for."""
    signals: int | None = None
    """The signals that can be read from a signalfd, whose descriptor is an eventfd: ready with them."""
    fifo: tuple[int, int] | None = None
    """Which file a FIFO is."""

    def drop(self) -> None:
        self.users -= 1
        if not self.users and self.fd >= FIRST_HOST_FD:
            os.close(self.fd)

    @property
    def nonblocking(self) -> bool:
        return bool(self.flags & os.O_NONBLOCK)

    @property
    def reopens(self) -> bool:
        """Whether its link in /proc opens it anew: not pipes, nor what the program was started with."""
        return self.fd >= FIRST_HOST_FD and not self.waits

    def ready(self, events: int) -> int:
        poll = select.poll()
        poll.register(self.fd, events)
        for _, found in poll.poll(0):
            return found
        return 0


@dataclass(slots=True)
class Descriptor:
    """An entry of a table of open files."""

    file: OpenFile
    close_on_exec: bool = False


@dataclass(slots=True, eq=False)
class FileTable:
    """The descriptors of a process."""

    open: dict[int, Descriptor] = field(default_factory=dict)
    users: int = 1
    closing: "Callable[[FileTable, OpenFile], None]" = lambda files, file: None
    """Called before a descriptor is closed: record locks end with it."""

    def get(self, fd: int) -> OpenFile:
        """Return the file of a descriptor. Raises OSError."""
        descriptor = self.open.get(fd)
        if descriptor is None:
            raise OSError(errno.EBADF, "bad descriptor")
        return descriptor.file

    def add(self, file: OpenFile, *, close_on_exec: bool = False, lowest: int = 0) -> int:
        """Give the file the lowest free descriptor and return it. Raises OSError."""
        for fd in range(lowest, MOST_FILES):
            if fd not in self.open:
                self.open[fd] = Descriptor(file, close_on_exec)
                return fd
        file.drop()
        raise OSError(errno.EMFILE, "too many files")

    def close(self, fd: int) -> None:
        """Close a descriptor. Raises OSError."""
        self.get(fd)
        self.close_all([fd])

    def copy(self) -> "FileTable":
        for descriptor in self.open.values():
            descriptor.file.users += 1
        copies = {fd: Descriptor(one.file, one.close_on_exec) for fd, one in self.open.items()}
        return FileTable(copies, closing=self.closing)

    def drop(self) -> None:
        """Count one user less; after the last one close all."""
        self.users -= 1
        if not self.users:
            self.close_all(list(self.open))

    def close_all(self, fds: Iterable[int]) -> None:
        for fd in fds:
            file = self.open.pop(fd).file
            self.closing(self, file)
            file.drop()


def inherited(fd: int) -> OpenFile:
    """Return the open file that a descriptor of this process is. Raises OSError."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~O_LARGEFILE
    return OpenFile(fd, flags, waits=waits_for(os.fstat(fd).st_mode))


def waits_for(mode: int) -> bool:
    """Return whether reads of such a file may have to wait."""
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode))


def stat_bytes(status: os.stat_result) -> bytes:
    """Return a struct stat of x86-64."""

    def when(nanoseconds: int) -> tuple[int, int]:
        return nanoseconds // 10**9, nanoseconds % 10**9

    return _STAT.pack(
        status.st_dev,
        status.st_ino,
        status.st_nlink,
        status.st_mode,
        status.st_uid,
        status.st_gid,
        0,
        status.st_rdev,
        status.st_size,
        status.st_blksize,
        status.st_blocks,
        *(part & MASK64 for part in when(status.st_atime_ns)),
        *(part & MASK64 for part in when(status.st_mtime_ns)),
        *(part & MASK64 for part in when(status.st_ctime_ns)),
    )
