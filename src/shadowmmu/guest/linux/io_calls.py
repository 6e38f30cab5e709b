"""Reading and writing files."""

import ctypes
import errno
import fcntl
import os
import select
import stat
import struct
import termios
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

from .calls import int32, int64, libc, result
from .files import OpenFile
from .path_calls import PathCalls
from .signals import SIGNALFD_SIZE, signalfd_info
from .tasks import SIGPIPE, Blocked, SignalInfo, Task

Vectors: TypeAlias = Sequence[tuple[int, int]]
"""Places in memory, in their order: address and size."""
LARGEST_READ = 16 << 20
MOST_VECTORS = 1024


class IoCalls(PathCalls):
    """System calls about what is in files."""

    def _wait(self, task: Task, file: OpenFile, events: int) -> None:
        """Raise Blocked, or OSError, if the file is not ready."""
        if file.nonblocking:
            raise OSError(errno.EAGAIN, "not ready")
        raise Blocked([(file.fd, events)], outside=not file.internal)

    def _read_signals(self, task: Task, file: OpenFile, mask: int, size: int) -> bytes:
        """Read a signalfd: as many signals as there are, and fit."""
        parts: list[bytes] = []
        while len(parts) < size // SIGNALFD_SIZE and (signal := task.waits_for(mask)) is not None:
            parts.append(signalfd_info(signal, task.take(signal)))
        if task.waits_for(mask) is None and file.ready(select.POLLIN):
            os.eventfd_read(file.fd)
        if not parts:
            self._wait(task, file, select.POLLIN)
        return b"".join(parts)

    @staticmethod
    def _room(task: Task, vectors: Vectors, *, write: bool) -> int:
        """Return how many bytes can be put into vectors, or got from them: up to the first bad address."""
        room = 0
        for address, size in vectors:
            size = min(size, LARGEST_READ - room)
            reached = task.process.mm.reach(address, size, write=write) if size else 0
            room += reached
            if reached < size:
                break
        return room

    def _read(self, task: Task, file: OpenFile, vectors: Vectors) -> bytes:
        """Read what has room in vectors: what has none is not lost. Raises OSError, Blocked."""
        size = sum(size for _, size in vectors)
        if size < file.least:
            raise OSError(errno.EINVAL, "no room")
        if not size and stat.S_ISFIFO(os.fstat(file.fd).st_mode):
            return b""
        if file.waits and not file.ready(select.POLLIN):
            self._wait(task, file, select.POLLIN)
        room = self._checked_room(task, file, vectors, size)
        if file.signals is not None:
            return self._read_signals(task, file, file.signals, room)
        return os.read(file.fd, min(room, 1 << 16) if file.waits else room)

    def _checked_room(self, task: Task, file: OpenFile, vectors: Vectors, size: int) -> int:
        """Return the room that vectors have. Raises OSError if there is none, or what is there needs more."""
        room = self._room(task, vectors, write=True)
        if room < min(size, LARGEST_READ):
            available = 0
            if file.waits:
                with suppress(OSError):
                    data = fcntl.ioctl(file.fd, termios.FIONREAD, bytes(4))
                    available = int.from_bytes(data, "little")
            if available > room or not room:
                raise OSError(errno.EFAULT, "bad address")
        return room

    def sys_read(self, task: Task, fd: int, address: int, size: int) -> int:
        vectors = [(address, size)]
        return self._scatter(task, vectors, self._read(task, self._file(task, fd), vectors))

    def sys_pread64(self, task: Task, fd: int, address: int, size: int, offset: int) -> int:
        return self._pread(task, self._file(task, fd), [(address, size)], int64(offset))

    def _pread(self, task: Task, file: OpenFile, vectors: Vectors, offset: int) -> int:
        room = self._checked_room(task, file, vectors, sum(size for _, size in vectors))
        return self._scatter(task, vectors, os.pread(file.fd, room, offset))

    def _vectors(self, task: Task, address: int, count: int) -> list[tuple[int, int]]:
        if not 0 <= int32(count) <= MOST_VECTORS:
            raise OSError(errno.EINVAL, "too many vectors")
        data = task.process.mm.read(address, 16 * count)
        return list(struct.iter_unpack("<QQ", data))

    def _scatter(self, task: Task, vectors: Vectors, data: bytes) -> int:
        position = 0
        for address, size in vectors:
            task.process.mm.write(address, data[position : position + size])
            position += size
        return len(data)

    def sys_readv(self, task: Task, fd: int, address: int, count: int) -> int:
        vectors = self._vectors(task, address, count)
        return self._scatter(task, vectors, self._read(task, self._file(task, fd), vectors))

    def _write(self, task: Task, file: OpenFile, data: bytes) -> int:
        while True:
            rest = data[task.progress :] if task.progress else data
            try:
                written = os.write(file.fd, rest)
            except BrokenPipeError:
                self.kernel.signals.send(task, SIGPIPE, SignalInfo())
                raise
            except BlockingIOError:
                if task.progress and (file.nonblocking or task.deliverable() is not None):
                    return task.progress
                self._wait(task, file, select.POLLOUT)
                raise
            task.progress += written
            if task.progress >= len(data) or not written:
                return task.progress

    def sys_write(self, task: Task, fd: int, address: int, size: int) -> int:
        file = self._file(task, fd)
        return self._write(task, file, self._gather(task, [(address, size)]))

    def sys_pwrite64(self, task: Task, fd: int, address: int, size: int, offset: int) -> int:
        return os.pwrite(self._file(task, fd).fd, self._gather(task, [(address, size)]), int64(offset))

    def sys_writev(self, task: Task, fd: int, address: int, count: int) -> int:
        file = self._file(task, fd)
        return self._write(task, file, self._gather(task, self._vectors(task, address, count)))

    @staticmethod
    def _offset(offset: int) -> int:
        """Return where a vector is to be read or written. Raises OSError."""
        if int64(offset) < 0:
            raise OSError(errno.EINVAL, "before the beginning")
        return offset

    def _gather(self, task: Task, vectors: Vectors) -> bytes:
        """Return what is in vectors, up to the first bad address. Raises OSError if that is nothing."""
        mm, left, parts = task.process.mm, self._room(task, vectors, write=False), []
        if not left and any(size for _, size in vectors):
            raise OSError(errno.EFAULT, "bad address")
        for start, size in vectors:
            parts.append(mm.read(start, min(size, left)))
            left -= len(parts[-1])
        return b"".join(parts)

    def sys_preadv(self, task: Task, fd: int, address: int, count: int, offset: int) -> int:
        place, vectors = self._offset(offset), self._vectors(task, address, count)
        return self._pread(task, self._file(task, fd), vectors, place)

    def sys_pwritev(self, task: Task, fd: int, address: int, count: int, offset: int) -> int:
        place = self._offset(offset)
        return os.pwrite(
            self._file(task, fd).fd, self._gather(task, self._vectors(task, address, count)), place
        )

    def sys_preadv2(
        self, task: Task, fd: int, address: int, count: int, offset: int, high: int, flags: int
    ) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, "flags of preadv2")
        if int64(offset) == -1:
            return self.sys_readv(task, fd, address, count)
        return self.sys_preadv(task, fd, address, count, offset)

    def sys_pwritev2(
        self, task: Task, fd: int, address: int, count: int, offset: int, high: int, flags: int
    ) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, "flags of pwritev2")
        if int64(offset) == -1:
            return self.sys_writev(task, fd, address, count)
        return self.sys_pwritev(task, fd, address, count, offset)

    def sys_sendfile(self, task: Task, target: int, source: int, offset: int, size: int) -> int:
        mm, into, file = task.process.mm, self._file(task, target), self._file(task, source)
        if task.progress == 0 and into.waits and not into.ready(select.POLLOUT):
            self._wait(task, into, select.POLLOUT)
        size = min(size, 1 << 16)
        if offset:
            place = mm.read_word(offset)
            data = os.pread(file.fd, size, place)
        else:
            if file.waits:
                raise OSError(errno.EINVAL, "no file that can be sent")
            place = os.lseek(file.fd, 0, os.SEEK_CUR)
            data = os.pread(file.fd, size, place)
        if not data:
            return 0
        written = self._write(task, into, data)
        if offset:
            mm.write(offset, (place + written).to_bytes(8, "little"))
        else:
            os.lseek(file.fd, place + written, os.SEEK_SET)
        return written

    def sys_lseek(self, task: Task, fd: int, offset: int, whence: int) -> int:
        return os.lseek(self._file(task, fd).fd, int64(offset), int32(whence))

    def sys_ftruncate(self, task: Task, fd: int, size: int) -> int:
        os.ftruncate(self._file(task, fd).fd, int64(size))
        self.kernel.cut_mappings()
        return 0

    def sys_truncate(self, task: Task, path: int, size: int) -> int:
        place = self._place(task, path)
        mode = place.status().st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "no file with a size")
        fd = self._allowed(place).open(os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.ftruncate(fd, int64(size))
        finally:
            os.close(fd)
        self.kernel.cut_mappings()
        return 0

    def sys_fallocate(self, task: Task, fd: int, mode: int, offset: int, size: int) -> int:
        file, bounds = self._file(task, fd), [ctypes.c_int64(int64(value)) for value in (offset, size)]
        result(libc.fallocate(file.fd, int32(mode), *bounds))
        self.kernel.cut_mappings()
        return 0

    def sys_fsync(self, task: Task, fd: int) -> int:
        self._file(task, fd)
        return 0

    sys_fdatasync = sys_sync_file_range = sys_syncfs = sys_fsync

    def sys_sync(self, task: Task) -> int:
        return 0

    def sys_fadvise64(self, task: Task, fd: int) -> int:
        self._file(task, fd)
        return 0

    sys_readahead = sys_fadvise64
