"""Record locks (fcntl): of a table of descriptors on ranges of a file, as Linux has them.

The host sees one owner for all processes of the guest: what their locks come to is held by an open file
description of the model (F_OFD_SETLK), so that other programs and other runs are kept out, too. Locks of open
file descriptions (F_OFD_SETLK of a guest) and flock() need nothing here: each of them is one of the host.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise

from .directory import host_name
from .files import FileTable, OpenFile
from .tasks import Task

F_RDLCK, F_WRLCK, F_UNLCK = range(3)
F_OFD_GETLK, F_OFD_SETLK = 36, 37
END = 1 << 63
"""End of a lock that reaches beyond every end of the file."""
_FLOCK = struct.Struct("<hh4xqqi4x")
FLOCK_SIZE = _FLOCK.size
MOST_OWNERS = 10
"""Owners that are looked at for a deadlock, as Linux does."""


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock on the bytes from `start` up to `end`; `pid` made it."""

    owner: FileTable
    kind: int
    start: int
    end: int
    pid: int = 0

    def conflicts(self, other: "Lock") -> bool:
        """Return whether both cannot be held at once."""
        if self.owner is other.owner or F_WRLCK not in (self.kind, other.kind):
            return False
        return self.start < other.end and other.start < self.end


class LockedFile:
    """The locks of a file; `fd` holds them on the host (None: it cannot)."""

    def __init__(self, file: OpenFile) -> None:
        self.locks: list[Lock] = []
        self.fd: int | None = None
        mode = os.O_RDWR if file.inside else file.flags & os.O_ACCMODE
        if stat.S_ISREG(os.fstat(file.fd).st_mode):
            with suppress(OSError):
                self.fd = os.open(host_name(file.fd), mode | os.O_CLOEXEC | os.O_NONBLOCK)

    def conflict(self, wanted: Lock) -> Lock | None:
        """Return a lock of the guest that keeps another one out."""
        return next((lock for lock in self.locks if lock.conflicts(wanted)), None)

    def set(self, wanted: Lock) -> None:
        """Set a lock, or remove what the owner has there. Raises OSError: another program has one."""
        before, after = self.locks, list(_with(self.locks, wanted))
        try:
            self._hold(after, wanted)
        except OSError:
            self._hold(before, wanted)
            raise
        self.locks = after

    def _hold(self, locks: list[Lock], place: Lock) -> None:
        """Make the host hold in the range of `place` what these locks come to."""
        if self.fd is None:
            return
        edges = {place.start, place.end}
        for lock in locks:
            edges |= {edge for edge in (lock.start, lock.end) if place.start < edge < place.end}
        ordered = sorted(edges)
        for start, end in pairwise(ordered):
            kinds = {lock.kind for lock in locks if lock.start < end and start < lock.end}
            kind = F_WRLCK if F_WRLCK in kinds else F_RDLCK if kinds else F_UNLCK
            self._ask(F_OFD_SETLK, kind, start, end)

    def _ask(self, command: int, kind: int, start: int, end: int) -> tuple[int, ...]:
        assert self.fd is not None
        data = _FLOCK.pack(kind, os.SEEK_SET, start, 0 if end == END else end - start, 0)
        return _FLOCK.unpack(fcntl.fcntl(self.fd, command, data))

    def foreign(self, wanted: Lock) -> Lock | None:
        """Return a lock of another program that keeps this one out."""
        if self.fd is None:
            return None
        kind, _, start, length, pid = self._ask(F_OFD_GETLK, wanted.kind, wanted.start, wanted.end)
        if kind == F_UNLCK:
            return None
        return Lock(wanted.owner, kind, start, start + length if length else END, pid)

    def close(self) -> None:
        """Drop what the host holds."""
        if self.fd is not None:
            os.close(self.fd)


def _with(locks: Iterable[Lock], new: Lock) -> Iterable[Lock]:
    """Yield the locks, with the owner's in this range replaced, and those of one kind that touch made one."""
    own = []
    for lock in locks:
        if lock.owner is not new.owner:
            yield lock
        elif lock.end < new.start or lock.start > new.end:
            own.append(lock)
        elif lock.kind == new.kind:
            new = replace(new, start=min(lock.start, new.start), end=max(lock.end, new.end))
        else:
            if lock.start < new.start:
                own.append(replace(lock, end=new.start))
            if lock.end > new.end:
                own.append(replace(lock, start=new.end))
    yield from own
    if new.kind != F_UNLCK:
        yield new


class RecordLocks:
    """All record locks of the guest, and who waits for one."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int], LockedFile] = {}
        self._waiting: dict[Task, tuple[LockedFile, Lock]] = {}

    def conflict(self, file: OpenFile, wanted: Lock) -> Lock | None:
        """Return a lock that keeps another one out, of the guest or of another program. Raises OSError."""
        known = self._files.get(identity(file))
        if known is not None:
            return known.conflict(wanted) or known.foreign(wanted)
        asked = LockedFile(file)
        try:
            return asked.foreign(wanted)
        finally:
            asked.close()

    def set(self, file: OpenFile, wanted: Lock) -> Lock | None:
        """Set or remove a lock; one of the guest that keeps it out is returned. Raises OSError."""
        key = identity(file)
        known = self._files.get(key)
        if known is None:
            if wanted.kind == F_UNLCK:
                return None
            known = self._files[key] = LockedFile(file)
        found = known.conflict(wanted) if wanted.kind != F_UNLCK else None
        try:
            if found is None:
                known.set(wanted)
        finally:
            self._forget(key)
        return found

    def wait(self, file: OpenFile, wanted: Lock, task: Task) -> Callable[[], bool]:
        """Begin to wait; return what says whether it is over. Raises OSError if it would never be."""
        known = self._files[identity(file)]
        asking = [(known, wanted)]
        for _ in range(MOST_OWNERS):
            owners = {found.owner for one, lock in asking if (found := one.conflict(lock)) is not None}
            if wanted.owner in owners:
                raise OSError(errno.EDEADLK, "a deadlock")
            asking = [pair for pair in self._waiting.values() if pair[1].owner in owners]
        self._waiting[task] = known, wanted
        return lambda: known.conflict(wanted) is None

    def stop_waiting(self) -> None:
        """Forget those who do not wait any more: they were woken, interrupted or killed."""
        self._waiting = {task: pair for task, pair in self._waiting.items() if task.alive and task.wait}

    def drop(self, owner: FileTable, file: OpenFile) -> None:
        """Remove the locks of a file of which the owner closes a descriptor."""
        if not self._files:
            return
        key = identity(file)
        known = self._files.get(key)
        if known is not None:
            if any(lock.owner is owner for lock in known.locks):
                known.set(Lock(owner, F_UNLCK, 0, END))
            self._forget(key)

    def _forget(self, key: tuple[int, int]) -> None:
        known = self._files[key]
        if not known.locks:
            del self._files[key]
            known.close()


def identity(file: OpenFile) -> tuple[int, int]:
    """Return which file an open one is."""
    status = os.fstat(file.fd)
    return status.st_dev, status.st_ino


def read_lock(data: bytes, file: OpenFile, owner: FileTable, pid: int) -> Lock:
    """Return the lock that a struct flock means. Raises OSError."""
    kind, whence, start, length, _ = _FLOCK.unpack(data)
    if whence == os.SEEK_CUR:
        start += os.lseek(file.fd, 0, os.SEEK_CUR)
    elif whence == os.SEEK_END:
        start += os.fstat(file.fd).st_size
    elif whence != os.SEEK_SET:
        raise OSError(errno.EINVAL, "whence")
    end = start + length if length else END
    if length < 0:
        start, end = end, start
    if start < 0 or kind not in (F_RDLCK, F_WRLCK, F_UNLCK):
        raise OSError(errno.EINVAL, "no lock")
    if start >= END or end > END:
        raise OSError(errno.EOVERFLOW, "beyond all files")
    return Lock(owner, kind, start, end, pid)


def lock_bytes(lock: Lock | None, data: bytes) -> bytes:
    """Return the struct flock that says which lock is in the way; without one, the question with F_UNLCK."""
    if lock is None:
        return F_UNLCK.to_bytes(2, "little") + data[2:]
    return _FLOCK.pack(
        lock.kind, os.SEEK_SET, lock.start, 0 if lock.end == END else lock.end - lock.start, lock.pid
    )
