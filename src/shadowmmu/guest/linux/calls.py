"""What the system calls have in common."""

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

from .tasks import Task

if TYPE_CHECKING:
    from .kernel import Kernel

AT_FDCWD = -100
libc = ctypes.CDLL(None, use_errno=True)


def result(value: int) -> int:
    """Return what a function of the C library returned. Raises OSError."""
    if value < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return value


class Calls:
    """A part of the system calls; `kernel` is who makes them."""

    def __init__(self, kernel: "Kernel") -> None:
        self.kernel = kernel

    def seconds(self, task: Task, address: int) -> float:
        """Return the seconds of a struct timespec. Raises OSError."""
        seconds, nanoseconds = struct.unpack("<qq", task.process.mm.read(address, 16))
        if seconds < 0 or not 0 <= nanoseconds < 10**9:
            raise OSError(errno.EINVAL, "no time")
        return float(seconds + nanoseconds / 10**9)

    def suspend_mask(self, task: Task, address: int) -> None:
        """Use the mask at an address while a call waits. Raises OSError."""
        raise NotImplementedError


def int32(value: int) -> int:
    """Return a C int in a register."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 1 << 31 else value


def int64(value: int) -> int:
    """Return a C long in a register."""
    return value - (1 << 64) if value & 1 << 63 else value
