"""The memory of a guest kernel, by frames that are taken and given back."""

from __future__ import annotations

from collections.abc import Iterable

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

    def share(self, frames: Iterable[int]) -> None:
        """Add a user to each of these frames."""
        users = self._users
        for frame in frames:
            users[frame] += 1

    def users(self, frame: int) -> int:
        """Return how many users a frame has."""
        return self._users[frame]

    def drop(self, frames: Iterable[int]) -> None:
        """Take a user from each of these frames; one without users is free."""
        users, free = self._users, self._free
        for frame in frames:
            users[frame] -= 1
            if not users[frame]:
                del users[frame]
                free.append(frame)

    @property
    def used(self) -> int:
        """Return the bytes that have users; a huge block counts as one page."""
        return len(self._users) * PAGE
