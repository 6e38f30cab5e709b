"""What the system calls have in common."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .kernel import Kernel


class Calls:
    """A part of the system calls; `kernel` is who makes them."""

    def __init__(self, kernel: "Kernel") -> None:
        self.kernel = kernel


def int32(value: int) -> int:
    """A C int in a register."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 1 << 31 else value


def int64(value: int) -> int:
    """A C long in a register."""
    return value - (1 << 64) if value & 1 << 63 else value
