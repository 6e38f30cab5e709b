"""What runs next: tasks that can run, and those whose calls wait."""

import select
from collections import deque
from typing import TYPE_CHECKING

from .tasks import Blocked, Task

if TYPE_CHECKING:
    from .kernel import Kernel


class NoProgress(Exception):
    """All processes wait for something that cannot happen."""


class Scheduler:
    """The tasks but the one that runs."""

    def __init__(self, kernel: "Kernel") -> None:
        self.kernel = kernel
        self.runnable: deque[Task] = deque()
        self.blocked: list[Task] = []

    def remove(self, task: Task) -> None:
        """Remove a task that has ended."""
        if task in self.blocked:
            self.blocked.remove(task)
        if task in self.runnable:
            self.runnable.remove(task)

    def wake(self) -> None:
        """Make the waiting calls again whose time has come."""
        if not self.blocked:
            return
        now = self.kernel.clock.now()
        ready = self._ready_files([task for task in self.blocked if task.wait and task.wait.files], 0)
        for task in list(self.blocked):
            wait = task.wait
            if not task.alive or wait is None or task.process.stopped:
                continue
            if (
                task in ready
                or wait.deadline is not None
                and now >= wait.deadline
                or wait.test is not None
                and wait.test()
                or task.deliverable() is not None
            ):
                self.kernel.call(task)
                if task.wait is None and task.alive:
                    self.blocked.remove(task)
                    self.runnable.append(task)

    @staticmethod
    def _ready_files(tasks: list[Task], milliseconds: int) -> set[Task]:
        """Return the tasks of whose files one is ready."""
        if not tasks:
            return set()
        poll = select.poll()
        events: dict[int, int] = {}
        for task in tasks:
            assert task.wait is not None
            for fd, wanted in task.wait.files:
                events[fd] = events.get(fd, 0) | wanted
        for fd, wanted in events.items():
            poll.register(fd, wanted)
        found = dict(poll.poll(milliseconds))
        closed = select.POLLHUP | select.POLLERR | select.POLLNVAL
        return {
            task
            for task in tasks
            if any(found.get(fd, 0) & (wanted | closed) for fd, wanted in (task.wait or Blocked()).files)
        }

    def next(self) -> Task | None:
        """Return the task that runs next; None if all have ended, or have to. Raises NoProgress."""
        while True:
            self.kernel.signals.check_alarms()
            self.wake()
            for task in self.runnable:
                if not task.process.stopped:
                    self.runnable.remove(task)
                    return task
            if not (self.blocked or self.runnable) or self.kernel.give_up():
                return None
            self._sleep()

    def _sleep(self) -> None:
        """Sleep while all tasks wait, until one need not. Raises NoProgress.

        What a call has done before it had to wait again may be what another one waits for.
        """
        blocked = [task for task in self.blocked if not task.process.stopped]
        asked = [task.wait for task in blocked if task.wait is not None]
        deadlines = [wait.deadline for wait in asked if wait.deadline is not None]
        deadlines += [
            process.alarm for process in self.kernel.processes.values() if process.alarm is not None
        ]
        waiting = [task for task in blocked if task.wait and task.wait.files]
        if self._ready_files(waiting, 0) or any(wait.test is not None and wait.test() for wait in asked):
            return
        if not deadlines and not any(wait.outside for wait in asked):
            names = ", ".join(sorted({task.process.name for task in (*self.blocked, *self.runnable)}))
            what = "wait for each other" if blocked else "are stopped"
            raise NoProgress(f"all processes {what} ({names})")
        pause = 0.25
        if deadlines:
            left = max(min(deadlines) - self.kernel.clock.now(), 0)
            pause = left if self.kernel.clock.virtual else min(pause, left)
        if waiting and not (self.kernel.clock.virtual and deadlines):
            self._ready_files(waiting, int(pause * 1000 + 0.999))
        else:
            self.kernel.clock.sleep(pause)
