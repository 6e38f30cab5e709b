"""The memory of a guest kernel, by frames that are taken and given back."""

from __future__ import annotations

__all__ = ["Frames", "OutOfFrames"]

PAGE = 4096


class OutOfFrames(MemoryError):
    """The guest's memory is used up; `str` says how much there is."""


class Frames:
    """Frames of [start, end) in bytes, the last one given back first. Addresses are guest-physical.

    A frame may have several users.
    """

    def __init__(self, start: int, end: int) -> None:
        self._start = start
        self._next = start
        self._end = end
        self._free: list[int] = []
        self._users: dict[int, int] = {}

    def take(self) -> int:
        """Return a frame with one user. Raises OutOfFrames."""
        if self._free:
            frame = self._free.pop()
        elif self._next < self._end:
            frame = self._next
            self._next += PAGE
        else:
            raise OutOfFrames(f"the guest has used all of its {(self._end - self._start) >> 20} MiB")
        self._users[frame] = 1
        return frame

    def take_low(self) -> int:
        """Return a frame below 4 GiB. Raises OutOfFrames."""
        frame = self.take()
        if frame >> 32:
            raise OutOfFrames("no frame below 4 GiB is left")
        return frame

    def take_huge(self, size: int) -> int:
        """Return the first frame of an aligned block of `size` bytes. Raises OutOfFrames."""
        first = -(-self._next // size) * size
        if first + size > self._end:
            raise OutOfFrames(f"no block of {size >> 20} MiB is left")
        self._free.extend(range(first - PAGE, self._next - PAGE, -PAGE))
        self._next = first + size
        self._users[first] = 1
        return first

    def share(self, frame: int) -> None:
        """Add a user to a frame."""
        self._users[frame] += 1

    def users(self, frame: int) -> int:
        """Return how many users a frame has."""
        return self._users[frame]

    def drop(self, frame: int) -> None:
        """Take a user from a frame; without users it is free. A huge block is not used again."""
        self._users[frame] -= 1
        if not self._users[frame]:
            del self._users[frame]
            self._free.append(frame)

    @property
    def used(self) -> int:
        """Return the bytes that have users; a huge block counts as one page."""
        return len(self._users) * PAGE
