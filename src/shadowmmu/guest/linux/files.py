"""Open files of guest processes: the host's, with a rule what may be written."""

import errno
import os
import re
import select
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

FIRST_HOST_FD = 3
MOST_FILES = 1024
WRITABLE_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/random", "/dev/urandom")
_OWN_FD = re.compile(r"(?:/proc/self/fd|/dev/fd)/(\d+)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_PROCESS = re.compile(r"/proc/(?:self|thread-self|\d+)(?:/|$)")
_ABOUT_HOST = re.compile(r"/proc/(?:self|\d+)/(?:mounts|mountinfo|cgroup)")
_STAT = struct.Struct("<QQQIIIiQqqqQQQQQQ24x")
_STATX = struct.Struct("<IIQIIIHxxQQQQ qIi qIi qIi qIi IIII 112x")


@dataclass(slots=True)
class OpenFile:
    """An open file description: shared by the descriptors that dup() and fork() made of one."""

    fd: int
    flags: int
    path: str = ""
    waits: bool = False
    """Whether reading may have to wait: pipes, terminals, sockets."""
    internal: bool = False
    """Whether only the guest has it: a pipe of its own."""
    users: int = 1
    fifo: tuple[int, int] | None = None
    """Which file a FIFO is."""

    def drop(self) -> None:
        self.users -= 1
        if not self.users and self.fd >= FIRST_HOST_FD:
            os.close(self.fd)

    @property
    def nonblocking(self) -> bool:
        return bool(self.flags & os.O_NONBLOCK)

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


@dataclass(slots=True)
class FileTable:
    """The descriptors of a process."""

    open: dict[int, Descriptor] = field(default_factory=dict)
    users: int = 1

    def get(self, fd: int) -> OpenFile:
        """Raises OSError."""
        descriptor = self.open.get(fd)
        if descriptor is None:
            raise OSError(errno.EBADF, "bad descriptor")
        return descriptor.file

    def add(self, file: OpenFile, *, close_on_exec: bool = False, lowest: int = 0) -> int:
        """The lowest free descriptor, for the file. Raises OSError."""
        for fd in range(lowest, MOST_FILES):
            if fd not in self.open:
                self.open[fd] = Descriptor(file, close_on_exec)
                return fd
        file.drop()
        raise OSError(errno.EMFILE, "too many files")

    def close(self, fd: int) -> None:
        """Raises OSError."""
        self.get(fd)
        self.open.pop(fd).file.drop()

    def copy(self) -> "FileTable":
        for descriptor in self.open.values():
            descriptor.file.users += 1
        return FileTable({fd: Descriptor(one.file, one.close_on_exec) for fd, one in self.open.items()})

    def drop(self) -> None:
        """One user less; without any, close all."""
        self.users -= 1
        if not self.users:
            self.close_all(list(self.open))

    def close_all(self, fds: Iterable[int]) -> None:
        for fd in fds:
            self.open.pop(fd).file.drop()


class ReadOnlyError(OSError):
    """A path outside of where the guest may write."""

    def __init__(self) -> None:
        super().__init__(errno.EROFS, "outside of the directory that may be written")


class Tree:
    """The host's files as the guest sees them; what is beneath `root` may be written."""

    def __init__(self, root: Path, program: str) -> None:
        self.root = os.path.realpath(root)
        self.program = program

    def own_descriptor(self, path: str) -> int | None:
        """The number of the descriptor that a path like /dev/fd/3 or /dev/stdout names."""
        if path in _STANDARD:
            return _STANDARD[path]
        match = _OWN_FD.fullmatch(path)
        return int(match[1]) if match else None

    def resolve(self, path: str, *, follow: bool = True) -> str:
        """The path without symbolic links, but for the last component if not `follow`. Raises OSError."""
        if "\0" in path:
            raise OSError(errno.ENOENT, "no such file")
        if follow and path.endswith("/exe") and _PROCESS.match(path):
            return self.program
        if follow:
            real = os.path.realpath(path)
        else:
            folder, name = os.path.split(path.rstrip("/") or "/")
            if name in ("", ".", ".."):
                real = os.path.realpath(path)
            else:
                real = os.path.join(os.path.realpath(folder), name)
        if real.startswith("/proc/") and _PROCESS.match(real) and not _ABOUT_HOST.fullmatch(real):
            raise OSError(errno.ENOENT, "no such file")
        return real

    def is_writable(self, real: str) -> bool:
        return real == self.root or real.startswith(self.root.rstrip("/") + "/")

    def writable(self, path: str, *, follow: bool = True) -> str:
        """The same as resolve(), for a change. Raises ReadOnlyError."""
        real = self.resolve(path, follow=follow)
        if not self.is_writable(real):
            raise ReadOnlyError
        return real

    def open(self, path: str, flags: int, mode: int) -> OpenFile:
        """Without waiting for a FIFO's other end. Raises OSError; ENXIO for a FIFO that nobody reads."""
        follow = not flags & os.O_NOFOLLOW and flags & (os.O_CREAT | os.O_EXCL) != os.O_CREAT | os.O_EXCL
        real = self.resolve(path, follow=follow)
        temporary = flags & os.O_TMPFILE == os.O_TMPFILE
        writes = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC or temporary
        if writes and not self.is_writable(real) and real not in WRITABLE_DEVICES:
            raise ReadOnlyError
        if flags & os.O_CREAT and not self.is_writable(real):
            if not os.path.lexists(real):
                raise ReadOnlyError
            flags &= ~os.O_CREAT
        if not follow and not flags & os.O_CREAT:
            flags |= os.O_NOFOLLOW
        fd = os.open(real, flags | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, mode)
        kept = flags & ~(os.O_CLOEXEC | os.O_CREAT | os.O_TRUNC | os.O_EXCL)
        status = os.fstat(fd)
        fifo = (status.st_dev, status.st_ino) if stat.S_ISFIFO(status.st_mode) else None
        return OpenFile(fd, kept, real, _waits(status.st_mode), fifo=fifo)


def waits(fd: int) -> bool:
    """Whether reads of a host's file may have to wait."""
    return _waits(os.fstat(fd).st_mode)


def _waits(mode: int) -> bool:
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode))


def stat_bytes(status: os.stat_result) -> bytes:
    """struct stat of x86-64."""

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
        *(part & (1 << 64) - 1 for part in when(status.st_atime_ns)),
        *(part & (1 << 64) - 1 for part in when(status.st_mtime_ns)),
        *(part & (1 << 64) - 1 for part in when(status.st_ctime_ns)),
    )


def statx_bytes(status: os.stat_result) -> bytes:
    """struct statx, with what struct stat has."""

    def when(nanoseconds: int) -> tuple[int, int, int]:
        return nanoseconds // 10**9, nanoseconds % 10**9, 0

    return _STATX.pack(
        0x7FF,
        status.st_blksize,
        0,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_mode & 0xFFFF,
        status.st_ino,
        status.st_size,
        status.st_blocks,
        0,
        *when(status.st_atime_ns),
        *(0, 0, 0),
        *when(status.st_ctime_ns),
        *when(status.st_mtime_ns),
        os.major(status.st_rdev),
        os.minor(status.st_rdev),
        os.major(status.st_dev),
        os.minor(status.st_dev),
    )
