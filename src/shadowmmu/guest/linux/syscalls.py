"""System calls: which there are, and how one is made."""

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from .event_calls import EventCalls
from .file_calls import FileCalls
from .futex_calls import FutexCalls
from .identity_calls import IdentityCalls
from .memory_calls import MemoryCalls
from .name_calls import NameCalls
from .numbers import NAMES
from .poll_calls import PollCalls
from .process_calls import ProcessCalls
from .signal_calls import SignalCalls
from .socket_calls import SocketCalls
from .tasks import Task
from .time_calls import TimeCalls

if TYPE_CHECKING:
    from .kernel import Kernel

ABSENT = frozenset(
    [
        "rseq",
        "clone3",
        "io_uring_setup",
        "close_range",
        "openat2",
        "membarrier",
        "userfaultfd",
        "perf_event_open",
        "copy_file_range",
        "seccomp",
        "keyctl",
        "add_key",
        "request_key",
        "pidfd_open",
        "fchmodat2",
        "epoll_pwait2",
        "setxattr",
        "lsetxattr",
        "fsetxattr",
        "getxattr",
        "lgetxattr",
        "fgetxattr",
        "listxattr",
        "llistxattr",
        "flistxattr",
        "faccessat2",
    ]
)
"""Calls that programs can do without, and that older kernels do not have: ENOSYS without a warning."""

_CONTENTS = """
read pread64 readv preadv preadv2 write pwrite64 writev pwritev pwritev2 sendfile truncate ftruncate fallocate
fsync fdatasync sync msync open openat creat execve mmap
"""
ABOUT_CONTENTS = frozenset(_CONTENTS.split())
"""Calls that see or change what is in files."""


class SystemCalls(
    EventCalls,
    FileCalls,
    FutexCalls,
    IdentityCalls,
    MemoryCalls,
    NameCalls,
    PollCalls,
    ProcessCalls,
    SignalCalls,
    SocketCalls,
    TimeCalls,
):
    """The calls by name: `sys_NAME(task, arguments...)` returns the result or raises OSError."""

    def __init__(self, kernel: "Kernel") -> None:
        super().__init__(kernel)
        self._calls: dict[int, tuple[str, Callable[..., int], int]] = {}
        self._unknown: set[int] = set()
        for number, name in NAMES.items():
            call = getattr(self, f"sys_{name}", None)
            if call is not None:
                self._calls[number] = (name, call, call.__code__.co_argcount - 2)

    def make(self, task: Task, number: int, arguments: tuple[int, ...]) -> int:
        """Make a system call. Return its result, or -errno. Raises Blocked or OutOfMemory."""
        known = self._calls.get(number)
        if known is None:
            return self._refuse(task, number)
        name, call, count = known
        if task.wait is None:
            self.kernel.system_calls[name] += 1
        shared = self.kernel.frames.shared_files if name in ABOUT_CONTENTS else {}
        for file in shared.values():
            file.store()
        try:
            return call(task, *arguments[:count])
        except OSError as error:
            return -(error.errno or errno.EIO)
        except (ValueError, OverflowError, struct.error):
            return -errno.EINVAL  # the host's functions refuse such arguments
        finally:
            for file in shared.values():
                file.load()

    def _refuse(self, task: Task, number: int) -> int:
        name = NAMES.get(number, f"number {number}")
        self.kernel.system_calls[name] += 1
        if name not in ABSENT and number not in self._unknown:
            self._unknown.add(number)
            self.kernel.warn(f"{task.process.name}: system call {name} is not supported (ENOSYS)")
        return -errno.ENOSYS
