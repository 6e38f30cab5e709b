"""epoll, eventfd, timerfd: the host's own, on the host's descriptors of the guest's files; signalfd."""

import ctypes
import errno
import os
import select
import time

from .calls import Calls, int32, libc, result
from .files import OpenFile
from .signals import SIGNALFD_SIZE
from .tasks import Blocked, Task

EPOLL_CTL_DEL = 2
EVENT_SIZE = 12
MOST_EVENTS = 4096
EFD_SEMAPHORE = 1
TIMER_CLOCKS = (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME)
COUNT_SIZE, TIMER_SIZE = 8, 32
"""Bytes of what an eventfd or timerfd gives, and of a struct itimerspec."""


class EventCalls(Calls):
    """System calls about waiting for events."""

    def sys_epoll_create(self, task: Task, size: int) -> int:
        return self.sys_epoll_create1(task, 0)

    def sys_epoll_create1(self, task: Task, flags: int) -> int:
        fd = result(libc.epoll_create1(select.EPOLL_CLOEXEC))
        file = OpenFile(fd, os.O_RDWR, waits=True)
        return task.process.files.add(file, close_on_exec=bool(flags & select.EPOLL_CLOEXEC))

    def sys_epoll_ctl(self, task: Task, fd: int, operation: int, target: int, event: int) -> int:
        files = task.process.files
        data = ctypes.create_string_buffer(EVENT_SIZE)
        if operation != EPOLL_CTL_DEL:
            data.raw = task.process.mm.read(event, EVENT_SIZE)
        epoll, file = files.get(int32(fd)), files.get(int32(target))
        result(libc.epoll_ctl(epoll.fd, int32(operation), file.fd, data))
        return 0

    def sys_epoll_wait(self, task: Task, fd: int, events: int, count: int, timeout: int) -> int:
        file = task.process.files.get(int32(fd))
        most, milliseconds = int32(count), int32(timeout)
        if most <= 0:
            raise OSError(errno.EINVAL, "no room for events")
        most = min(most, MOST_EVENTS)
        buffer = ctypes.create_string_buffer(EVENT_SIZE * most)
        found = result(libc.epoll_wait(file.fd, buffer, most, 0))
        now = self.kernel.clock.now()
        if task.started is None:
            task.started = float("inf") if milliseconds < 0 else now + milliseconds / 1000
        if found or now >= task.started:
            if task.saved_mask is not None:
                task.mask, task.saved_mask = task.saved_mask, None
            task.process.mm.write(events, buffer.raw[: EVENT_SIZE * found])
            return found
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        raise Blocked([(file.fd, select.POLLIN)], None if milliseconds < 0 else task.started, outside=True)

    def sys_epoll_pwait(self, task: Task, fd: int, events: int, count: int, timeout: int, mask: int) -> int:
        if mask:
            self.suspend_mask(task, mask)
        return self.sys_epoll_wait(task, fd, events, count, timeout)

    def sys_eventfd(self, task: Task, value: int) -> int:
        return self.sys_eventfd2(task, value, 0)

    def sys_eventfd2(self, task: Task, value: int, flags: int) -> int:
        fd = os.eventfd(value & 0xFFFFFFFF, flags & EFD_SEMAPHORE | os.O_NONBLOCK | os.O_CLOEXEC)
        file = OpenFile(fd, os.O_RDWR | flags & os.O_NONBLOCK, waits=True, internal=True, least=COUNT_SIZE)
        return task.process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))

    def sys_memfd_create(self, task: Task, name: int, flags: int) -> int:
        fd = os.memfd_create(os.fsdecode(task.process.mm.string(name)))
        file = OpenFile(fd, os.O_RDWR)
        return task.process.files.add(file, close_on_exec=bool(flags & os.MFD_CLOEXEC))

    # -- timers and signals as files -----------------------------------------------------------------------

    def sys_timerfd_create(self, task: Task, clock: int, flags: int) -> int:
        if clock not in TIMER_CLOCKS or int32(flags) & ~(os.O_NONBLOCK | os.O_CLOEXEC):
            raise OSError(errno.EINVAL, "timerfd_create")
        fd = result(libc.timerfd_create(clock, os.O_NONBLOCK | os.O_CLOEXEC))
        file = OpenFile(fd, os.O_RDWR | flags & os.O_NONBLOCK, waits=True, least=COUNT_SIZE)
        return task.process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))

    def sys_timerfd_settime(self, task: Task, fd: int, flags: int, new: int, old: int) -> int:
        file, before = task.process.files.get(int32(fd)), ctypes.create_string_buffer(TIMER_SIZE)
        data = task.process.mm.read(new, TIMER_SIZE)
        result(libc.timerfd_settime(file.fd, int32(flags), data, before))
        if old:
            task.process.mm.write(old, before.raw)
        return 0

    def sys_timerfd_gettime(self, task: Task, fd: int, address: int) -> int:
        data = ctypes.create_string_buffer(TIMER_SIZE)
        result(libc.timerfd_gettime(task.process.files.get(int32(fd)).fd, data))
        task.process.mm.write(address, data.raw)
        return 0

    def sys_signalfd(self, task: Task, fd: int, mask: int, size: int) -> int:
        return self.sys_signalfd4(task, fd, mask, size, 0)

    def sys_signalfd4(self, task: Task, fd: int, mask: int, size: int, flags: int) -> int:
        if size != 8 or int32(flags) & ~(os.O_NONBLOCK | os.O_CLOEXEC):
            raise OSError(errno.EINVAL, "signalfd")
        wanted, files = task.process.mm.read_word(mask), task.process.files
        if int32(fd) >= 0:
            file = files.get(int32(fd))
            if file.signals is None:
                raise OSError(errno.EINVAL, "no signalfd")
            file.signals, number = wanted, int32(fd)
        else:
            host = os.eventfd(0, os.O_NONBLOCK | os.O_CLOEXEC)
            kept = os.O_RDWR | flags & os.O_NONBLOCK
            file = OpenFile(host, kept, waits=True, internal=True, least=SIGNALFD_SIZE, signals=wanted)
            number = files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))
        if task.waits_for(wanted) is not None:
            os.eventfd_write(file.fd, 1)
        return number
