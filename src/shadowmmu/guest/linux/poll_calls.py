"""Terminals, poll and select."""

import errno
import fcntl
import os
import select
import struct
import termios

from .calls import int32
from .path_calls import PathCalls
from .tasks import Blocked, Task

TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGPGRP, TIOCSPGRP, TIOCGWINSZ = (
    0x5401,
    0x5402,
    0x5403,
    0x5404,
    0x540F,
    0x5410,
    0x5413,
)
FIONREAD, FIONBIO, FIONCLEX, FIOCLEX = 0x541B, 0x5421, 0x5450, 0x5451
TERMIOS_SIZE = 36
_READS, _WRITES = select.POLLIN | select.POLLHUP | select.POLLERR, select.POLLOUT | select.POLLERR


class PollCalls(PathCalls):
    """System calls about waiting for files."""

    def sys_ioctl(self, task: Task, fd: int, request: int, argument: int) -> int:
        file, mm = self._file(task, fd), task.process.mm
        request &= 0xFFFFFFFF
        if request in (FIOCLEX, FIONCLEX):
            task.process.files.open[int32(fd)].close_on_exec = request == FIOCLEX
            return 0
        if request == FIONBIO:
            wanted = mm.read_int(argument)
            file.flags = file.flags & ~os.O_NONBLOCK | (os.O_NONBLOCK if wanted else 0)
            return 0
        if request == FIONREAD:
            mm.write(argument, fcntl.ioctl(file.fd, termios.FIONREAD, bytes(4)))
            return 0
        if not os.isatty(file.fd):
            raise OSError(errno.ENOTTY, "no terminal")
        if request == TCGETS:
            mm.write(argument, fcntl.ioctl(file.fd, request, bytes(TERMIOS_SIZE)))
        elif request in (TCSETS, TCSETSW, TCSETSF):
            self.kernel.keep_terminal(file.fd)
            fcntl.ioctl(file.fd, request, mm.read(argument, TERMIOS_SIZE))
        elif request == TIOCGWINSZ:
            mm.write(argument, fcntl.ioctl(file.fd, request, bytes(8)))
        elif request == TIOCGPGRP:
            mm.write(argument, task.process.group.to_bytes(4, "little"))
        elif request != TIOCSPGRP:
            raise OSError(errno.ENOTTY, "not supported")
        return 0

    def _poll(self, task: Task, wanted: list[tuple[int, int]], seconds: float | None) -> list[int]:
        """Return what is ready of (descriptor, events), in that order; all 0 when the time is over."""
        files = task.process.files
        events: dict[int, int] = {}
        internal = True
        for fd, mask in wanted:
            if fd in files.open:
                file = files.open[fd].file
                events[file.fd] = events.get(file.fd, 0) | mask
                internal = internal and file.internal
        poll = select.poll()
        for host, mask in events.items():
            poll.register(host, mask)
        found = dict(poll.poll(0))
        results = []
        for fd, mask in wanted:
            if fd < 0:
                results.append(0)
            elif fd not in files.open:
                results.append(select.POLLNVAL)
            else:
                got = found.get(files.open[fd].file.fd, 0)
                results.append(got & (mask | select.POLLERR | select.POLLHUP))
        now = self.kernel.clock.now()
        if task.started is None:
            task.started = float("inf") if seconds is None else now + seconds
        if any(results) or now >= task.started:
            if task.saved_mask is not None:
                task.mask, task.saved_mask = task.saved_mask, None
            return results
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        deadline = None if seconds is None else task.started
        raise Blocked(list(events.items()), deadline, outside=not internal)

    def _poll_table(self, task: Task, address: int, count: int, seconds: float | None) -> int:
        if count > 1024:
            raise OSError(errno.EINVAL, "too many")
        mm = task.process.mm
        table = list(struct.iter_unpack("<ihH", mm.read(address, 8 * count)))
        results = self._poll(task, [(fd, events) for fd, events, _ in table], seconds)
        data = b"".join(
            struct.pack("<ihH", fd, events, got) for (fd, events, _), got in zip(table, results, strict=True)
        )
        mm.write(address, data)
        return sum(bool(got) for got in results)

    def sys_poll(self, task: Task, address: int, count: int, timeout: int) -> int:
        milliseconds = int32(timeout)
        return self._poll_table(task, address, count, None if milliseconds < 0 else milliseconds / 1000)

    def _timeout(self, task: Task, address: int, unit: int) -> float | None:
        if not address:
            return None
        seconds, parts = struct.unpack("<qq", task.process.mm.read(address, 16))
        return float(seconds + parts / unit)

    def sys_ppoll(self, task: Task, address: int, count: int, timeout: int, mask: int) -> int:
        if mask:
            self.suspend_mask(task, mask)
        return self._poll_table(task, address, count, self._timeout(task, timeout, 10**9))

    def _select(self, task: Task, count: int, sets: tuple[int, int, int], seconds: float | None) -> int:
        mm, size = task.process.mm, -(-min(max(int32(count), 0), 1024) // 64) * 8
        reads, writes, errors = (int.from_bytes(mm.read(one, size), "little") if one else 0 for one in sets)
        wanted = []
        for fd in range(min(int32(count), 1024)):
            events = (select.POLLIN if reads >> fd & 1 else 0) | (select.POLLOUT if writes >> fd & 1 else 0)
            if events or errors >> fd & 1:
                task.process.files.get(fd)
                wanted.append((fd, events))
        results = self._poll(task, wanted, seconds)
        found = [0, 0, 0]
        for (fd, events), got in zip(wanted, results, strict=True):
            if events & select.POLLIN and got & _READS:
                found[0] |= 1 << fd
            if events & select.POLLOUT and got & _WRITES:
                found[1] |= 1 << fd
        for address, value in zip(sets, found, strict=True):
            if address:
                mm.write(address, value.to_bytes(size, "little"))
        return sum(value.bit_count() for value in found)

    def sys_select(self, task: Task, count: int, reads: int, writes: int, errors: int, timeout: int) -> int:
        return self._select(task, count, (reads, writes, errors), self._timeout(task, timeout, 10**6))

    def sys_pselect6(
        self, task: Task, count: int, reads: int, writes: int, errors: int, timeout: int, mask: int
    ) -> int:
        if mask and (address := task.process.mm.read_word(mask)):
            self.suspend_mask(task, address)
        return self._select(task, count, (reads, writes, errors), self._timeout(task, timeout, 10**9))
