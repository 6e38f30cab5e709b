"""Locks of files: record locks, those of open file descriptions, and flock."""

import errno
import fcntl
import os
from typing import NoReturn

from .calls import int32
from .files import OpenFile
from .locks import (
    F_OFD_GETLK,
    F_OFD_SETLK,
    F_RDLCK,
    F_WRLCK,
    FLOCK_SIZE,
    Lock,
    lock_bytes,
    read_lock,
)
from .path_calls import PathCalls
from .tasks import Blocked, Task

F_GETLK, F_SETLK, F_SETLKW, F_OFD_SETLKW = 5, 6, 7, 38
LOCK_COMMANDS = frozenset((F_GETLK, F_SETLK, F_SETLKW, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW))
LOOKS = 0.005
"""Seconds between two looks whether another program has removed its lock."""


class LockCalls(PathCalls):
    """System calls about locks."""

    def lock(self, task: Task, file: OpenFile, command: int, address: int) -> int:
        """Carry out fcntl() with a command of LOCK_COMMANDS. Raises OSError or Blocked."""
        data = task.process.mm.read(address, FLOCK_SIZE)
        if command in (F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW):
            return self._lock_description(task, file, command, address, data)
        locks, files = self.kernel.locks, task.process.files
        wanted = read_lock(data, file, files, task.process.pid)
        if command == F_GETLK:
            if wanted.kind not in (F_RDLCK, F_WRLCK):
                raise OSError(errno.EINVAL, "no lock")
            task.process.mm.write(address, lock_bytes(locks.conflict(file, wanted), data))
            return 0
        access = file.flags & os.O_ACCMODE
        if access == (os.O_WRONLY if wanted.kind == F_RDLCK else os.O_RDONLY) and wanted.kind in (0, 1):
            raise OSError(errno.EBADF, "not open for that")
        try:
            found = locks.set(file, wanted)
        except BlockingIOError:
            if command == F_SETLK:
                raise
            self._look_again()
        if found is None:
            return 0
        if command == F_SETLK:
            raise OSError(errno.EAGAIN, "locked")
        return self._wait_for_lock(task, file, wanted)

    def _wait_for_lock(self, task: Task, file: OpenFile, wanted: Lock) -> NoReturn:
        task.wait = None
        self.kernel.locks.stop_waiting()
        raise Blocked(test=self.kernel.locks.wait(file, wanted, task))

    def _look_again(self) -> NoReturn:
        raise Blocked(deadline=self.kernel.clock.now() + LOOKS, outside=True)

    def _lock_description(self, task: Task, file: OpenFile, command: int, address: int, data: bytes) -> int:
        """Let the host judge, which has an open file description for each of the guest's."""
        try:
            answer = fcntl.fcntl(file.fd, F_OFD_GETLK if command == F_OFD_GETLK else F_OFD_SETLK, data)
        except BlockingIOError:
            if command == F_OFD_SETLK:
                raise
            self._look_again()
        if command == F_OFD_GETLK:
            task.process.mm.write(address, answer)
        return 0

    def sys_flock(self, task: Task, fd: int, operation: int) -> int:
        try:
            fcntl.flock(self._file(task, fd).fd, int32(operation) | fcntl.LOCK_NB)
        except BlockingIOError:
            if int32(operation) & fcntl.LOCK_NB:
                raise
            self._look_again()
        return 0
