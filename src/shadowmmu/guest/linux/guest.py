"""A Linux program as something to run: with limits, and an ending for a report."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..pc.pc import NO_LIMITS, Ending, Limits
from ..svm.machine import SvmMachine
from .kernel import Kernel
from .syscalls import SystemCalls

__all__ = ["PLAIN_ENVIRONMENT", "LinuxGuest"]

PLAIN_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


class LinuxGuest:
    """A machine with our kernel and a program on it.

    Beneath `root` the guest may write files (None: the current directory); `warn` gets one line for what is
    missing here. Raises ValueError if the machine has too little memory.
    """

    def __init__(self, machine: SvmMachine, *, root: Path | None, warn: Callable[[str], None]) -> None:
        self.machine = machine
        self.kernel = Kernel(machine, SystemCalls, root=root, warn=warn)
        self.kernel.give_up = self._must_end
        self.seconds = 0.0
        self._interrupted = False
        self._started = 0.0
        self._limits = NO_LIMITS

    def load(self, path: Path, arguments: Sequence[str]) -> None:
        """Load the program; arguments[0] is its name. Raises NotExecutable, OSError or OutOfMemory.

        Its environment is that of this process; with a virtual clock PLAIN_ENVIRONMENT, which is the same in
        every run.
        """
        self.kernel.start(path, arguments, PLAIN_ENVIRONMENT if self.machine.clock.virtual else None)

    @property
    def instructions(self) -> int:
        """Those of the guest so far, if a limit asks for counting."""
        return self.machine.processor.instructions

    def interrupt(self) -> None:
        """Let run() end soon; from a signal handler, for instance."""
        self._interrupted = True
        self.machine.stop("interrupted")

    def _must_end(self) -> bool:
        """Return whether the run must end; called while all processes wait."""
        seconds = self._limits.seconds
        return self._interrupted or (
            seconds is not None and self.machine.clock.now() - self._started >= seconds
        )

    def run(self, limits: Limits = NO_LIMITS, progress: Callable[[], None] = lambda: None) -> Ending:
        """Run until all processes have ended, or a limit is reached; `progress` is called twice a second."""
        self._limits = limits
        self._started = self.machine.clock.now()
        try:
            while True:
                ending = self._run_slice(limits)
                self.seconds = self.machine.clock.now() - self._started
                progress()
                if ending is not None:
                    return ending
        finally:
            self.kernel.close()

    def _run_slice(self, limits: Limits) -> Ending | None:
        outcome = limits.run_slice(self.machine, self.seconds)
        if self._interrupted:
            return Ending("interrupted")
        if outcome.reason == "exit":
            return Ending("exit", self.kernel.status)
        if outcome.reason == "seconds" and not self._must_end():
            return None
        return Ending(outcome.reason, None, "" if outcome.detail is None else str(outcome.detail))
