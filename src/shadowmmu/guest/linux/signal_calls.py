"""Signals."""

import errno
import struct

from .calls import Calls, int32
from .signals import FPU_SIZE, SIGINFO_SIZE, pack_info, pop_frame, read_info
from .tasks import (
    DEFAULT_ACTION,
    SIG_DFL,
    SIG_IGN,
    SIGCHLD,
    SIGKILL,
    SIGNALS,
    SIGSEGV,
    SIGSTOP,
    Action,
    Blocked,
    Process,
    SignalInfo,
    Task,
    bit,
)

SS_DISABLE = 2
SI_USER, SI_TKILL = 0, -6
_ACTION = struct.Struct("<4Q")


class SignalCalls(Calls):
    """System calls about signals."""

    def sys_rt_sigaction(self, task: Task, signal: int, new: int, old: int, size: int) -> int:
        process = task.process
        if not 0 < signal <= SIGNALS or size != 8 or new and signal in (SIGKILL, SIGSTOP):
            raise OSError(errno.EINVAL, "sigaction")
        action = process.actions.get(signal, DEFAULT_ACTION)
        if new:
            handler, flags, restorer, mask = _ACTION.unpack(process.mm.read(new, 32))
            process.actions[signal] = Action(handler, flags, restorer, mask)
            if handler == SIG_IGN or handler == SIG_DFL and signal == SIGCHLD:
                process.pending.pop(signal, None)
        if old:
            process.mm.write(old, _ACTION.pack(action.handler, action.flags, action.restorer, action.mask))
        return 0

    def sys_rt_sigprocmask(self, task: Task, how: int, new: int, old: int, size: int) -> int:
        mm, mask = task.process.mm, task.mask
        if new:
            value = mm.read_word(new)
            if how not in (0, 1, 2):
                raise OSError(errno.EINVAL, "sigprocmask")
            task.mask = (mask | value, mask & ~value, value)[how] & ~(bit(SIGKILL) | bit(SIGSTOP))
        if old:
            mm.write(old, mask.to_bytes(8, "little"))
        return 0

    def sys_rt_sigpending(self, task: Task, address: int, size: int) -> int:
        pending = sum(bit(signal) for signal in {*task.pending, *task.process.pending})
        task.process.mm.write(address, (pending & task.mask).to_bytes(8, "little"))
        return 0

    def suspend_mask(self, task: Task, address: int) -> None:
        """Use the mask while a call waits."""
        if task.saved_mask is None:
            new = task.process.mm.read_word(address)
            task.saved_mask, task.mask = task.mask, new & ~(bit(SIGKILL) | bit(SIGSTOP))

    def sys_rt_sigsuspend(self, task: Task, mask: int, size: int) -> int:
        self.suspend_mask(task, mask)
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        raise Blocked(test=lambda: False)

    def sys_pause(self, task: Task) -> int:
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        raise Blocked(test=lambda: False)

    def sys_rt_sigtimedwait(self, task: Task, wanted: int, info: int, timeout: int, size: int) -> int:
        mm = task.process.mm
        mask = mm.read_word(wanted)
        signal = task.waits_for(mask)
        if signal is not None:
            found = task.take(signal)
            if info:
                mm.write(info, pack_info(signal, found))
            return signal
        now = self.kernel.clock.now()
        if task.started is None:
            task.started = now + self.seconds(task, timeout) if timeout else float("inf")
        if now >= task.started:
            raise OSError(errno.EAGAIN, "no signal")
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        raise Blocked(
            deadline=task.started if timeout else None,
            test=lambda: task.waits_for(mask) is not None,
        )

    def sys_rt_sigreturn(self, task: Task) -> int:
        kernel = self.kernel
        kernel.registers.copy_to(task, None)
        try:
            registers, mask, fpu = pop_frame(task, task.registers[4])
            data = task.process.mm.read(fpu, FPU_SIZE) if fpu else None
        except OSError:
            kernel.signals.force(task, SIGSEGV, SignalInfo())
            return 0
        task.registers = registers
        task.mask = mask & ~(bit(SIGKILL) | bit(SIGSTOP))
        if data is not None:
            kernel.registers.load_fpu(task, data)
        task.call = None
        return registers[0]

    def sys_sigaltstack(self, task: Task, new: int, old: int) -> int:
        mm = task.process.mm
        base, size = task.stack
        if old:
            mm.write(old, struct.pack("<QI4xQ", base, 0 if size else SS_DISABLE, size))
        if new:
            base, flags, size = struct.unpack("<QI4xQ", mm.read(new, 24))
            task.stack = (0, 0) if flags & SS_DISABLE else (base, size)
        return 0

    def _targets(self, task: Task, pid: int) -> list[Process]:
        processes = [one for one in self.kernel.processes.values() if one.status is None]
        if pid > 0:
            return [one for one in self.kernel.processes.values() if one.pid == pid]
        if pid == -1:
            return [one for one in processes if one is not task.process]
        group = -pid or task.process.group
        return [one for one in processes if one.group == group]

    def sys_kill(self, task: Task, pid: int, signal: int) -> int:
        targets = self._targets(task, int32(pid))
        if not targets:
            raise OSError(errno.ESRCH, "no such process")
        if not 0 <= signal <= SIGNALS:
            raise OSError(errno.EINVAL, "no signal")
        for target in targets:
            if signal:
                self.kernel.signals.send(target, signal, SignalInfo(SI_USER, 0, task.process.pid))
        return 0

    def sys_tkill(self, task: Task, tid: int, signal: int) -> int:
        target = self.kernel.tasks.get(int32(tid))
        if target is None:
            raise OSError(errno.ESRCH, "no such thread")
        if not 0 <= signal <= SIGNALS:
            raise OSError(errno.EINVAL, "no signal")
        if signal:
            self.kernel.signals.send(target, signal, SignalInfo(SI_TKILL, 0, task.process.pid))
        return 0

    def _queue(self, task: Task, target: Process | Task | None, signal: int, address: int) -> int:
        info = read_info(task.process.mm.read(address, SIGINFO_SIZE))
        if target is None:
            raise OSError(errno.ESRCH, "nobody")
        process = target.process if isinstance(target, Task) else target
        if (info.code >= 0 or info.code == SI_TKILL) and process is not task.process:
            raise OSError(errno.EPERM, "somebody else's sender")
        if not 0 <= signal <= SIGNALS:
            raise OSError(errno.EINVAL, "no signal")
        if signal and not self.kernel.signals.send(target, signal, info):
            raise OSError(errno.EAGAIN, "too many signals wait")
        return 0

    def sys_rt_sigqueueinfo(self, task: Task, pid: int, signal: int, address: int) -> int:
        return self._queue(task, self.kernel.processes.get(int32(pid)), signal, address)

    def sys_rt_tgsigqueueinfo(self, task: Task, pid: int, tid: int, signal: int, address: int) -> int:
        return self._queue(task, self.kernel.tasks.get(int32(tid)), signal, address)

    def sys_tgkill(self, task: Task, pid: int, tid: int, signal: int) -> int:
        return self.sys_tkill(task, tid, signal)
