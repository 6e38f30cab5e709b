"""Clocks, sleeping, timers, and what the system tells about itself."""

import errno
import os
import random
import struct

from ...x86.bits import MASK64
from .calls import Calls, int32
from .execute import SEED
from .tasks import Blocked, Task

CLOCK_REALTIME, CLOCK_PROCESS, CLOCK_THREAD = 0, 2, 3
NANOSECONDS = 10**9
TIMER_ABSTIME = 1
TICKS = 100
SCHED_OTHER, REALTIME = 0, (1, 2)
_TIME = struct.Struct("<qq")
_RLIMIT_STACK, _RLIMIT_NOFILE = 3, 7
_LIMITS = {_RLIMIT_STACK: (8 << 20, MASK64), _RLIMIT_NOFILE: (1024, 1024)}
_UNLIMITED = (MASK64,) * 2


class TimeCalls(Calls):
    """System calls about time and resources."""

    _random: random.Random | None = None

    def _clock(self, clock: int) -> int:
        """Return the nanoseconds of a clock. Raises OSError."""
        if clock & ~7 == -8 & ~7 or clock in (CLOCK_PROCESS, CLOCK_THREAD) or clock < 0:
            return self.kernel.clock.used_ns()
        return self.kernel.clock.clock_ns(clock)

    def sys_clock_gettime(self, task: Task, clock: int, address: int) -> int:
        task.process.mm.write(address, _TIME.pack(*divmod(self._clock(int32(clock)), NANOSECONDS)))
        return 0

    def sys_clock_getres(self, task: Task, clock: int, address: int) -> int:
        if address:
            task.process.mm.write(address, _TIME.pack(0, 1))
        return 0

    def sys_gettimeofday(self, task: Task, address: int, zone: int) -> int:
        seconds, nanoseconds = divmod(self.kernel.clock.time_ns(), NANOSECONDS)
        if address:
            task.process.mm.write(address, _TIME.pack(seconds, nanoseconds // 1000))
        if zone:
            task.process.mm.write(zone, bytes(8))
        return 0

    def sys_time(self, task: Task, address: int) -> int:
        now = self.kernel.clock.time_ns() // NANOSECONDS
        if address:
            task.process.mm.write(address, now.to_bytes(8, "little"))
        return now

    def _sleep(self, task: Task, duration: float, left: int) -> int:
        now = self.kernel.clock.now()
        if task.started is None:
            task.started = now + duration
        if now >= task.started:
            return 0
        if task.deliverable() is not None:
            rest = int((task.started - now) * NANOSECONDS)
            if left:
                task.process.mm.write(left, _TIME.pack(*divmod(rest, NANOSECONDS)))
            raise OSError(errno.EINTR, "interrupted")
        raise Blocked(deadline=task.started)

    def sys_nanosleep(self, task: Task, request: int, left: int) -> int:
        return self._sleep(task, self.seconds(task, request), left)

    def sys_clock_nanosleep(self, task: Task, clock: int, flags: int, request: int, left: int) -> int:
        duration = self.seconds(task, request)
        if flags & TIMER_ABSTIME:
            duration -= self._clock(int32(clock)) / NANOSECONDS
            left = 0
        return self._sleep(task, duration, left)

    def sys_alarm(self, task: Task, seconds: int) -> int:
        process = task.process
        now = self.kernel.clock.now()
        left = 0 if process.alarm is None else max(1, round(process.alarm - now))
        process.alarm = now + (seconds & 0xFFFFFFFF) if seconds else None
        process.interval = 0
        return left

    def sys_getitimer(self, task: Task, which: int, address: int) -> int:
        return self.sys_setitimer(task, which, 0, address)

    def sys_setitimer(self, task: Task, which: int, new: int, old: int) -> int:
        if which:
            self.kernel.warn_once(f"{task.process.name}: timers of processor time are not supported (EINVAL)")
            raise OSError(errno.EINVAL, "only ITIMER_REAL")
        process = task.process
        now = self.kernel.clock.now()
        if old:
            left = 0.0 if process.alarm is None else max(process.alarm - now, 0.000001)
            values = [int(part) for value in (process.interval, left) for part in (value, value % 1 * 10**6)]
            process.mm.write(old, struct.pack("<4q", *values))
        if new:
            each, each_micro, first, micro = struct.unpack("<4q", process.mm.read(new, 32))
            process.interval = each + each_micro / 10**6
            delay = first + micro / 10**6
            process.alarm = now + delay if delay > 0 else None
        return 0

    def sys_times(self, task: Task, address: int) -> int:
        used = self.kernel.clock.used_ns() * TICKS // NANOSECONDS
        if address:
            task.process.mm.write(address, struct.pack("<4q", used, 0, 0, 0))
        return int(self.kernel.clock.now() * TICKS)

    def sys_getrusage(self, task: Task, who: int, address: int) -> int:
        task.process.mm.write(address, self.usage(task))
        return 0

    def usage(self, task: Task) -> bytes:
        """Return a struct rusage."""
        seconds, rest = divmod(self.kernel.clock.used_ns(), NANOSECONDS)
        return struct.pack("<16q", seconds, rest // 1000, 0, 0, task.process.mm.resident >> 10, *[0] * 11)

    def sys_sysinfo(self, task: Task, address: int) -> int:
        frames, processes = self.kernel.frames, len(self.kernel.processes)
        data = struct.pack(
            "<q3Q6QH6xQQI4x",
            int(self.kernel.clock.now()),
            0,
            0,
            0,
            frames.total,
            frames.free,
            0,
            0,
            0,
            0,
            processes,
            0,
            0,
            1,
        )
        task.process.mm.write(address, data)
        return 0

    def sys_uname(self, task: Task, address: int) -> int:
        host = os.uname()
        fields = ("Linux", host.nodename, host.release, host.version, "x86_64", "(none)")
        data = b"".join(os.fsencode(text)[:64].ljust(65, b"\0") for text in fields)
        task.process.mm.write(address, data)
        return 0

    def sys_prlimit64(self, task: Task, pid: int, kind: int, new: int, old: int) -> int:
        if old:
            limits = _LIMITS.get(kind, _UNLIMITED)
            task.process.mm.write(old, struct.pack("<2Q", *limits))
        return 0

    def sys_getrlimit(self, task: Task, kind: int, address: int) -> int:
        return self.sys_prlimit64(task, 0, kind, 0, address)

    def sys_setrlimit(self, task: Task) -> int:
        return 0

    def sys_getrandom(self, task: Task, address: int, length: int) -> int:
        if self._random is None:
            self._random = random.Random(SEED.digest())
        length = min(length, 1 << 20)
        task.process.mm.write(address, self._random.randbytes(length))
        return length

    def sys_getcpu(self, task: Task, cpu: int, node: int) -> int:
        for address in (cpu, node):
            if address:
                task.process.mm.write(address, bytes(4))
        return 0

    def sys_sched_getaffinity(self, task: Task, pid: int, length: int, address: int) -> int:
        if length < 8:
            raise OSError(errno.EINVAL, "too small")
        task.process.mm.write(address, (1).to_bytes(8, "little"))
        return 8

    def sys_sched_setaffinity(self, task: Task, pid: int, length: int, address: int) -> int:
        if not int.from_bytes(task.process.mm.read(address, min(length, 128)), "little") & 1:
            raise OSError(errno.EINVAL, "there is one processor")
        return 0

    def sys_sched_getscheduler(self, task: Task, pid: int) -> int:
        return SCHED_OTHER

    def sys_sched_getparam(self, task: Task, pid: int, address: int) -> int:
        task.process.mm.write(address, bytes(4))
        return 0

    def sys_sched_setscheduler(self, task: Task, pid: int, policy: int, address: int) -> int:
        if policy != SCHED_OTHER or task.process.mm.read_int(address):
            raise OSError(errno.EPERM, "one policy, one priority")
        return 0

    def sys_sched_setparam(self, task: Task, pid: int, address: int) -> int:
        return self.sys_sched_setscheduler(task, pid, SCHED_OTHER, address)

    def sys_sched_get_priority_max(self, task: Task, policy: int) -> int:
        return 99 if policy in REALTIME else 0

    def sys_sched_get_priority_min(self, task: Task, policy: int) -> int:
        return 1 if policy in REALTIME else 0

    def sys_personality(self, task: Task, persona: int) -> int:
        if persona & 0xFFFFFFFF not in (0, 0xFFFFFFFF):
            raise OSError(errno.EINVAL, "personality")
        return 0

    def sys_syslog(self, task: Task) -> int:
        raise OSError(errno.EPERM, "not permitted")

    def sys_getpriority(self, task: Task) -> int:
        return 20

    def sys_setpriority(self, task: Task) -> int:
        return 0
