"""The kernel: tasks on the vCPU, exceptions, signals, and what runs next."""

import os
import select
import termios
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..svm.processor import CS, DS, ES, FS, GDTR, GS, SS, Segment
from .directory import STEP, Directory
from .elf import NotExecutable
from .entry import ENTRY, FRAME_GPA, Memory, Work, build_kernel_half
from .execute import Executable, load_program, read_executable
from .files import Descriptor, FileTable, inherited
from .frames import FilePages, Frames, OutOfMemory
from .layout import DIRECT_MAP, GDT, GDT_PAGE, KERNEL_CS, KERNEL_DS, KERNEL_PGD, LEAST_MEMORY, PAGE
from .locks import RecordLocks
from .memory import AddressSpace, BadAccess, BeyondFile
from .paths import Tree
from .shared_pages import SharedFile
from .signals import (
    FPU_SIZE,
    SA_NODEFER,
    SA_RESETHAND,
    SA_RESTART,
    clean_fpu,
    end_of_child,
    push_frame,
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
    SIGBUS,
    SIGCHLD,
    SIGFPE,
    SIGILL,
    SIGKILL,
    SIGNAL_NAMES,
    SIGSEGV,
    SIGTRAP,
    Blocked,
    Process,
    SignalInfo,
    Task,
    bit,
)

FIRST_PID = 100
SLICES = 5
"""Turns of the idle callback (10 ms each) after which another task has its turn."""
SPURIOUS = 1000
"""Faults of one address without a reason, one after the other, after which something is wrong."""
MASK64 = (1 << 64) - 1
EFAULT, EINTR = 14, 4
RESTART = 512
"""ERESTARTSYS: the call is to be made again, unless a handler without SA_RESTART runs."""
KERNEL_CODE = Segment(KERNEL_CS, 0, 0xFFFFFFFF, 0xA09B00)
KERNEL_DATA = Segment(KERNEL_DS, 0, 0xFFFFFFFF, 0xC09300)
NO_DATA = Segment(0, 0, 0, 0)
CR4 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 20 | 1 << 21
"""PAE, PGE, OSFXSR, OSXMMEXCPT, SMEP, SMAP."""
CLEAN_FPU = b"\x7f\x03" + bytes(22) + b"\x80\x1f\0\0" + b"\xff\xff\0\0" + bytes(FPU_SIZE - 32)
BREAKPOINT = 3 << 3 | 2
"""The error code of a #GP for entry 3 of the IDT."""
EXCEPTION_SIGNALS = {
    0: SIGFPE,
    1: SIGTRAP,
    3: SIGTRAP,
    4: SIGSEGV,
    5: SIGSEGV,
    6: SIGILL,
    7: SIGSEGV,
    11: SIGBUS,
    12: SIGBUS,
    13: SIGSEGV,
    16: SIGFPE,
    17: SIGBUS,
    19: SIGFPE,
}
SEGV_MAPERR, SEGV_ACCERR, SI_KERNEL, BUS_ADRERR = 1, 2, 0x80, 2
FPE_INTDIV, FPE_FLTINV, ILL_ILLOPN = 1, 7, 2
SIGNAL_REASONS = {0: FPE_INTDIV, 6: ILL_ILLOPN, 16: FPE_FLTINV, 19: FPE_FLTINV}


class ProcessorState(Protocol):
    """What the kernel needs of the processor's registers (guest/svm/processor.py)."""

    q: memoryview
    rip: int
    rflags: int

    @property
    def cpl(self) -> int: ...
    def segment_base(self, number: int) -> int: ...
    def set_segment(self, number: int, segment: Segment) -> None: ...
    def update_modes(self, cpl: int | None = None) -> None: ...


class Computer(Memory, Protocol):
    """What the kernel runs on (guest/svm/machine.py)."""

    @property
    def processor(self) -> ProcessorState: ...
    def start_long(self, rip: int, cr3: int, *, rsp: int = 0, user: bool = False, cr4: int = 0) -> None: ...
    def on_syscall(self, callback: Callable[[], None]) -> None: ...
    def on_vmmcall(self, callback: Callable[[], None]) -> None: ...
    def on_exception(self, callback: Callable[[int, int | None, int], bool]) -> object: ...
    def on_idle(self, callback: Callable[[], None]) -> None: ...
    def stop(self, reason: str = "stopped", detail: object = None) -> None: ...


class NoProgress(Exception):
    """All processes wait for something that cannot happen."""


class Kernel:
    """A kernel on a machine; start() a program and let the machine run.

    `root` is the directory beneath which the guest may write; `warn` gets what is missing here and how the
    first process died. The machine stops with the reason "exit" when all processes have ended; `status` is
    then the first one's: what it gave to exit(), or 128 and the signal that killed it.
    """

    def __init__(
        self,
        machine: Computer,
        *,
        root: Path | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        from .syscalls import SystemCalls

        if machine.size < LEAST_MEMORY:
            raise ValueError(f"a Linux program needs {LEAST_MEMORY >> 20} MiB of memory")
        self.machine = machine
        self.processor = machine.processor
        self.warn = warn
        self.work = Work(machine)
        self.frames = Frames(machine, self.work, build_kernel_half(machine))
        self.tree = Tree(Path(".") if root is None else root)
        self.locks = RecordLocks()
        self.processes: dict[int, Process] = {}
        self.tasks: dict[int, Task] = {}
        self.runnable: deque[Task] = deque()
        self.blocked: list[Task] = []
        self.current: Task
        self.loaded: Task | None = None
        """Whose registers are in the processor."""
        self.fpu_owner: Task | None = None
        self.active_mm: AddressSpace | None = None
        self.reschedule = False
        self.first: Process
        self.status: int | None = None
        self.system_calls: Counter[str] = Counter()
        self.faults = 0
        self.switches = 0
        self._next_pid = FIRST_PID
        self._terminals: dict[int, list[Any]] = {}
        self._fpu_areas: list[int] = []
        self._slices = 0
        self._spurious = (0, 0)
        self._repeats = 0
        self._started = time.monotonic()
        self.give_up: Callable[[], bool] = lambda: False
        """Asked while all processes wait: whether the machine is to stop."""
        self.calls = SystemCalls(self)
        machine.on_syscall(self._on_syscall)
        machine.on_exception(self._on_exception)
        machine.on_vmmcall(self._give_work)
        machine.on_idle(self.tick)

    # -- starting ----------------------------------------------------------------------------------------

    def start(self, path: Path, arguments: Sequence[str], environment: dict[str, str] | None = None) -> None:
        """Prepare to run a program with these arguments, the first being its name.

        Raises NotExecutable, OSError or OutOfMemory.
        """
        executable = read_executable(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        if not isinstance(executable, Executable):
            raise NotExecutable("a script, no program")
        if executable.program.interpreter is not None:
            executable.close()
            raise NotExecutable("a dynamically linked program; only static ones run here (gcc -static)")
        files = FileTable(closing=self.locks.drop)
        for fd in range(3):
            try:
                files.open[fd] = Descriptor(inherited(fd))
            except OSError:
                continue
        mm = AddressSpace(self.frames)
        process = Process(self.new_pid(), None, mm, files, Directory(os.open(".", STEP)))
        process.umask = os.umask(0)
        os.umask(process.umask)
        process.group = process.session = process.pid
        self.first = process
        self.processes[process.pid] = process
        task = self.new_task(process, process.pid)
        environ = dict(os.environ) if environment is None else environment
        self.machine.start_long(ENTRY, KERNEL_PGD, cr4=CR4)
        self.processor.set_segment(GDTR, Segment(0, DIRECT_MAP + GDT_PAGE, 8 * len(GDT) - 1, 0))
        load_program(
            task,
            mm,
            executable,
            [os.fsencode(argument) for argument in arguments],
            [os.fsencode(f"{name}={value}") for name, value in environ.items()],
        )
        self.current = task
        self._switch_to(task)

    def new_pid(self) -> int:
        pid = self._next_pid
        self._next_pid += 1
        return pid

    def new_task(self, process: Process, tid: int) -> Task:
        """A thread of a process, with a clean FPU; it does not run yet. Raises OutOfMemory."""
        if not self._fpu_areas:
            page = self.frames.page()
            self._fpu_areas = [page + offset for offset in range(0, PAGE, FPU_SIZE)]
        task = Task(tid, process, self._fpu_areas.pop())
        self.machine.write(task.fpu, CLEAN_FPU)
        process.threads.append(task)
        self.tasks[tid] = task
        return task

    def keep_terminal(self, fd: int) -> None:
        """Remember how a terminal is set, for close()."""
        if fd not in self._terminals:
            self._terminals[fd] = termios.tcgetattr(fd)

    def close(self) -> None:
        """Close all files of the guest; terminals are set as they were."""
        for fd, attributes in self._terminals.items():
            termios.tcsetattr(fd, termios.TCSADRAIN, attributes)
        for process in self.processes.values():
            if process.status is None:
                process.files.drop()
        self.frames.close()

    # -- ways in -----------------------------------------------------------------------------------------

    def _on_syscall(self) -> None:
        q = self.processor.q
        task = self.current
        number = q[RAX] & 0xFFFFFFFF
        task.call = number, (q[7], q[6], q[2], q[10], q[8], q[9])
        self._call(task)
        if (
            self.loaded is task
            and not self.work
            and not self.reschedule
            and task.wait is None
            and not (task.pending or task.process.pending)
        ):
            return
        self._leave()

    def _on_exception(self, vector: int, error_code: int | None, address: int) -> bool:
        processor = self.processor
        task = self.current
        task.call = None
        if processor.cpl == 0:
            self.machine.stop("kernel", f"exception {vector} in the guest kernel at {processor.rip:#x}")
            return True
        code = error_code or 0
        if vector == 13 and code == BREAKPOINT:
            # INT3: there is no IDT that it could go through
            vector, code = 3, 0
            processor.rip += 1 if self._is_int3(task) else 2
        task.fault_vector, task.fault_code = vector, code
        if vector == 14:
            self.faults += 1
            task.fault_address = address
            self._check_progress(address)
            try:
                task.process.mm.fault(address, write=bool(code & 2), fetch=bool(code & 16))
            except BadAccess as error:
                reason = SEGV_ACCERR if error.mapped else SEGV_MAPERR
                self.force_signal(task, SIGSEGV, SignalInfo(reason, address))
            except BeyondFile:
                self.force_signal(task, SIGBUS, SignalInfo(BUS_ADRERR, address))
            except OutOfMemory:
                self.out_of_memory(task)
        else:
            signal = EXCEPTION_SIGNALS.get(vector, SIGSEGV)
            reason = SIGNAL_REASONS.get(vector, SI_KERNEL)
            self.force_signal(task, signal, SignalInfo(reason, 0 if reason == SI_KERNEL else processor.rip))
        self._leave()
        return True

    def _is_int3(self, task: Task) -> bool:
        """The one of one byte, not INT 3."""
        try:
            return task.process.mm.read(self.processor.rip, 1) == b"\xcc"
        except OSError:
            return False

    def _check_progress(self, address: int) -> None:
        fault = (self.processor.rip, address)
        if fault != self._spurious:
            self._spurious = fault
            self._repeats = 0
        self._repeats += 1
        if self._repeats > SPURIOUS:
            self.machine.stop("endless faults", f"{fault[0]:#x} faults for ever at {address:#x}")

    def tick(self) -> None:
        """10 ms have gone by, or more: alarms, and another task's turn."""
        if self.processor.cpl == 0 or self.status is not None and not self.tasks:
            return
        self._slices += 1
        if self._slices >= SLICES or any(process.alarm for process in self.processes.values()):
            self._slices = 0
            self.current.call = None
            self._check_alarms()
            self._wake()
            if self.runnable or self.current.pending or self.current.process.pending:
                self.reschedule = bool(self.runnable)
                self._leave()

    def cut_mappings(self) -> None:
        """A file may have become shorter: what is mapped beyond its end is there no more."""
        frames = self.frames
        files: list[FilePages | SharedFile] = [*frames.files.values(), *frames.shared_files.values()]
        for backing in files:
            first = backing.cut()
            if first is not None:
                for mm in {process.mm for process in self.processes.values()}:
                    mm.cut(backing, first)

    def out_of_memory(self, task: Task) -> None:
        """Kill the process of a task for which there is no memory."""
        self.warn(f"{task.process.name}: the guest is out of memory ({self.machine.size >> 20} MiB); killed")
        self.send(task.process, SIGKILL, SignalInfo())

    # -- system calls ------------------------------------------------------------------------------------

    def _call(self, task: Task) -> None:
        """Make the task's call; its result is in RAX then, or the task waits."""
        assert task.call is not None
        number, arguments = task.call
        try:
            result = self.calls.make(task, number, arguments)
        except Blocked as wait:
            if task.deliverable() is not None:
                result = -RESTART
            else:
                task.wait = wait
                return
        except OutOfMemory:
            self.out_of_memory(task)
            result = -12
        task.started, task.progress = None, 0
        task.wait = None
        if task.opening is not None and result != -RESTART:
            task.opening.drop()
            task.opening = None
        if self.loaded is task:
            self.processor.q[RAX] = result & MASK64
        elif result is not None:
            task.registers[RAX] = result & MASK64

    # -- signals -----------------------------------------------------------------------------------------

    def send(self, target: Process | Task, signal: int, info: SignalInfo) -> None:
        """Make a signal pending for a process or a thread, unless it ignores it."""
        process = target.process if isinstance(target, Task) else target
        if process.status is not None:
            return
        action = process.actions.get(signal, DEFAULT_ACTION)
        if signal != SIGKILL and (
            action.handler == SIG_IGN or action.handler == SIG_DFL and signal in IGNORED_BY_DEFAULT
        ):
            blocked = all(thread.mask & bit(signal) for thread in process.threads)
            if not blocked or action.handler == SIG_IGN:
                return
        target.pending.setdefault(signal, info)

    def force_signal(self, task: Task, signal: int, info: SignalInfo) -> None:
        """A signal that cannot be blocked or ignored: for a fault."""
        action = task.process.actions.get(signal, DEFAULT_ACTION)
        if task.mask & bit(signal) or action.handler == SIG_IGN:
            task.process.actions[signal] = DEFAULT_ACTION
            task.mask &= ~bit(signal)
        task.pending[signal] = info

    def _deliver(self, task: Task) -> None:
        """Act on the pending signals of a task that is about to run."""
        while task.alive:
            signal = task.deliverable()
            if signal is None:
                break
            pending = task.pending if signal in task.pending else task.process.pending
            info = pending.pop(signal)
            action = task.process.actions.get(signal, DEFAULT_ACTION)
            if signal == SIGKILL or action.handler == SIG_DFL:
                if signal in IGNORED_BY_DEFAULT:
                    continue
                self._killed(task, signal, info)
            elif action.handler != SIG_IGN:
                self._save(task)
                self._call_handler(task, signal, info)
        if task.alive and task.saved_mask is not None and task.wait is None:
            task.mask, task.saved_mask = task.saved_mask, None
        self._restart(task)

    def _restart(self, task: Task, *, interrupted: bool = False) -> None:
        """A call that was interrupted by a signal is made again, or fails with EINTR."""
        if task.call is None or not task.alive:
            return
        if self.loaded is task:
            if self.processor.q[RAX] != -RESTART & MASK64:
                return
            self._save(task)
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
        self._restart(task, interrupted=not action.flags & SA_RESTART)
        task.call = None
        mask = task.mask if task.saved_mask is None else task.saved_mask
        task.saved_mask = None
        try:
            frame = push_frame(task, signal, info, action, mask)
            fpu = process.mm.pages[frame.fpu // PAGE] & 0xFFFFFFFFFF000 | frame.fpu % PAGE
        except OSError:
            self._killed(task, SIGSEGV, SignalInfo())
            return
        if self.fpu_owner is task:
            self.work.copy_fpu = fpu
        else:
            self.machine.write(fpu, self.machine.read(task.fpu, FPU_SIZE))
        task.mask |= action.mask
        if not action.flags & SA_NODEFER:
            task.mask |= bit(signal)
        if action.flags & SA_RESETHAND:
            process.actions[signal] = DEFAULT_ACTION
        registers = task.registers
        registers[7], registers[6], registers[2], registers[RAX] = signal, frame.info, frame.context, 0
        registers[RSP], registers[RIP] = frame.stack, action.handler
        registers[RFLAGS] &= ~0x500

    def load_fpu(self, task: Task, data: bytes) -> None:
        """Give the task another state of its FPU."""
        self.machine.write(task.fpu, clean_fpu(data))
        if self.fpu_owner is task:
            self.fpu_owner = None

    def _killed(self, task: Task, signal: int, info: SignalInfo) -> None:
        process = task.process
        if process is self.first:
            self._save(task)
            place = f" at address {info.address:#x}" if info.code in (SEGV_MAPERR, SEGV_ACCERR) else ""
            registers = task.registers
            self.warn(
                f"{process.name}: killed by SIG{SIGNAL_NAMES.get(signal, signal)}{place}; "
                f"rip {registers[RIP]:#x} rsp {registers[RSP]:#x} rax {registers[RAX]:#x}"
            )
        self.end_process(process, signal)

    def _check_alarms(self) -> None:
        now = time.monotonic()
        for process in self.processes.values():
            if process.alarm is not None and now >= process.alarm:
                process.alarm = now + process.interval if process.interval else None
                self.send(process, SIGALRM, SignalInfo())

    # -- ends --------------------------------------------------------------------------------------------

    def end_task(self, task: Task) -> None:
        """A thread ends; with the last one its process does not: end_process() does that."""
        if not task.alive:
            return
        task.alive = False
        if task.clear_tid and len(task.process.threads) > 1:
            try:
                task.process.mm.write(task.clear_tid, bytes(4))
                self.calls.wake_futex(task, task.clear_tid, 1)
            except OSError:
                pass
        task.process.threads.remove(task)
        if task.opening is not None:
            task.opening.drop()
        del self.tasks[task.tid]
        self._fpu_areas.append(task.fpu)
        if self.fpu_owner is task:
            self.fpu_owner = None
        if self.loaded is task:
            self.loaded = None
        if task in self.blocked:
            self.blocked.remove(task)
        if task in self.runnable:
            self.runnable.remove(task)

    def end_process(self, process: Process, status: int) -> None:
        """All threads end; the parent may wait() for the status."""
        if process.status is not None:
            return
        for task in list(process.threads):
            self.end_task(task)
        process.status = status
        process.mm.drop()
        process.files.drop()
        process.vfork = False
        for child in process.children:
            child.parent = None
            if child.status is not None:
                self.processes.pop(child.pid, None)
        process.children.clear()
        parent = process.parent
        if process is self.first:
            self.status = status >> 8 & 0xFF if not status & 0x7F else 128 + (status & 0x7F)
        if parent is None:
            self.processes.pop(process.pid, None)
            return
        action = parent.actions.get(SIGCHLD, DEFAULT_ACTION)
        self.send(parent, SIGCHLD, end_of_child(process))
        if action.handler == SIG_IGN or action.flags & 2:
            self.reap(process)

    def reap(self, process: Process) -> None:
        """Forget a process whose status its parent has got."""
        if process.parent is not None:
            process.parent.children.remove(process)
        self.processes.pop(process.pid, None)

    # -- what runs next ----------------------------------------------------------------------------------

    def make_runnable(self, task: Task) -> None:
        self.runnable.append(task)

    def _wake(self) -> None:
        """Make the waiting calls again whose time has come."""
        if not self.blocked:
            return
        now = time.monotonic()
        ready = self._ready_files([task for task in self.blocked if task.wait and task.wait.files], 0)
        for task in list(self.blocked):
            wait = task.wait
            if not task.alive or wait is None:
                continue
            if (
                task in ready
                or wait.deadline is not None
                and now >= wait.deadline
                or wait.test is not None
                and wait.test()
                or task.deliverable() is not None
            ):
                self._call(task)
                if task.wait is None and task.alive:
                    self.blocked.remove(task)
                    self.runnable.append(task)

    @staticmethod
    def _ready_files(tasks: list[Task], milliseconds: int) -> set[Task]:
        """The tasks of whose files one is ready."""
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

    def _next(self) -> Task | None:
        """The task that runs next; None if all have ended, or have to. Raises NoProgress."""
        while True:
            self._check_alarms()
            self._wake()
            if self.runnable:
                return self.runnable.popleft()
            if not self.blocked or self.give_up():
                return None
            self._sleep()

    def _sleep(self) -> None:
        """All tasks wait: until one need not. Raises NoProgress.

        What a call has done before it had to wait again may be what another one waits for.
        """
        asked = [task.wait for task in self.blocked if task.wait is not None]
        deadlines = [wait.deadline for wait in asked if wait.deadline is not None]
        deadlines += [process.alarm for process in self.processes.values() if process.alarm is not None]
        waiting = [task for task in self.blocked if task.wait and task.wait.files]
        if self._ready_files(waiting, 0) or any(wait.test is not None and wait.test() for wait in asked):
            return
        if not deadlines and not any(wait.outside for wait in asked):
            names = ", ".join(sorted({task.process.name for task in self.blocked}))
            raise NoProgress(f"all processes wait for each other ({names})")
        pause = 0.25
        if deadlines:
            pause = min(pause, max(min(deadlines) - time.monotonic(), 0))
        if waiting:
            self._ready_files(waiting, int(pause * 1000 + 0.999))
        else:
            time.sleep(pause)

    def _save(self, task: Task) -> None:
        """Take the task's registers out of the processor."""
        if self.loaded is not task:
            return
        processor = self.processor
        registers = task.registers
        registers[:16] = processor.q[:16].tolist()
        registers[RIP] = processor.rip
        registers[RFLAGS] = processor.rflags
        task.fs, task.gs = processor.segment_base(FS), processor.segment_base(GS)
        self.loaded = None

    def save_registers(self, task: Task, child: Task | None) -> None:
        """Take the running task's registers out of the processor; a child begins with these and its FPU."""
        self._save(task)
        if child is not None:
            child.registers = list(task.registers)
            child.fs, child.gs = task.fs, task.gs
            self.work.copy_fpu = child.fpu

    def forget_registers(self, task: Task) -> None:
        """After execve: what is in the processor is not the task's any more."""
        if self.loaded is task:
            self.loaded = None
        if self.fpu_owner is task:
            self.fpu_owner = None
        self.machine.write(task.fpu, CLEAN_FPU)

    def set_base(self, task: Task, name: str, address: int) -> None:
        """FS or GS base of the running task."""
        number = FS if name == "fs" else GS
        if self.loaded is task:
            self.processor.set_segment(number, Segment(0, address, 0, 0))
        elif name == "fs":
            task.fs = address
        else:
            task.gs = address

    def get_base(self, task: Task, name: str) -> int:
        if self.loaded is task:
            return self.processor.segment_base(FS if name == "fs" else GS)
        return task.fs if name == "fs" else task.gs

    def _leave(self) -> None:
        """Go on with a task in user mode, by the entry code where need be."""
        task = self.current
        while True:
            if not task.alive or task.wait is not None or self.reschedule:
                following = self._switch_from(task)
                if following is None:
                    return
                task = following
            if (task.pending or task.process.pending) and not self.work.copy_fpu:
                self._deliver(task)
            elif task.call is not None:
                self._restart(task)
            if task.alive and task.wait is None:
                rip = task.registers[RIP] if self.loaded is not task else 0
                if (rip >> 47) + 1 & 0x1FFFE == 0:
                    break
                self.force_signal(task, SIGSEGV, SignalInfo(SI_KERNEL, 0))
        self.current = task
        if self.loaded is task and not self.work:
            return
        self._switch_to(task)

    def _switch_from(self, task: Task) -> Task | None:
        """Another task, or the same, if there is no other; None if the machine stops."""
        self.reschedule = False
        if task.alive:
            self._save(task)
            if task.wait is not None:
                self.blocked.append(task)
            else:
                self.runnable.append(task)
        try:
            following = self._next()
        except NoProgress as error:
            self.machine.stop("no progress", str(error))
            return None
        if following is None:
            self.machine.stop("seconds" if self.blocked else "exit")
            return None
        if following is not task:
            self.switches += 1
            self._slices = 0
        return following

    def _switch_to(self, task: Task) -> None:
        """Enter the entry code, which ends in the task."""
        processor, work = self.processor, self.work
        mm = task.process.mm
        loaded = self.loaded
        self._save(task)
        if loaded is not task:
            for number, base in ((FS, task.fs), (GS, task.gs)):
                processor.set_segment(number, Segment(0, base, 0, 0))
        if not mm.active:
            if self.active_mm is not None:
                self.active_mm.active = False
            self.active_mm = mm
            mm.active = True
            work.cr3 = mm.pgd
            work.addresses.clear()
            work.flush_all = False
        if self.fpu_owner is not task:
            if self.fpu_owner is not None:
                work.save_fpu = self.fpu_owner.fpu
            work.load_fpu = task.fpu
            self.fpu_owner = task
        registers = task.registers
        work.give_frame(tuple(registers[:16]), registers[RIP], registers[RFLAGS])
        processor.set_segment(CS, KERNEL_CODE)
        processor.set_segment(SS, KERNEL_DATA)
        for number in (DS, ES):
            processor.set_segment(number, NO_DATA)
        processor.rflags = 2
        processor.update_modes(0)
        processor.q[4] = FRAME_GPA + DIRECT_MAP
        processor.rip = ENTRY
        work.give(processor.q, mm.pgd)
        self.loaded = task

    def _give_work(self) -> None:
        """The entry code asks for more."""
        if self.processor.cpl == 0:
            self.work.give(self.processor.q, self.current.process.mm.pgd)
        else:
            self.processor.q[RAX] = -1000 & MASK64
