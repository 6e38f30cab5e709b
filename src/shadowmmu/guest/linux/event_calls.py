"""epoll, eventfd, and pairs of sockets: the host's own, on the host's descriptors of the guest's files."""

import ctypes
import errno
import os
import select
import socket
import struct
import time

from .calls import Calls, int32, libc, result
from .files import OpenFile
from .tasks import Blocked, Task

EPOLL_CTL_DEL = 2
EVENT_SIZE = 12
MOST_EVENTS = 4096
EFD_SEMAPHORE = 1
SOCK_TYPE = 0xF
AF_UNIX = 1


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
        now = time.monotonic()
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
        file = OpenFile(fd, os.O_RDWR | flags & os.O_NONBLOCK, waits=True, internal=True)
        return task.process.files.add(file, close_on_exec=bool(flags & os.O_CLOEXEC))

    def sys_memfd_create(self, task: Task, name: int, flags: int) -> int:
        fd = os.memfd_create(os.fsdecode(task.process.mm.string(name)))
        file = OpenFile(fd, os.O_RDWR)
        return task.process.files.add(file, close_on_exec=bool(flags & os.MFD_CLOEXEC))

    # -- sockets: there is no network --------------------------------------------------------------------

    def sys_socket(self, task: Task) -> int:
        raise OSError(errno.EAFNOSUPPORT, "no network")

    def sys_socketpair(self, task: Task, family: int, kind: int, protocol: int, address: int) -> int:
        if family != AF_UNIX:
            raise OSError(errno.EAFNOSUPPORT, "no network")
        files, numbers = task.process.files, []
        for end in socket.socketpair(socket.AF_UNIX, kind & SOCK_TYPE, int32(protocol)):
            end.setblocking(False)
            file = OpenFile(end.detach(), os.O_RDWR | kind & os.O_NONBLOCK, waits=True, internal=True)
            numbers.append(files.add(file, close_on_exec=bool(kind & os.O_CLOEXEC)))
        task.process.mm.write(address, struct.pack("<ii", *numbers))
        return 0
