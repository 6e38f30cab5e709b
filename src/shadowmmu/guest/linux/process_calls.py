"""Processes and threads: birth, execve, death."""

import errno
import os
from dataclasses import replace

from .calls import int32
from .directory import host_name
from .elf import INTERPRETER_BASE, NotExecutable
from .execute import Executable, Script, load_program, read_executable
from .frames import OutOfMemory
from .layout import PAGE, USER_END
from .memory import AddressSpace
from .path_calls import PathCalls
from .signals import CONTINUED, SIGINFO_SIZE, about_child, pack_info
from .tasks import (
    SIG_IGN,
    SIGCHLD,
    Blocked,
    Process,
    Task,
)

CLONE_VM, CLONE_FILES, CLONE_VFORK, CLONE_THREAD = 0x100, 0x400, 0x4000, 0x10000
CLONE_SETTLS, CLONE_PARENT_SETTID = 0x80000, 0x100000
CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID = 0x200000, 0x1000000
WNOHANG, WSTOPPED, WEXITED, WCONTINUED, WNOWAIT = 1, 2, 4, 8, 0x1000000
ANY_KIND = 0xE0000000
"""__WNOTHREAD, __WALL, __WCLONE."""
P_ALL, P_PID, P_PGID = range(3)
RUSAGE_SIZE = 144
ARCH_SET_GS, ARCH_SET_FS, ARCH_GET_FS, ARCH_GET_GS = range(0x1001, 0x1005)
MOST_TASKS = 4096
DEEPEST_SCRIPT = 4


class ProcessCalls(PathCalls):
    """System calls about processes."""

    # -- birth ----------------------------------------------------------------------------------------------

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
        kernel.registers.copy_to(task, child)
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
        kernel.scheduler.runnable.append(child)
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

    # -- execve ---------------------------------------------------------------------------------------------

    def sys_execve(self, task: Task, path: int, arguments: int, environment: int) -> int:
        mm = task.process.mm
        name = os.fsdecode(mm.string(path))
        argv, envp = self._strings(mm, arguments), self._strings(mm, environment)
        return self._execute(task, name, argv, envp)

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
        executable = self._find_program(task, path, arguments)
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
        process.mm = old
        kernel.calls.leave_robust(task)
        process.mm = mm
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
        kernel.registers.forget(task)
        return 0

    def _find_program(self, task: Task, path: str, arguments: list[bytes]) -> Executable:
        """Return the program of a file or of its interpreter, whose arguments are put in
        front. Raises OSError.
        """
        for _ in range(DEEPEST_SCRIPT):
            try:
                found = read_executable(self._open_executable(task, path))
            except NotExecutable as error:
                raise OSError(errno.ENOEXEC, str(error)) from None
            if not isinstance(found, Script):
                return self._with_interpreter(task, found)
            front = [found.interpreter]
            if found.argument is not None:
                front.append(found.argument)
            arguments[:1] = [*front, os.fsencode(path)]
            path = os.fsdecode(found.interpreter)
        raise OSError(errno.ELOOP, "too many interpreters")

    def _open_executable(self, task: Task, path: str) -> int:
        fd = self._find(task, path).open(os.O_RDONLY | os.O_NONBLOCK)
        if os.access(host_name(fd), os.X_OK):
            return fd
        os.close(fd)
        raise OSError(errno.EACCES, "not executable")

    def _with_interpreter(self, task: Task, executable: Executable) -> Executable:
        """Return a program with its loader if it is dynamically linked. Raises OSError."""
        name = executable.program.interpreter
        if name is None:
            return executable
        try:
            loader = read_executable(self._open_executable(task, name), INTERPRETER_BASE)
            if not isinstance(loader, Executable) or loader.program.interpreter is not None:
                raise NotExecutable("its interpreter must be a program")
        except (OSError, NotExecutable) as error:
            executable.close()
            if isinstance(error, OSError):
                raise
            raise OSError(errno.ELIBBAD, str(error)) from None
        return replace(executable, interpreter=loader)

    # -- death ----------------------------------------------------------------------------------------------

    def sys_exit(self, task: Task, status: int) -> int:
        if len(task.process.threads) == 1:
            return self.sys_exit_group(task, status)
        self.kernel.end_task(task)
        return 0

    def sys_exit_group(self, task: Task, status: int) -> int:
        self.kernel.end_process(task.process, (status & 0xFF) << 8)
        return 0

    @staticmethod
    def _children(task: Task, wanted: int) -> list[Process]:
        """Return the children that are meant: any (-1), one, or a group (0, -group). Raises OSError."""
        process = task.process

        def matches(child: Process) -> bool:
            if wanted == -1:
                return True
            return child.pid == wanted if wanted > 0 else child.group == (-wanted or process.group)

        children = [child for child in process.children if matches(child)]
        if not children:
            raise OSError(errno.ECHILD, "no children")
        return children

    def _wait_for_child(self, task: Task, wanted: int, options: int) -> tuple[Process | None, int]:
        """Return a child with news, and what; None without, if WNOHANG. Raises OSError, Blocked."""
        children = self._children(task, wanted)
        for child in children:
            news = _news(child, options)
            if news is not None:
                if not options & WNOWAIT:
                    self._reported(child)
                return child, news
        if options & WNOHANG:
            return None, 0
        raise Blocked(test=lambda: any(_news(child, options) is not None for child in children))

    def _reported(self, child: Process) -> None:
        if child.status is not None:
            self.kernel.reap(child)
        child.change = None

    def sys_wait4(self, task: Task, pid: int, status: int, options: int, usage: int) -> int:
        if int32(options) & ~(WNOHANG | WSTOPPED | WCONTINUED | ANY_KIND):
            raise OSError(errno.EINVAL, "wait4")
        mm = task.process.mm
        child, news = self._wait_for_child(task, int32(pid), options | WEXITED)
        if child is None:
            return 0
        if status:
            mm.write(status, news.to_bytes(4, "little"))
        if usage:
            mm.write(usage, bytes(RUSAGE_SIZE))
        return child.pid

    def sys_waitid(self, task: Task, kind: int, pid: int, info: int, options: int, usage: int) -> int:
        if kind not in (P_ALL, P_PID, P_PGID) or not options & (WEXITED | WSTOPPED | WCONTINUED):
            raise OSError(errno.EINVAL, "waitid")
        mm = task.process.mm
        wanted = -1 if kind == P_ALL else int32(pid) if kind == P_PID else -int32(pid)
        child, news = self._wait_for_child(task, wanted, options)
        if info:
            data = bytes(SIGINFO_SIZE) if child is None else pack_info(SIGCHLD, about_child(child, news))
            mm.write(info, data)
        if usage:
            mm.write(usage, bytes(RUSAGE_SIZE))
        return 0

    # -- threads --------------------------------------------------------------------------------------------

    def sys_unshare(self, task: Task, flags: int) -> int:
        if flags:
            self.kernel.warn_once(f"{task.process.name}: unshare is not supported (EPERM)")
            raise OSError(errno.EPERM, "no namespaces")
        return 0

    def sys_set_tid_address(self, task: Task, address: int) -> int:
        task.clear_tid = address
        return task.tid

    def sys_arch_prctl(self, task: Task, code: int, address: int) -> int:
        kernel = self.kernel
        if code in (ARCH_SET_FS, ARCH_SET_GS):
            if address >= USER_END + PAGE:
                raise OSError(errno.EPERM, "not in user space")
            kernel.registers.set_base(task, "fs" if code == ARCH_SET_FS else "gs", address)
            return 0
        if code in (ARCH_GET_FS, ARCH_GET_GS):
            value = kernel.registers.get_base(task, "fs" if code == ARCH_GET_FS else "gs")
            task.process.mm.write(address, value.to_bytes(8, "little"))
            return 0
        raise OSError(errno.EINVAL, "arch_prctl")

    def sys_sched_yield(self, task: Task) -> int:
        self.kernel.reschedule = bool(self.kernel.scheduler.runnable)
        return 0


def _news(child: Process, options: int) -> int | None:
    """Return what wait() reports of a child, if that is asked for."""
    if child.status is not None:
        return child.status if options & WEXITED else None
    if child.change is None:
        return None
    return child.change if options & (WCONTINUED if child.change == CONTINUED else WSTOPPED) else None
