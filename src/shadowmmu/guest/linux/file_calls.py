"""Opening and closing files, and descriptors."""

import errno
import fcntl
import os
import select
import stat
import struct
from collections import Counter
from typing import TYPE_CHECKING, NoReturn

from .calls import AT_FDCWD, int32
from .files import O_LARGEFILE, Descriptor, OpenFile
from .lock_calls import LOCK_COMMANDS, LockCalls
from .paths import Place
from .proc import Text
from .tasks import Blocked, Task

if TYPE_CHECKING:
    from .kernel import Kernel

F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
SETTABLE = os.O_APPEND | os.O_NONBLOCK | os.O_DIRECT | os.O_NOATIME
HOST_FLAGS = os.O_APPEND | os.O_NOATIME
O_ASYNC = 0x2000
PIPE_SIZES = (1031, 1032)
FIFO_LOOKS = 0.005
"""Seconds between two looks whether a FIFO has a reader."""


class FileCalls(LockCalls):
    """System calls about descriptors."""

    def __init__(self, kernel: "Kernel") -> None:
        super().__init__(kernel)
        self._fifo_writers: Counter[tuple[int, int]] = Counter()
        """How often each FIFO was opened for writing."""

    def sys_open(self, task: Task, path: int, flags: int, mode: int) -> int:
        return self.sys_openat(task, AT_FDCWD, path, flags, mode)

    def sys_creat(self, task: Task, path: int, mode: int) -> int:
        return self.sys_openat(task, AT_FDCWD, path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)

    def sys_openat(self, task: Task, directory: int, path: int, flags: int, mode: int) -> int:
        process = task.process
        flags &= 0x7FFFFFFF
        file = self._open_place(task, self._opened(task, path, directory, flags), flags, mode & 0o1777)
        return process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))

    def _opened(self, task: Task, path: int, directory: int, flags: int) -> Place:
        """Return what is to be opened. Raises OSError."""
        name = self._name(task, path)
        if flags & os.O_CREAT and name.endswith("/"):
            raise OSError(errno.EISDIR, "a directory cannot be made so")
        new = flags & (os.O_CREAT | os.O_EXCL) == os.O_CREAT | os.O_EXCL
        return self._find(task, name, directory, follow=not flags & os.O_NOFOLLOW and not new)

    def _open_place(self, task: Task, place: Place, flags: int, mode: int) -> OpenFile:
        if isinstance(place.other, Text):
            return self._filled(place.other.data, flags)
        if isinstance(place.other, OpenFile) and not place.other.reopens:
            place.other.users += 1
            return place.other
        return self._open(task, place, flags, mode & ~task.process.umask)

    @staticmethod
    def _filled(data: bytes, flags: int) -> OpenFile:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EACCES, "cannot be written")
        fd = os.memfd_create("proc")
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        return OpenFile(fd, flags)

    def _open(self, task: Task, place: Place, flags: int, mode: int) -> OpenFile:
        """Open a file; a FIFO when there is somebody at its other end. Raises OSError or Blocked."""
        if task.opening is not None:
            file = task.opening
        else:
            try:
                file = self.kernel.tree.open(place, flags, mode)
            except OSError as error:
                if (
                    error.errno != errno.ENXIO
                    or flags & os.O_NONBLOCK
                    or not stat.S_ISFIFO(place.status().st_mode)
                ):
                    raise
                self._wait_for_reader(task)
        if flags & os.O_TRUNC:
            self.kernel.cut_mappings()
        if file.fifo is None or flags & os.O_NONBLOCK:
            return file
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._fifo_writers[file.fifo] += 1
            return file
        return self._with_writer(task, file, file.fifo)

    def _wait_for_reader(self, task: Task) -> NoReturn:
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        raise Blocked(deadline=self.kernel.clock.now() + FIFO_LOOKS, outside=True)

    def _with_writer(self, task: Task, file: OpenFile, fifo: tuple[int, int]) -> OpenFile:
        """Return a FIFO for reading, once somebody has opened it for writing. Raises OSError or Blocked."""
        if task.opening is None:
            task.opening, task.progress = file, self._fifo_writers[fifo]
        ready = (
            self._fifo_writers[fifo] != task.progress
            or file.ready(select.POLLIN)
            or any(
                one.file.fifo == fifo and one.file.flags & os.O_ACCMODE != os.O_RDONLY
                for process in self.kernel.processes.values()
                for one in process.files.open.values()
            )
        )
        if ready:
            task.opening = None
            return file
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        raise Blocked(
            [(file.fd, select.POLLIN)],
            test=lambda: self._fifo_writers[fifo] != task.progress,
            outside=True,
        )

    def sys_close(self, task: Task, fd: int) -> int:
        task.process.files.close(int32(fd))
        return 0

    def sys_pipe(self, task: Task, address: int) -> int:
        return self.sys_pipe2(task, address, 0)

    def sys_pipe2(self, task: Task, address: int, flags: int) -> int:
        files = task.process.files
        ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        own, close = flags & os.O_NONBLOCK, bool(flags & os.O_CLOEXEC)
        reads = OpenFile(ends[0], os.O_RDONLY | own, waits=True, internal=True)
        writes = OpenFile(ends[1], os.O_WRONLY | own, waits=True, internal=True)
        first = files.add(reads, close_on_exec=close)
        second = files.add(writes, close_on_exec=close)
        task.process.mm.write(address, struct.pack("<ii", first, second))
        return 0

    def sys_dup(self, task: Task, fd: int) -> int:
        return self._duplicate(task, fd, 0)

    def _duplicate(self, task: Task, fd: int, lowest: int, *, close_on_exec: bool = False) -> int:
        file = self._file(task, fd)
        file.users += 1
        return task.process.files.add(file, close_on_exec=close_on_exec, lowest=lowest)

    def sys_dup2(self, task: Task, old: int, new: int) -> int:
        if int32(old) == int32(new):
            self._file(task, old)
            return int32(old)
        return self.sys_dup3(task, old, new, 0)

    def sys_dup3(self, task: Task, old: int, new: int, flags: int) -> int:
        file, new = self._file(task, old), int32(new)
        if not 0 <= new < 1024:
            raise OSError(errno.EBADF, "bad descriptor")
        if int32(old) == new:
            raise OSError(errno.EINVAL, "the same")
        files = task.process.files
        file.users += 1
        if new in files.open:
            files.close(new)
        files.open[new] = Descriptor(file, bool(flags & os.O_CLOEXEC))
        return new

    def sys_fcntl(self, task: Task, fd: int, command: int, argument: int) -> int:
        file = self._file(task, fd)
        descriptor = task.process.files.open[int32(fd)]
        if command in (F_DUPFD, F_DUPFD_CLOEXEC):
            return self._duplicate(task, fd, int32(argument), close_on_exec=command == F_DUPFD_CLOEXEC)
        if command == F_GETFD:
            return int(descriptor.close_on_exec)
        if command == F_SETFD:
            descriptor.close_on_exec = bool(argument & 1)
            return 0
        if command == F_GETFL:
            return file.flags | O_LARGEFILE
        if command == F_SETFL:
            return self._set_flags(file, argument)
        if command in LOCK_COMMANDS:
            return self.lock(task, file, command, argument)
        if command in PIPE_SIZES:
            return fcntl.fcntl(file.fd, command, int32(argument))
        raise OSError(errno.EINVAL, "fcntl")

    @staticmethod
    def _set_flags(file: OpenFile, wanted: int) -> int:
        """Set a file's flags (F_SETFL): whether to wait is decided here, the rest by the
        host. Raises OSError.
        """
        if wanted & O_ASYNC:
            raise OSError(errno.EINVAL, "no SIGIO")
        own = fcntl.fcntl(file.fd, fcntl.F_GETFL)
        fcntl.fcntl(file.fd, fcntl.F_SETFL, own & ~HOST_FLAGS | wanted & HOST_FLAGS)
        file.flags = file.flags & ~SETTABLE | wanted & SETTABLE
        return 0
