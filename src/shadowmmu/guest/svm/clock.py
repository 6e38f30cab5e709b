"""The time that a guest sees: the host's, or a virtual one that advances with what the guest executes."""

import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["HOST_CLOCK", "Clock", "HostClock", "VirtualClock"]

EPOCH_NS = 1_767_225_600 * 10**9
"""Nanoseconds since 1970 at which a virtual clock begins: 2026-01-01, 00:00 UTC."""
START_NS = 1000 * 10**9
"""Nanoseconds that a virtual monotonic clock begins with; 0 would be a machine just switched on."""
EXIT_NS = 1000
"""Nanoseconds that an exit takes on a virtual clock."""


class Clock(Protocol):
    """Who knows what time it is for a guest."""

    virtual: bool
    """Whether the time depends on nothing but what the guest executed."""

    def now(self) -> float:
        """Return the seconds of a clock that only advances (time.monotonic)."""
        ...

    def time_ns(self) -> int:
        """Return the nanoseconds since 1970."""
        ...

    def clock_ns(self, clock: int) -> int:
        """Return the nanoseconds of a clock of clock_gettime(). Raises OSError."""
        ...

    def used_ns(self) -> int:
        """Return the nanoseconds of processor time used."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let that much time pass."""
        ...


class HostClock:
    """The host's time."""

    virtual = False
    now = staticmethod(time.monotonic)
    time_ns = staticmethod(time.time_ns)
    clock_ns = staticmethod(time.clock_gettime_ns)
    used_ns = staticmethod(time.process_time_ns)
    sleep = staticmethod(time.sleep)


HOST_CLOCK = HostClock()


class VirtualClock:
    """Time by what the guest executes: a nanosecond for each byte of code, EXIT_NS for each exit.

    When the guest sleeps, the clock is at the end of its sleep at once. `executed` and `exits`, the bytes
    of code and the exits so far, are set by the machine.
    """

    virtual = True

    def __init__(self) -> None:
        self.executed: Callable[[], int] = lambda: 0
        self.exits: Callable[[], int] = lambda: 0
        self._slept = 0

    def used_ns(self) -> int:
        """Return the nanoseconds of processor time used."""
        return self.executed() + EXIT_NS * self.exits()

    def _elapsed(self) -> int:
        return self.used_ns() + self._slept

    def now(self) -> float:
        """Return the seconds of a clock that only advances."""
        return (START_NS + self._elapsed()) / 1e9

    def time_ns(self) -> int:
        """Return the nanoseconds since 1970."""
        return EPOCH_NS + self._elapsed()

    def clock_ns(self, clock: int) -> int:
        """Return the nanoseconds of a clock of clock_gettime(). Raises OSError if there is no such clock."""
        time.clock_getres(clock)
        wall = clock in (time.CLOCK_REALTIME, 5, time.CLOCK_TAI)  # 5: CLOCK_REALTIME_COARSE
        return (EPOCH_NS if wall else START_NS) + self._elapsed()

    def sleep(self, seconds: float) -> None:
        """Let that much time pass, at once, and a little more: who sleeps until a time is past it then."""
        self._slept += max(int(seconds * 1e9), 0) + 1
