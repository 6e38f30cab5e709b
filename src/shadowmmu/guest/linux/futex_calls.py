"""Futexes."""

import errno
import struct
from typing import TYPE_CHECKING

from .calls import Calls
from .frames import OutOfMemory
from .layout import PAGE
from .tasks import (
    Blocked,
    Task,
)

if TYPE_CHECKING:
    from .kernel import Kernel

FUTEX_WAIT, FUTEX_WAKE, FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, FUTEX_WAIT_BITSET, FUTEX_WAKE_BITSET = (
    0,
    1,
    3,
    4,
    9,
    10,
)
FUTEX_COMMAND = 0x7F
FUTEX_NAMES = {5: "WAKE_OP", 6: "LOCK_PI", 7: "UNLOCK_PI", 8: "TRYLOCK_PI", 13: "LOCK_PI2"}
FUTEX_WAITERS, FUTEX_DIED, FUTEX_OWNER = 1 << 31, 1 << 30, (1 << 30) - 1
LONGEST_ROBUST = 2048
_ROBUST = struct.Struct("<QqQ")
"""struct robust_list_head: first entry, where a futex is from its entry on, entry that is being locked."""


class FutexCalls(Calls):
    """System calls about futexes."""

    def __init__(self, kernel: "Kernel") -> None:
        super().__init__(kernel)
        self._futexes: dict[tuple[int, int], list[Task]] = {}

    def sys_set_robust_list(self, task: Task, head: int, length: int) -> int:
        task.robust = head
        return 0

    def leave_robust(self, task: Task) -> None:
        """Mark the futexes of a thread's robust list: their owner has died. One that waits is woken."""
        mm, head = task.process.mm, task.robust
        if not head:
            return
        try:
            entry, offset, pending = _ROBUST.unpack(mm.read(head, _ROBUST.size))
            for _ in range(LONGEST_ROBUST):
                if entry & ~1 == head:
                    break
                following = mm.read_word(entry & ~1)
                if entry != pending:
                    self._owner_died(task, (entry & ~1) + offset)
                entry = following
            if pending:
                self._owner_died(task, (pending & ~1) + offset)
        except (OSError, OutOfMemory):
            return

    def _owner_died(self, task: Task, address: int) -> None:
        mm = task.process.mm
        word = mm.read_int(address) & 0xFFFFFFFF
        if word & FUTEX_OWNER != task.tid:
            return
        mm.write(address, (word & FUTEX_WAITERS | FUTEX_DIED).to_bytes(4, "little"))
        if word & FUTEX_WAITERS:
            self._wake(self._futex(task, address), 1)

    def _futex(self, task: Task, address: int) -> tuple[int, int]:
        """Return a futex: its physical address, so that shared memory works."""
        mm = task.process.mm
        if address % 4:
            raise OSError(errno.EINVAL, "not aligned")
        mm.read(address, 4)
        area = mm.find(address)
        if area is not None and area.shared is not None:
            return id(area.shared), area.offset * PAGE + address - area.start
        return id(mm), address

    def sys_futex(
        self, task: Task, address: int, operation: int, value: int, timeout: int, second: int, value3: int
    ) -> int:
        command = operation & FUTEX_COMMAND
        value &= 0xFFFFFFFF
        if command in (FUTEX_WAIT, FUTEX_WAIT_BITSET):
            return self._futex_wait(task, address, value, timeout, operation)
        if command in (FUTEX_WAKE, FUTEX_WAKE_BITSET):
            return self._wake(self._futex(task, address), value)
        if command in (FUTEX_REQUEUE, FUTEX_CMP_REQUEUE):
            if (
                command == FUTEX_CMP_REQUEUE
                and task.process.mm.read_int(address) & 0xFFFFFFFF != value3 & 0xFFFFFFFF
            ):
                raise OSError(errno.EAGAIN, "changed")
            source, target = self._futex(task, address), self._futex(task, second)
            woken = self._wake(source, value)
            waiting = self._futexes.get(source, [])
            moved, self._futexes[source] = waiting[:timeout], waiting[timeout:]
            self._futexes.setdefault(target, []).extend(moved)
            return woken + len(moved)
        name = FUTEX_NAMES.get(command, f"number {command}")
        self.kernel.warn_once(f"{task.process.name}: futex operation {name} is not supported (ENOSYS)")
        raise OSError(errno.ENOSYS, "futex operation")

    def _futex_wait(self, task: Task, address: int, value: int, timeout: int, operation: int) -> int:
        key = self._futex(task, address)
        now = self.kernel.clock.now()
        if task.started is None:
            if task.process.mm.read_int(address) & 0xFFFFFFFF != value:
                raise OSError(errno.EAGAIN, "changed")
            task.started = float("inf")
            if timeout:
                delay = self.seconds(task, timeout)
                if operation & FUTEX_COMMAND == FUTEX_WAIT_BITSET:
                    delay -= self.kernel.clock.time_ns() / 10**9 if operation & 0x100 else now
                task.started = now + delay
            self._futexes.setdefault(key, []).append(task)
        queue = next((one for one in self._futexes.values() if task in one), None)
        if queue is None:
            return 0
        if now >= task.started or task.deliverable() is not None:
            queue.remove(task)
            raise OSError(errno.ETIMEDOUT if now >= task.started else errno.EINTR, "not woken")
        raise Blocked(
            deadline=task.started if timeout else None,
            test=lambda: not any(task in one for one in self._futexes.values()),
        )

    def _wake(self, key: tuple[int, int], count: int) -> int:
        waiting = [task for task in self._futexes.get(key, []) if task.alive]
        self._futexes[key] = waiting[count:]
        if not self._futexes[key]:
            del self._futexes[key]
        return min(count, len(waiting))

    def wake_futex(self, task: Task, address: int, count: int) -> None:
        """Wake those who wait for a task's end. Raises OSError."""
        self._wake(self._futex(task, address), count)
