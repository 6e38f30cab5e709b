"""Signals: who gets them, and what they do."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...x86.bits import MASK64
from .layout import PAGE
from .signals import (
    CONTINUED,
    FPU_SIZE,
    SA_NOCLDSTOP,
    SA_NODEFER,
    SA_RESETHAND,
    SA_RESTART,
    about_child,
    push_frame,
    stopped_by,
)
from .tasks import (
    DEFAULT_ACTION,
    IGNORED_BY_DEFAULT,
    RAX,
    RFLAGS,
    RIP,
    RSP,
    SIG_DFL,
    SIG_IGN,
    SIGALRM,
    SIGCHLD,
    SIGCONT,
    SIGKILL,
    SIGNAL_NAMES,
    SIGSEGV,
    SIGSTOP,
    STOPS,
    Process,
    SignalInfo,
    Task,
    bit,
)

if TYPE_CHECKING:
    from .kernel import Kernel

EINTR = 4
RESTART = 512
"""ERESTARTSYS: the call is to be made again, unless a handler without SA_RESTART runs."""
SEGV_MAPERR, SEGV_ACCERR, SI_KERNEL = 1, 2, 0x80


class Delivery:
    """Signals of the kernel's processes."""

    def __init__(self, kernel: "Kernel") -> None:
        self.kernel = kernel

    def send(self, target: Process | Task, signal: int, info: SignalInfo) -> bool:
        """Make a signal pending for a process or a thread, unless it ignores it; whether there was room."""
        process = target.process if isinstance(target, Task) else target
        if process.status is not None:
            return True
        if signal in (SIGCONT, SIGKILL):
            self._discard(process, STOPS)
            self._go_on(process, signal)
        elif signal in STOPS:
            self._discard(process, (SIGCONT,))
        if self._is_ignored(process, signal):
            return True
        for descriptor in process.files.open.values():
            if descriptor.file.signals is not None and descriptor.file.signals & bit(signal):
                os.eventfd_write(descriptor.file.fd, 1)
        return target.pending.add(signal, info)

    @staticmethod
    def _is_ignored(process: Process, signal: int) -> bool:
        action = process.actions.get(signal, DEFAULT_ACTION)
        if signal in (SIGKILL, SIGSTOP):
            return False
        if action.handler == SIG_IGN:
            return True
        blocked = all(thread.mask & bit(signal) for thread in process.threads)
        return action.handler == SIG_DFL and signal in IGNORED_BY_DEFAULT and not blocked

    @staticmethod
    def _discard(process: Process, signals: Iterable[int]) -> None:
        for signal in signals:
            for pending in (process.pending, *(thread.pending for thread in process.threads)):
                pending.pop(signal, None)

    # -- stopping ------------------------------------------------------------------------------------------

    def _stop(self, process: Process, signal: int) -> None:
        process.stopped, process.change = signal, stopped_by(signal)
        self._report(process, process.change)

    def _go_on(self, process: Process, signal: int) -> None:
        if process.stopped:
            process.stopped = 0
            if signal == SIGCONT:
                process.change = CONTINUED
                self._report(process, CONTINUED)

    def _report(self, process: Process, status: int) -> None:
        parent = process.parent
        if parent is None or parent.actions.get(SIGCHLD, DEFAULT_ACTION).flags & SA_NOCLDSTOP:
            return
        self.send(parent, SIGCHLD, about_child(process, status))

    def _is_orphaned(self, group: int) -> bool:
        """Return whether nobody is there who could continue a process group's members."""
        members = [one for one in self.kernel.processes.values() if one.group == group]
        parents = [(one.session, one.parent) for one in members if one.parent is not None]
        return not any(parent.group != group and parent.session == own for own, parent in parents)

    # -- delivering ----------------------------------------------------------------------------------------

    def force(self, task: Task, signal: int, info: SignalInfo) -> None:
        """Send a signal that cannot be blocked or ignored: for a fault."""
        action = task.process.actions.get(signal, DEFAULT_ACTION)
        if task.mask & bit(signal) or action.handler == SIG_IGN:
            task.process.actions[signal] = DEFAULT_ACTION
            task.mask &= ~bit(signal)
        task.pending[signal] = [info]

    def deliver(self, task: Task) -> None:
        """Act on the pending signals of a task that is about to run."""
        while task.alive and not task.process.stopped:
            signal = task.deliverable()
            if signal is None:
                break
            pending = task.pending if signal in task.pending else task.process.pending
            info = pending.take(signal)
            action = task.process.actions.get(signal, DEFAULT_ACTION)
            if signal in (SIGKILL, SIGSTOP) or action.handler == SIG_DFL:
                self._act_by_default(task, signal, info)
            elif action.handler != SIG_IGN:
                self.kernel.registers.save(task)
                self._call_handler(task, signal, info)
        if task.alive and task.saved_mask is not None and task.wait is None:
            task.mask, task.saved_mask = task.saved_mask, None
        self.restart(task)

    def _act_by_default(self, task: Task, signal: int, info: SignalInfo) -> None:
        process = task.process
        if signal in STOPS:
            if signal == SIGSTOP or not self._is_orphaned(process.group):
                self._stop(process, signal)
        elif signal not in IGNORED_BY_DEFAULT:
            self._killed(task, signal, info)

    def restart(self, task: Task, *, interrupted: bool = False) -> None:
        """Make a call that was interrupted by a signal again, or let it fail with EINTR."""
        if task.call is None or not task.alive:
            return
        if self.kernel.registers.loaded is task:
            if self.kernel.processor.q[RAX] != -RESTART & MASK64:
                return
            self.kernel.registers.save(task)
        registers = task.registers
        if registers[RAX] != -RESTART & MASK64:
            return
        if interrupted:
            registers[RAX] = -EINTR & MASK64
        else:
            registers[RAX] = task.call[0]
            registers[RIP] -= 2

    def _call_handler(self, task: Task, signal: int, info: SignalInfo) -> None:
        process = task.process
        action = process.actions[signal]
        self.restart(task, interrupted=not action.flags & SA_RESTART)
        task.call = None
        mask = task.mask if task.saved_mask is None else task.saved_mask
        task.saved_mask = None
        try:
            frame = push_frame(task, signal, info, action, mask)
            fpu = process.mm.pages[frame.fpu // PAGE] & 0xFFFFFFFFFF000 | frame.fpu % PAGE
        except OSError:
            self._killed(task, SIGSEGV, SignalInfo())
            return
        if self.kernel.registers.fpu_owner is task:
            self.kernel.work.copy_fpu = fpu
        else:
            self.kernel.machine.write(fpu, self.kernel.machine.read(task.fpu, FPU_SIZE))
        task.mask |= action.mask
        if not action.flags & SA_NODEFER:
            task.mask |= bit(signal)
        if action.flags & SA_RESETHAND:
            process.actions[signal] = DEFAULT_ACTION
        registers = task.registers
        registers[7], registers[6], registers[2], registers[RAX] = signal, frame.info, frame.context, 0
        registers[RSP], registers[RIP] = frame.stack, action.handler
        registers[RFLAGS] &= ~0x500

    def _killed(self, task: Task, signal: int, info: SignalInfo) -> None:
        process = task.process
        if process is self.kernel.first:
            self.kernel.registers.save(task)
            place = f" at address {info.address:#x}" if info.code in (SEGV_MAPERR, SEGV_ACCERR) else ""
            registers = task.registers
            self.kernel.warn(
                f"{process.name}: killed by SIG{SIGNAL_NAMES.get(signal, signal)}{place}; "
                f"rip {registers[RIP]:#x} rsp {registers[RSP]:#x} rax {registers[RAX]:#x}"
            )
        self.kernel.end_process(process, signal)

    def check_alarms(self) -> None:
        now = self.kernel.clock.now()
        for process in self.kernel.processes.values():
            if process.alarm is not None and now >= process.alarm:
                process.alarm = now + process.interval if process.interval else None
                self.send(process, SIGALRM, SignalInfo(SI_KERNEL))
