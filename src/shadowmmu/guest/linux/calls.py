"""What the system calls have in common."""

from typing import TYPE_CHECKING

from .tasks import Task

if TYPE_CHECKING:
    from .kernel import Kernel

AT_FDCWD = -100


class Calls:
    """A part of the system calls; `kernel` is who makes them."""

    def __init__(self, kernel: "Kernel") -> None:
        self.kernel = kernel

    def absolute(self, task: Task, path: str, directory: int = AT_FDCWD) -> str:
        """A path from the process' directory on, or from an open one's. Raises OSError."""
        raise NotImplementedError

    def suspend_mask(self, task: Task, address: int) -> None:
        """The mask at an address holds while a call waits. Raises OSError."""
        raise NotImplementedError


def int32(value: int) -> int:
    """A C int in a register."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 1 << 31 else value


def int64(value: int) -> int:
    """A C long in a register."""
    return value - (1 << 64) if value & 1 << 63 else value
