"""Processes and their threads."""

from collections.abc import Callable
from dataclasses import dataclass, field

from .directory import Directory
from .files import FileTable, OpenFile
from .memory import AddressSpace

SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL = range(1, 10)
SIGUSR1, SIGSEGV, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT, SIGCHLD, SIGCONT, SIGSTOP = range(10, 20)
SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGWINCH = range(20, 29)
SIGNALS = 64
SIG_DFL, SIG_IGN = 0, 1
IGNORED_BY_DEFAULT = frozenset((SIGCHLD, SIGCONT, SIGURG, SIGWINCH))
STOPS = frozenset((SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU))
"""Signals that stop a process, unless it handles them: SIGSTOP does always."""
FIRST_REALTIME, MOST_QUEUED = 32, 1024
"""From here on each signal that is sent arrives; so many of a kind may wait."""
SIGNAL_NAMES = dict(
    enumerate(
        [
            "HUP",
            "INT",
            "QUIT",
            "ILL",
            "TRAP",
            "ABRT",
            "BUS",
            "FPE",
            "KILL",
            "USR1",
            "SEGV",
            "USR2",
            "PIPE",
            "ALRM",
            "TERM",
            "STKFLT",
            "CHLD",
            "CONT",
            "STOP",
            "TSTP",
            "TTIN",
            "TTOU",
            "URG",
            "XCPU",
            "XFSZ",
            "VTALRM",
            "PROF",
            "WINCH",
            "IO",
            "PWR",
            "SYS",
        ],
        1,
    )
)
RAX, RSP, RIP, RFLAGS = 0, 4, 16, 17


def bit(signal: int) -> int:
    """Return the bit of a signal in a mask."""
    return 1 << signal - 1


@dataclass(frozen=True, slots=True)
class Action:
    """What a signal does: handler (SIG_DFL, SIG_IGN or an address), SA_ flags, restorer, mask."""

    handler: int = SIG_DFL
    flags: int = 0
    restorer: int = 0
    mask: int = 0


DEFAULT_ACTION = Action()


@dataclass(frozen=True, slots=True)
class SignalInfo:
    """siginfo: si_code, and address or sender."""

    code: int = 0
    address: int = 0
    pid: int = 0
    uid: int = 0
    status: int = 0


class Pending(dict[int, list[SignalInfo]]):
    """Signals that wait, by number: one of a kind, of realtime signals each that was sent."""

    def add(self, signal: int, info: SignalInfo) -> bool:
        """Return whether there was room for it."""
        waiting = self.setdefault(signal, [])
        if len(waiting) >= (1 if signal < FIRST_REALTIME else MOST_QUEUED):
            return signal < FIRST_REALTIME
        waiting.append(info)
        return True

    def take(self, signal: int) -> SignalInfo:
        """Return the first one of a kind, which does not wait any more."""
        waiting = self[signal]
        info = waiting.pop(0)
        if not waiting:
            del self[signal]
        return info


class Blocked(Exception):
    """A system call has to wait: for one of the files, a time (of the clock), or until test() is true.

    It is called again then, with the same arguments. `outside`: what it waits for may come from the host.
    """

    def __init__(
        self,
        files: list[tuple[int, int]] | None = None,
        deadline: float | None = None,
        test: Callable[[], bool] | None = None,
        *,
        outside: bool = False,
    ) -> None:
        super().__init__()
        self.files = files or []
        self.deadline = deadline
        self.test = test
        self.outside = outside


@dataclass(eq=False)
class Process:
    """What the threads of a process share."""

    pid: int
    parent: "Process | None"
    mm: AddressSpace
    files: FileTable
    directory: Directory
    umask: int = 0o022
    name: str = ""
    program: str = ""
    arguments: tuple[bytes, ...] = ()
    group: int = 0
    session: int = 0
    children: "list[Process]" = field(default_factory=list)
    threads: "list[Task]" = field(default_factory=list)
    actions: dict[int, Action] = field(default_factory=dict)
    pending: Pending = field(default_factory=Pending)
    status: int | None = None
    """How it ended, as wait() reports it; None while it runs."""
    stopped: int = 0
    """The signal that stopped it; 0 while it runs."""
    change: int | None = None
    """That it was stopped or continued, as wait() reports it; None if it was reported."""
    vfork: bool = False
    """Its parent waits until it has ended or called execve."""
    alarm: float | None = None
    interval: float = 0.0


@dataclass(eq=False)
class Task:
    """A thread."""

    tid: int
    process: Process
    fpu: int
    registers: list[int] = field(default_factory=lambda: [0] * 18)
    """RAX to R15, RIP, RFLAGS, while they are not in the processor."""
    fs: int = 0
    gs: int = 0
    call: tuple[int, tuple[int, ...]] | None = None
    """The system call that waits: number, arguments."""
    wait: Blocked | None = None
    started: float | None = None
    """What a waiting system call keeps: its deadline."""
    progress: int = 0
    """What it keeps: bytes it has written already."""
    opening: OpenFile | None = None
    """What it keeps: a FIFO until somebody writes."""
    mask: int = 0
    saved_mask: int | None = None
    """The mask before sigsuspend() or ppoll()."""
    pending: Pending = field(default_factory=Pending)
    stack: tuple[int, int] = (0, 0)
    """The alternate signal stack: address, size."""
    clear_tid: int = 0
    robust: int = 0
    fault_vector: int = 0
    fault_code: int = 0
    fault_address: int = 0
    """Of the last exception; handlers find them in their context."""
    alive: bool = True
    seconds: float = 0.0

    def waits_for(self, mask: int) -> int | None:
        """Return the first signal of a mask that is pending, blocked or not."""
        for pending in (self.pending, self.process.pending):
            for signal in sorted(pending):
                if mask & bit(signal):
                    return signal
        return None

    def take(self, signal: int) -> SignalInfo:
        """Return a signal that is pending, and forget it."""
        return (self.pending if signal in self.pending else self.process.pending).take(signal)

    def deliverable(self) -> int | None:
        """Return the signal that is next for this thread, if there is one that is not blocked."""
        if not self.pending and not self.process.pending:
            return None
        for pending in (self.pending, self.process.pending):
            for signal in sorted(pending):
                if not self.mask & bit(signal) or signal == SIGKILL:
                    return signal
        return None
