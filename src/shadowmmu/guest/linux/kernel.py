"""The kernel: programs are started, calls and exceptions are answered, tasks and processes end."""

from __future__ import annotations

import os
import termios
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...x86.bits import MASK64
from ..svm.registers import GDTR, Segment
from .computer import Computer
from .delivery import RESTART, SEGV_ACCERR, SEGV_MAPERR, SI_KERNEL, Delivery
from .directory import STEP, Directory
from .elf import NotExecutable
from .entry import ENTRY, Work, build_kernel_half
from .execute import Executable, load_program, read_executable
from .files import Descriptor, FileTable, inherited
from .frames import FilePages, Frames, OutOfMemory
from .layout import DIRECT_MAP, GDT, GDT_PAGE, KERNEL_PGD, LEAST_MEMORY, USER_END
from .locks import RecordLocks
from .memory import AddressSpace, BadAccess, BeyondFile
from .paths import Tree
from .registers import Registers
from .scheduler import NoProgress, Scheduler
from .shared_pages import SharedFile
from .signals import (
    about_child,
)
from .tasks import (
    DEFAULT_ACTION,
    RAX,
    RIP,
    RSP,
    SIG_IGN,
    SIGBUS,
    SIGCHLD,
    SIGFPE,
    SIGILL,
    SIGKILL,
    SIGSEGV,
    SIGTRAP,
    Blocked,
    Process,
    SignalInfo,
    Task,
)

if TYPE_CHECKING:
    from .syscalls import SystemCalls

FIRST_PID = 100
SLICES = 5
"""Turns of the idle callback (10 ms each) after which another task has its turn."""
SPURIOUS = 1000
"""Faults of one address without a reason, one after the other, after which something is wrong."""
CR4 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 20 | 1 << 21
"""PAE, PGE, OSFXSR, OSXMMEXCPT, SMEP, SMAP."""
VSYSCALLS = {0xFFFFFFFFFF600000: 96, 0xFFFFFFFFFF600400: 201, 0xFFFFFFFFFF600800: 309}
"""Where old programs call gettimeofday, time and getcpu."""
FETCH, PRESENT = 16, 1
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
BUS_ADRERR = 2
DEBUG, TRAP_FLAG, TRAP_BRKPT, TRAP_TRACE = 1, 0x100, 1, 2
INT_80 = 0x80 << 3 | 2
"""The error code of a #GP for entry 0x80 of the IDT."""
DEBUG, TRAP_FLAG, TRAP_BRKPT, TRAP_TRACE = 1, 0x100, 1, 2
INT_80 = 0x80 << 3 | 2
"""The error code of a #GP for entry 0x80 of the IDT."""
FPE_INTDIV, FPE_FLTINV, ILL_ILLOPN = 1, 7, 2
SIGNAL_REASONS = {0: FPE_INTDIV, 6: ILL_ILLOPN, 16: FPE_FLTINV, 19: FPE_FLTINV}


class Kernel:
    """A kernel on a machine; start() a program and let the machine run.

    `calls` makes the table of system calls; `root` is the directory beneath which the guest may write;
    `warn` gets what is missing here and how the first process died. The machine stops with the reason
    "exit" when all processes have ended; `status` is then the first one's: what it gave to exit(), or 128
    and the signal that killed it.
    """

    def __init__(
        self,
        machine: Computer,
        calls: Callable[[Kernel], SystemCalls],
        *,
        root: Path | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        if machine.size < LEAST_MEMORY:
            raise ValueError(f"a Linux program needs {LEAST_MEMORY >> 20} MiB of memory")
        self.machine = machine
        self.processor = machine.processor
        self.clock = machine.clock
        self.warn = warn
        self.work = Work(machine)
        self.frames = Frames(machine, self.work, build_kernel_half(machine))
        self.registers = Registers(machine, self.frames)
        self.tree = Tree(Path(".") if root is None else root)
        self.locks = RecordLocks()
        self.processes: dict[int, Process] = {}
        self.tasks: dict[int, Task] = {}
        self.current: Task
        self.reschedule = False
        self.first: Process
        self.status: int | None = None
        self.system_calls: Counter[str] = Counter()
        self.faults = 0
        self.switches = 0
        self._next_pid = FIRST_PID
        self._terminals: dict[int, list[Any]] = {}
        self._slices = 0
        self._spurious = (0, 0)
        self._repeats = 0
        self._warned: set[str] = set()
        self.give_up: Callable[[], bool] = lambda: False
        """Asked while all processes wait: whether the machine is to stop."""
        self.signals = Delivery(self)
        self.scheduler = Scheduler(self)
        self.calls = calls(self)
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
        self.registers.switch_to(task)

    def new_pid(self) -> int:
        pid = self._next_pid
        self._next_pid += 1
        return pid

    def new_task(self, process: Process, tid: int) -> Task:
        """Make a thread of a process, with a clean FPU; it does not run yet. Raises OutOfMemory."""
        task = Task(tid, process, self.registers.new_fpu())
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
        self.call(task)
        if (
            self.registers.loaded is task
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
            # INT3: there is no IDT that could deliver it
            vector, code = 3, 0
            processor.rip += 1 if self._is_int3(task) else 2
        task.fault_vector, task.fault_code = vector, code
        if vector == 14:
            self.faults += 1
            if self._is_vsyscall(task, code, address):
                self._leave()
                return True
            task.fault_address = address
            if address > USER_END:
                task.fault_code |= PRESENT  # whether something is there is a secret
            self._check_progress(address)
            try:
                task.process.mm.fault(address, write=bool(code & 2), fetch=bool(code & 16))
            except BadAccess as error:
                reason = SEGV_ACCERR if error.mapped else SEGV_MAPERR
                self.signals.force(task, SIGSEGV, SignalInfo(reason, address))
            except BeyondFile:
                self.signals.force(task, SIGBUS, SignalInfo(BUS_ADRERR, address))
            except OutOfMemory:
                self.out_of_memory(task)
        else:
            signal = EXCEPTION_SIGNALS.get(vector, SIGSEGV)
            reason = SIGNAL_REASONS.get(vector, SI_KERNEL)
            if vector == DEBUG:
                reason = TRAP_TRACE if processor.rflags & TRAP_FLAG else TRAP_BRKPT
            if code == INT_80:
                self.warn_once(f"{task.process.name}: 32-bit system calls (int 0x80) are not supported")
            self.signals.force(task, signal, SignalInfo(reason, 0 if reason == SI_KERNEL else processor.rip))
        self._leave()
        return True

    def _is_vsyscall(self, task: Task, code: int, address: int) -> bool:
        """Make the call whose place in the vsyscall page was called, and return from there."""
        number, processor = VSYSCALLS.get(address), self.processor
        if number is None or not code & FETCH or processor.rip != address:
            return False
        q = processor.q
        try:
            processor.rip = task.process.mm.read_word(q[RSP])
        except OSError:
            return False
        q[RSP] = q[RSP] + 8 & MASK64
        task.call = number, (q[7], q[6], q[2], 0, 0, 0)
        self.call(task)
        task.call = None
        return True

    def _is_int3(self, task: Task) -> bool:
        """Return whether it is INT3, of one byte, not INT 3."""
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
        """Handle alarms and another task's turn, after 10 ms or more."""
        if self.processor.cpl == 0 or self.status is not None and not self.tasks:
            return
        self._slices += 1
        if self._slices >= SLICES or any(process.alarm for process in self.processes.values()):
            self._slices = 0
            self.current.call = None
            self.signals.check_alarms()
            self.scheduler.wake()
            if self.scheduler.runnable or self.current.pending or self.current.process.pending:
                self.reschedule = bool(self.scheduler.runnable)
                self._leave()

    def cut_mappings(self) -> None:
        """Unmap what is beyond the end of files that have become shorter."""
        frames = self.frames
        files: list[FilePages | SharedFile] = [*frames.files.values(), *frames.shared_files.values()]
        for backing in files:
            first = backing.cut()
            if first is not None:
                for mm in {process.mm for process in self.processes.values()}:
                    mm.cut(backing, first)

    def warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self.warn(text)

    def out_of_memory(self, task: Task) -> None:
        """Kill the process of a task for which there is no memory."""
        self.warn(f"{task.process.name}: the guest is out of memory ({self.machine.size >> 20} MiB); killed")
        self.signals.send(task.process, SIGKILL, SignalInfo())

    # -- system calls ------------------------------------------------------------------------------------

    def call(self, task: Task) -> None:
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
        if self.registers.loaded is task:
            self.processor.q[RAX] = result & MASK64
        elif result is not None:
            task.registers[RAX] = result & MASK64

    # -- signals -----------------------------------------------------------------------------------------

    # -- ends --------------------------------------------------------------------------------------------

    def end_task(self, task: Task) -> None:
        """End a thread. If it is the last one its process remains: end_process() ends that."""
        if not task.alive:
            return
        task.alive = False
        self.calls.leave_robust(task)
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
        self.registers.drop(task)
        self.scheduler.remove(task)

    def end_process(self, process: Process, status: int) -> None:
        """End all threads of a process; its parent may wait() for the status."""
        if process.status is not None:
            return
        for task in list(process.threads):
            self.end_task(task)
        process.status, process.stopped = status, 0
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
        self.signals.send(parent, SIGCHLD, about_child(process, status))
        if action.handler == SIG_IGN or action.flags & 2:
            self.reap(process)

    def reap(self, process: Process) -> None:
        """Forget a process whose status its parent has got."""
        if process.parent is not None:
            process.parent.children.remove(process)
        self.processes.pop(process.pid, None)

    # -- what runs next ----------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Go on with a task in user mode, by the entry code where need be."""
        task = self.current
        while True:
            if not task.alive or task.wait is not None or self.reschedule or task.process.stopped:
                following = self._switch_from(task)
                if following is None:
                    return
                task = following
            if (task.pending or task.process.pending) and not self.work.copy_fpu:
                self.signals.deliver(task)
            elif task.call is not None:
                self.signals.restart(task)
            if task.alive and task.wait is None and not task.process.stopped:
                rip = task.registers[RIP] if self.registers.loaded is not task else 0
                if (rip >> 47) + 1 & 0x1FFFE == 0:
                    break
                self.signals.force(task, SIGSEGV, SignalInfo(SI_KERNEL, 0))
        self.current = task
        if self.registers.loaded is task and not self.work:
            return
        self.registers.switch_to(task)

    def _switch_from(self, task: Task) -> Task | None:
        """Return another task, or the same, if there is no other; None if the machine stops."""
        self.reschedule = False
        if task.alive:
            self.registers.save(task)
            if task.wait is not None:
                self.scheduler.blocked.append(task)
            else:
                self.scheduler.runnable.append(task)
        try:
            following = self.scheduler.next()
        except NoProgress as error:
            self.machine.stop("no progress", str(error))
            return None
        if following is None:
            self.machine.stop("seconds" if self.tasks else "exit")
            return None
        if following is not task:
            self.switches += 1
            self._slices = 0
        return following

    def _give_work(self) -> None:
        """Give the entry code, which asks for more, its work."""
        if self.processor.cpl == 0:
            self.work.give(self.processor.q, self.current.process.mm.pgd)
        else:
            self.processor.q[RAX] = -1000 & MASK64
