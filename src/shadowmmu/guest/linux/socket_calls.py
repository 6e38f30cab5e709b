"""Pairs of sockets: the host's own. There is no network, and a socket has no name that others could find."""

import errno
import os
import select
import socket
import struct
from contextlib import AbstractContextManager

from .calls import int32
from .files import OpenFile
from .io_calls import IoCalls, Vectors
from .tasks import SIGPIPE, SignalInfo, Task

AF_UNIX = 1
SOCK_TYPE = 0xF
MSG_PEEK, MSG_DONTWAIT, MSG_EOR, MSG_NOSIGNAL = 2, 0x40, 0x80, 0x4000
SEND_FLAGS, RECEIVE_FLAGS = MSG_DONTWAIT | MSG_EOR | MSG_NOSIGNAL, MSG_PEEK | MSG_DONTWAIT | 0x40000000
NAME = AF_UNIX.to_bytes(2, "little")
"""The address of a socket without a name."""
READABLE_OPTIONS = frozenset((3, 4, 7, 8, 30, 38, 39))
"""SO_TYPE, SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_ACCEPTCONN, SO_PROTOCOL, SO_DOMAIN: all are integers."""
SETTABLE_OPTIONS = frozenset((2, 7, 8, 9))
"""SO_REUSEADDR, SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE."""
_MESSAGE = struct.Struct("<QI4xQQQQi4x")
"""struct msghdr: name and length, vectors and count, control data and length, flags."""


class SocketCalls(IoCalls):
    """System calls about sockets."""

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

    @staticmethod
    def _socket(file: OpenFile) -> AbstractContextManager[socket.socket]:
        """Return the host's socket. Raises OSError if it is none."""
        fd = os.dup(file.fd)
        try:
            return socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise

    def _unsupported(self, task: Task, what: str) -> OSError:
        self.kernel.warn_once(f"{task.process.name}: sockets with {what} are not supported (EOPNOTSUPP)")
        return OSError(errno.EOPNOTSUPP, what)

    # -- sending -------------------------------------------------------------------------------------------

    def _send(self, task: Task, file: OpenFile, data: bytes, flags: int) -> int:
        if flags & ~SEND_FLAGS:
            raise self._unsupported(task, f"flags {flags:#x}")
        with self._socket(file) as end:
            while True:
                try:
                    sent = end.send(data[task.progress :], flags | MSG_DONTWAIT | MSG_NOSIGNAL)
                except BrokenPipeError:
                    if not flags & MSG_NOSIGNAL:
                        self.kernel.signals.send(task, SIGPIPE, SignalInfo())
                    raise
                except BlockingIOError:
                    hurry = flags & MSG_DONTWAIT or file.nonblocking or task.deliverable() is not None
                    if task.progress and hurry:
                        return task.progress
                    if flags & MSG_DONTWAIT:
                        raise
                    self._wait(task, file, select.POLLOUT)
                    raise
                task.progress += sent
                if task.progress >= len(data) or not sent:
                    return task.progress

    def sys_sendto(self, task: Task, fd: int, address: int, size: int, flags: int, name: int) -> int:
        if name:
            raise OSError(errno.EISCONN, "it has its other end")
        data = self._gather(task, [(address, size)])
        return self._send(task, self._file(task, fd), data, int32(flags))

    def sys_sendmsg(self, task: Task, fd: int, address: int, flags: int) -> int:
        mm, file = task.process.mm, self._file(task, fd)
        name, _, vectors, count, _, control, _ = _MESSAGE.unpack(mm.read(address, _MESSAGE.size))
        if name:
            raise OSError(errno.EISCONN, "it has its other end")
        if control:
            raise self._unsupported(task, "control data")
        return self._send(task, file, self._gather(task, self._vectors(task, vectors, count)), int32(flags))

    # -- receiving -----------------------------------------------------------------------------------------

    def _receive(self, task: Task, file: OpenFile, vectors: Vectors, flags: int) -> tuple[bytes, int]:
        """Return what has come, and the flags that say how. Raises OSError, Blocked."""
        if flags & ~RECEIVE_FLAGS:
            raise self._unsupported(task, f"flags {flags:#x}")
        with self._socket(file) as end:
            try:
                room = self._checked_room(task, file, vectors, sum(size for _, size in vectors))
                data, _, came, _ = end.recvmsg(room, 0, flags | MSG_DONTWAIT)
            except BlockingIOError:
                if flags & MSG_DONTWAIT:
                    raise
                self._wait(task, file, select.POLLIN)
                raise
        return data, came

    def sys_recvfrom(
        self, task: Task, fd: int, address: int, size: int, flags: int, name: int, length: int
    ) -> int:
        vectors = [(address, size)]
        data, _ = self._receive(task, self._file(task, fd), vectors, int32(flags))
        self._scatter(task, vectors, data)
        if name and length:
            task.process.mm.write(length, bytes(4))
        return len(data)

    def sys_recvmsg(self, task: Task, fd: int, address: int, flags: int) -> int:
        mm, file = task.process.mm, self._file(task, fd)
        name, _, vectors, count, control, _, _ = _MESSAGE.unpack(mm.read(address, _MESSAGE.size))
        places = self._vectors(task, vectors, count)
        data, came = self._receive(task, file, places, int32(flags))
        self._scatter(task, places, data)
        came &= ~MSG_DONTWAIT
        mm.write(address, _MESSAGE.pack(name, 0, vectors, count, control, 0, came))
        return len(data)

    # -- what sockets are ----------------------------------------------------------------------------------

    def sys_shutdown(self, task: Task, fd: int, how: int) -> int:
        with self._socket(self._file(task, fd)) as end:
            end.shutdown(int32(how))
        return 0

    def sys_getsockname(self, task: Task, fd: int, address: int, length: int) -> int:
        mm = task.process.mm
        with self._socket(self._file(task, fd)):
            mm.write(address, NAME[: max(mm.read_int(length), 0)])
            mm.write(length, len(NAME).to_bytes(4, "little"))
        return 0

    sys_getpeername = sys_getsockname

    def sys_getsockopt(self, task: Task, fd: int, level: int, option: int, address: int, length: int) -> int:
        mm = task.process.mm
        with self._socket(self._file(task, fd)) as end:
            if level != socket.SOL_SOCKET or option not in READABLE_OPTIONS:
                raise OSError(errno.ENOPROTOOPT, "no such option")
            value = end.getsockopt(level, option).to_bytes(4, "little", signed=True)
        size = mm.read_int(length)
        if size < 0:
            raise OSError(errno.EINVAL, "no size")
        mm.write(address, value[:size])
        mm.write(length, min(size, 4).to_bytes(4, "little"))
        return 0

    def sys_setsockopt(self, task: Task, fd: int, level: int, option: int, address: int, length: int) -> int:
        with self._socket(self._file(task, fd)) as end:
            if level != socket.SOL_SOCKET or option not in SETTABLE_OPTIONS:
                raise OSError(errno.ENOPROTOOPT, "no such option")
            if int32(length) < 4:
                raise OSError(errno.EINVAL, "no integer")
            end.setsockopt(level, option, task.process.mm.read_int(address))
        return 0
