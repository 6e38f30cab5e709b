"""Processes, threads, signals, futexes."""

import errno
import os
import struct
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from .calls import Calls, int32
from .elf import INTERPRETER_BASE, NotExecutable
from .execute import Executable, Script, load_program, read_executable
from .frames import OutOfMemory
from .layout import PAGE, USER_END
from .memory import AddressSpace
from .signals import FPU_SIZE, SIGINFO_SIZE, child_info, pop_frame
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

if TYPE_CHECKING:
    from .kernel import Kernel

CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_VFORK, CLONE_THREAD = 0x100, 0x200, 0x400, 0x4000, 0x10000
CLONE_SETTLS, CLONE_PARENT_SETTID = 0x80000, 0x100000
CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID = 0x200000, 0x1000000
WNOHANG, WEXITED, WNOWAIT = 1, 4, 0x1000000
P_ALL, P_PID, P_PGID = range(3)
RUSAGE_SIZE = 144
ARCH_SET_GS, ARCH_SET_FS, ARCH_GET_FS, ARCH_GET_GS = range(0x1001, 0x1005)
FUTEX_WAIT, FUTEX_WAKE, FUTEX_REQUEUE, FUTEX_CMP_REQUEUE, FUTEX_WAIT_BITSET, FUTEX_WAKE_BITSET = (
    0,
    1,
    3,
    4,
    9,
    10,
)
FUTEX_COMMAND = 0x7F
SS_DISABLE = 2
MOST_TASKS = 4096
DEEPEST_SCRIPT = 4
SI_USER, SI_TKILL = 0, -6
_ACTION = struct.Struct("<4Q")


class ProcessCalls(Calls):
    """System calls about processes."""

    def __init__(self, kernel: "Kernel") -> None:
        super().__init__(kernel)
        self._futexes: dict[tuple[int, int], list[Task]] = {}

    # -- birth -------------------------------------------------------------------------------------------

    def sys_fork(self, task: Task) -> int:
        return self._clone(task, SIGCHLD, 0, 0, 0, 0)

    def sys_vfork(self, task: Task) -> int:
        return self._clone(task, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0)

    def sys_clone(self, task: Task, flags: int, stack: int, parent_tid: int, child_tid: int, tls: int) -> int:
        return self._clone(task, flags, stack, parent_tid, child_tid, tls)

    def _clone(self, task: Task, flags: int, stack: int, parent_tid: int, child_tid: int, tls: int) -> int:
        kernel = self.kernel
        if task.started is not None:
            return self._vfork_done(task)
        if flags & CLONE_THREAD and not flags & CLONE_VM:
            raise OSError(errno.EINVAL, "clone")
        if flags & CLONE_SETTLS and tls >= USER_END + PAGE:
            raise OSError(errno.EPERM, "not in user space")
        if len(kernel.tasks) >= MOST_TASKS:
            raise OSError(errno.EAGAIN, "too many tasks")
        tid = kernel.new_pid()
        process = task.process if flags & CLONE_THREAD else self._new_process(task, tid, flags)
        child = kernel.new_task(process, tid)
        kernel.save_registers(task, child)
        child.registers[0] = 0
        if stack:
            child.registers[4] = stack
        child.mask = task.mask
        if flags & CLONE_SETTLS:
            child.fs = tls
        if flags & CLONE_CHILD_CLEARTID:
            child.clear_tid = child_tid
        if flags & CLONE_PARENT_SETTID:
            task.process.mm.write(parent_tid, tid.to_bytes(4, "little"))
        if flags & CLONE_CHILD_SETTID:
            process.mm.write(child_tid, tid.to_bytes(4, "little"))
        kernel.runnable.append(child)
        if flags & CLONE_VFORK:
            process.vfork = True
            task.started = float(tid)
            return self._vfork_done(task)
        return tid

    def _vfork_done(self, task: Task) -> int:
        assert task.started is not None
        tid = int(task.started)
        child = self.kernel.processes.get(tid)
        if child is not None and child.vfork and child.status is None:
            raise Blocked(test=lambda: not child.vfork)
        return tid

    def _new_process(self, task: Task, pid: int, flags: int) -> Process:
        parent = task.process
        if flags & CLONE_VM:
            mm = parent.mm
            mm.users += 1
        else:
            mm = parent.mm.copy()
        if flags & CLONE_FILES:
            files = parent.files
            files.users += 1
        else:
            files = parent.files.copy()
        process = Process(pid, parent, mm, files, parent.directory, parent.umask, parent.name, parent.program)
        process.arguments = parent.arguments
        process.group, process.session = parent.group, parent.session
        process.actions = dict(parent.actions)
        parent.children.append(process)
        self.kernel.processes[pid] = process
        return process

    # -- execve ------------------------------------------------------------------------------------------

    def sys_execve(self, task: Task, path: int, arguments: int, environment: int) -> int:
        mm = task.process.mm
        name = os.fsdecode(mm.string(path))
        argv, envp = self._strings(mm, arguments), self._strings(mm, environment)
        return self._execute(task, self.absolute(task, name), argv, envp)

    @staticmethod
    def _strings(mm: AddressSpace, address: int) -> list[bytes]:
        found: list[bytes] = []
        while address and (pointer := mm.read_word(address)):
            found.append(mm.string(pointer, 1 << 17))
            address += 8
            if len(found) > 1 << 16:
                raise OSError(errno.E2BIG, "too many arguments")
        return found

    def _execute(self, task: Task, path: str, arguments: list[bytes], environment: list[bytes]) -> int:
        kernel, process = self.kernel, task.process
        executable = self._find_program(path, arguments)
        mm = AddressSpace(kernel.frames)
        old = process.mm
        registers, fs, gs = task.registers, task.fs, task.gs
        try:
            load_program(task, mm, executable, arguments, environment)
        except (OSError, OutOfMemory):
            task.registers, task.fs, task.gs = registers, fs, gs
            mm.drop()
            raise
        for other in list(process.threads):
            if other is not task:
                kernel.end_task(other)
        old.drop()
        process.vfork = False
        for signal, action in list(process.actions.items()):
            if action.handler != SIG_IGN:
                del process.actions[signal]
        closing = [fd for fd, descriptor in process.files.open.items() if descriptor.close_on_exec]
        if process.files.users > 1:
            files = process.files.copy()
            process.files.drop()
            process.files = files
        process.files.close_all(closing)
        task.stack, task.clear_tid, task.robust = (0, 0), 0, 0
        kernel.forget_registers(task)
        return 0

    def _find_program(self, path: str, arguments: list[bytes]) -> Executable:
        """The program of a file or of its interpreter, whose arguments are put in front. Raises OSError."""
        for _ in range(DEEPEST_SCRIPT):
            real = self.kernel.tree.resolve(path)
            if not os.access(real, os.X_OK):
                os.stat(real)
                raise OSError(errno.EACCES, "not executable")
            try:
                found = read_executable(real)
            except NotExecutable as error:
                raise OSError(errno.ENOEXEC, str(error)) from None
            if not isinstance(found, Script):
                return self._with_interpreter(found)
            front = [found.interpreter]
            if found.argument is not None:
                front.append(found.argument)
            arguments[:1] = [*front, os.fsencode(path)]
            path = os.fsdecode(found.interpreter)
        raise OSError(errno.ELOOP, "too many interpreters")

    def _with_interpreter(self, executable: Executable) -> Executable:
        """A dynamically linked program comes with its loader. Raises OSError."""
        name = executable.program.interpreter
        if name is None:
            return executable
        try:
            loader = read_executable(self.kernel.tree.resolve(name), INTERPRETER_BASE)
            if not isinstance(loader, Executable) or loader.program.interpreter is not None:
                raise NotExecutable("its interpreter is no program")
        except (OSError, NotExecutable) as error:
            executable.close()
            if isinstance(error, OSError):
                raise
            raise OSError(errno.ELIBBAD, str(error)) from None
        return replace(executable, interpreter=loader)

    # -- death -------------------------------------------------------------------------------------------

    def sys_exit(self, task: Task, status: int) -> int:
        if len(task.process.threads) == 1:
            return self.sys_exit_group(task, status)
        self.kernel.end_task(task)
        return 0

    def sys_exit_group(self, task: Task, status: int) -> int:
        self.kernel.end_process(task.process, (status & 0xFF) << 8)
        return 0

    @staticmethod
    def _ended_child(task: Task, wanted: int, options: int) -> Process | None:
        """A child that has ended: any (-1), one, or one of a group (0, -group); None without, if WNOHANG."""
        process = task.process

        def matches(child: Process) -> bool:
            if wanted == -1:
                return True
            return child.pid == wanted if wanted > 0 else child.group == (-wanted or process.group)

        children = [child for child in process.children if matches(child)]
        if not children:
            raise OSError(errno.ECHILD, "no children")
        for child in children:
            if child.status is not None:
                return child
        if options & WNOHANG:
            return None
        raise Blocked(test=lambda: any(child.status is not None for child in children))

    def sys_wait4(self, task: Task, pid: int, status: int, options: int, usage: int) -> int:
        mm, child = task.process.mm, self._ended_child(task, int32(pid), options)
        if child is None:
            return 0
        if status:
            mm.write(status, (child.status or 0).to_bytes(4, "little"))
        if usage:
            mm.write(usage, bytes(RUSAGE_SIZE))
        self.kernel.reap(child)
        return child.pid

    def sys_waitid(self, task: Task, kind: int, pid: int, info: int, options: int, usage: int) -> int:
        if kind not in (P_ALL, P_PID, P_PGID) or not options & WEXITED:
            raise OSError(errno.EINVAL, "waitid")
        mm = task.process.mm
        wanted = -1 if kind == P_ALL else int32(pid) if kind == P_PID else -int32(pid)
        child = self._ended_child(task, wanted, options)
        if info:
            mm.write(info, bytes(SIGINFO_SIZE) if child is None else child_info(child))
        if usage:
            mm.write(usage, bytes(RUSAGE_SIZE))
        if child is not None and not options & WNOWAIT:
            self.kernel.reap(child)
        return 0

    # -- signals -----------------------------------------------------------------------------------------

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
        """The mask while a call waits."""
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
        for pending in (task.pending, task.process.pending):
            for signal in sorted(pending):
                if mask & bit(signal):
                    found = pending.pop(signal)
                    if info:
                        mm.write(
                            info, struct.pack("<iiixxxxii", signal, 0, found.code, found.pid, 0) + bytes(100)
                        )
                    return signal
        now = time.monotonic()
        if task.started is None:
            task.started = now + self.seconds(task, timeout) if timeout else float("inf")
        if now >= task.started:
            raise OSError(errno.EAGAIN, "no signal")
        if task.deliverable() is not None:
            raise OSError(errno.EINTR, "interrupted")
        process = task.process
        raise Blocked(
            deadline=task.started if timeout else None,
            test=lambda: any(mask & bit(signal) for signal in (*task.pending, *process.pending)),
        )

    def seconds(self, task: Task, address: int) -> float:
        """Of a struct timespec. Raises OSError."""
        seconds, nanoseconds = struct.unpack("<qq", task.process.mm.read(address, 16))
        if seconds < 0 or not 0 <= nanoseconds < 10**9:
            raise OSError(errno.EINVAL, "no time")
        return float(seconds + nanoseconds / 10**9)

    def sys_rt_sigreturn(self, task: Task) -> int:
        kernel = self.kernel
        kernel.save_registers(task, None)
        try:
            registers, mask, fpu = pop_frame(task, task.registers[4])
            data = task.process.mm.read(fpu, FPU_SIZE) if fpu else None
        except OSError:
            kernel.force_signal(task, SIGSEGV, SignalInfo())
            return 0
        task.registers = registers
        task.mask = mask & ~(bit(SIGKILL) | bit(SIGSTOP))
        if data is not None:
            kernel.load_fpu(task, data)
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
                self.kernel.send(target, signal, SignalInfo(SI_USER, 0, task.process.pid))
        return 0

    def sys_tkill(self, task: Task, tid: int, signal: int) -> int:
        target = self.kernel.tasks.get(int32(tid))
        if target is None:
            raise OSError(errno.ESRCH, "no such thread")
        if not 0 <= signal <= SIGNALS:
            raise OSError(errno.EINVAL, "no signal")
        if signal:
            self.kernel.send(target, signal, SignalInfo(SI_TKILL, 0, task.process.pid))
        return 0

    def sys_tgkill(self, task: Task, pid: int, tid: int, signal: int) -> int:
        return self.sys_tkill(task, tid, signal)

    # -- threads -----------------------------------------------------------------------------------------

    def sys_set_tid_address(self, task: Task, address: int) -> int:
        task.clear_tid = address
        return task.tid

    def sys_set_robust_list(self, task: Task, head: int, length: int) -> int:
        task.robust = head
        return 0

    def sys_arch_prctl(self, task: Task, code: int, address: int) -> int:
        kernel = self.kernel
        if code in (ARCH_SET_FS, ARCH_SET_GS):
            if address >= USER_END + PAGE:
                raise OSError(errno.EPERM, "not in user space")
            kernel.set_base(task, "fs" if code == ARCH_SET_FS else "gs", address)
            return 0
        if code in (ARCH_GET_FS, ARCH_GET_GS):
            value = kernel.get_base(task, "fs" if code == ARCH_GET_FS else "gs")
            task.process.mm.write(address, value.to_bytes(8, "little"))
            return 0
        raise OSError(errno.EINVAL, "arch_prctl")

    def _futex(self, task: Task, address: int) -> tuple[int, int]:
        """A futex: its physical address, so that shared memory works."""
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
        raise OSError(errno.ENOSYS, "futex operation")

    def _futex_wait(self, task: Task, address: int, value: int, timeout: int, operation: int) -> int:
        key = self._futex(task, address)
        now = time.monotonic()
        if task.started is None:
            if task.process.mm.read_int(address) & 0xFFFFFFFF != value:
                raise OSError(errno.EAGAIN, "changed")
            task.started = float("inf")
            if timeout:
                delay = self.seconds(task, timeout)
                if operation & FUTEX_COMMAND == FUTEX_WAIT_BITSET:
                    delay -= time.time() if operation & 0x100 else now
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

    def sys_sched_yield(self, task: Task) -> int:
        self.kernel.reschedule = bool(self.kernel.runnable)
        return 0

    # -- who is who --------------------------------------------------------------------------------------

    def sys_getpid(self, task: Task) -> int:
        return task.process.pid

    def sys_gettid(self, task: Task) -> int:
        return task.tid

    def sys_getppid(self, task: Task) -> int:
        parent = task.process.parent
        return 1 if parent is None else parent.pid

    def sys_getuid(self, task: Task) -> int:
        return os.getuid()

    def sys_geteuid(self, task: Task) -> int:
        return os.geteuid()

    def sys_getgid(self, task: Task) -> int:
        return os.getgid()

    def sys_getegid(self, task: Task) -> int:
        return os.getegid()

    def _ids(self, task: Task, addresses: tuple[int, ...], value: int) -> int:
        for address in addresses:
            task.process.mm.write(address, value.to_bytes(4, "little"))
        return 0

    def sys_getresuid(self, task: Task, real: int, effective: int, saved: int) -> int:
        return self._ids(task, (real, effective, saved), os.getuid())

    def sys_getresgid(self, task: Task, real: int, effective: int, saved: int) -> int:
        return self._ids(task, (real, effective, saved), os.getgid())

    def _same(self, wanted: int, own: int) -> int:
        if int32(wanted) not in (-1, own):
            raise OSError(errno.EPERM, "not permitted")
        return 0

    def sys_setuid(self, task: Task, user: int) -> int:
        return self._same(user, os.getuid())

    def sys_setgid(self, task: Task, group: int) -> int:
        return self._same(group, os.getgid())

    def sys_setresuid(self, task: Task, user: int) -> int:
        return self._same(user, os.getuid())

    def sys_setresgid(self, task: Task, group: int) -> int:
        return self._same(group, os.getgid())

    def sys_getgroups(self, task: Task, count: int, address: int) -> int:
        groups = os.getgroups()
        if count:
            if count < len(groups):
                raise OSError(errno.EINVAL, "too small")
            task.process.mm.write(address, struct.pack(f"<{len(groups)}I", *groups))
        return len(groups)

    def _process(self, task: Task, pid: int) -> Process:
        process = self.kernel.processes.get(pid) if pid else task.process
        if process is None:
            raise OSError(errno.ESRCH, "no such process")
        return process

    def sys_getpgrp(self, task: Task) -> int:
        return task.process.group

    def sys_getpgid(self, task: Task, pid: int) -> int:
        return self._process(task, int32(pid)).group

    def sys_setpgid(self, task: Task, pid: int, group: int) -> int:
        process = self._process(task, int32(pid))
        process.group = int32(group) or process.pid
        return 0

    def sys_getsid(self, task: Task, pid: int) -> int:
        return self._process(task, int32(pid)).session

    def sys_setsid(self, task: Task) -> int:
        process = task.process
        if process.group == process.pid and process is self.kernel.first:
            raise OSError(errno.EPERM, "a leader already")
        process.group = process.session = process.pid
        return process.pid

    def sys_prctl(self, task: Task, option: int, value: int) -> int:
        if option == 15:
            task.process.name = os.fsdecode(task.process.mm.string(value)[:15])
        elif option == 16:
            task.process.mm.write(value, os.fsencode(task.process.name)[:15] + b"\0")
        return 0

    def sys_umask(self, task: Task, mask: int) -> int:
        old, task.process.umask = task.process.umask, mask & 0o777
        return old
