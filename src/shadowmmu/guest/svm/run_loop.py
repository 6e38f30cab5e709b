"""KVM_RUN again and again: exits to their handlers, limits, timers, and why it ended."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ...kvm.exits.emulate import EmulationError
from ...kvm.exits.page_fault_exit import EndlessFaults, KvmRunError
from ...kvm.exits.run import DirtyRingFull, TripleFault
from ...kvm.pages.roots import NoShadowPages
from ...kvm.state.running_vcpu import loaded
from ...x86.machine_check import MachineCheck
from ...x86.svm import SVM_EXIT_EXCP_BASE, SVM_EXIT_INTR, SVM_EXIT_IRET, SVM_EXIT_READ_DR0, SVM_EXIT_SMI
from .entry import Entry
from .execution import ExitHandler
from .exit_codes import EXIT, NOT_KVMS
from .interrupts import DB

HISTORY = 32
SLICE = 0.25
"""Seconds after which Ctrl-C is looked at."""
DB_EXIT = EXIT + SVM_EXIT_EXCP_BASE + DB
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why run() returned.

    reason      "stopped" by a callback without a reason, or what stop() was given
                "hlt": HLT, RIP past it; an interrupt() lets the guest continue
                "triple fault": the guest could not take an exception and was shut down
                "exits", "instructions", "seconds": the limit was reached; run() continues
                "endless faults": one instruction faults for ever
                "emulation": KVM cannot emulate an instruction (an internal error of KVM_RUN)
                "host": KVM_RUN failed, `detail` is why
    detail      more about it, by the reason
    """

    reason: str
    detail: object = None


class ExitRecord(NamedTuple):
    """One exit, for reports: its code, RIP, an exception's error code, a page fault's address."""

    code: int
    rip: int
    info1: int
    info2: int


class RunLoop:
    """The loop of one vCPU.

    `exits` counts by code, `handlers` has who handles a code; `outcome` is set by what ends run().
    """

    def __init__(self, entry: Entry) -> None:
        self.vcpu = entry.vcpu
        self.processor = entry.processor
        self.clock = entry.processor.clock
        self.switch = entry.switch
        self.step = entry.step
        self.entry = entry
        self.exits: Counter[int] = Counter()
        self.handlers: dict[int, ExitHandler] = {}
        self.outcome: Outcome | None = None
        self._history: deque[tuple[int, int, int, int]] = deque(maxlen=HISTORY)
        self._idle: Callable[[], None] | None = None
        self._idle_every = NEVER
        self._wake_at = self._deadline = NEVER
        self._exit_limit: int | None = None
        self.processor.on_exit = self._on_exit

    def run(
        self, *, exits: int | None = None, instructions: int | None = None, seconds: float | None = None
    ) -> Outcome:
        """Run the guest until something stops it, or a limit is reached.

        With `instructions` they are counted, which is slower. A few more may be executed; of IN, OUT and
        SYSCALL among these the callbacks are not called: the guest is not to go on.
        """
        self.outcome = None
        self._exit_limit = None if exits is None else self.exits.total() + exits
        last = self.processor.instructions + instructions if instructions else 0
        self._deadline = NEVER if seconds is None else self.clock.now() + seconds
        with loaded(self.vcpu):
            self.guarded(self.entry.resume)
            while self.outcome is None:
                try:
                    self.processor.run(self._next_tick(), max(last - self.processor.instructions, 0))
                except self.processor.error_type as error:
                    self.outcome = Outcome("processor", str(error))
                if self.outcome is None and instructions:
                    self.outcome = Outcome("instructions")
            return self.outcome

    def stop(self, reason: str = "stopped", detail: object = None) -> None:
        """Let run() return once this exit is dealt with, from a callback; after IN or OUT a few instructions
        later.
        """
        if self.outcome is None:
            self.outcome = Outcome(reason, detail)
        if self.processor.running:
            self.processor.request_tick()

    def _stop_if_done(self) -> None:
        if self.outcome is not None:
            self.processor.stop()

    @property
    def history(self) -> list[ExitRecord]:
        """The last exits, oldest first."""
        return [ExitRecord(*record) for record in self._history]

    def on_idle(self, callback: Callable[[], None], every: float = 0.01) -> None:
        """Call back every that many seconds while the guest runs, and when wake_at() says: for timers."""
        self._idle, self._idle_every = callback, every
        self._schedule()

    def wake_at(self, when: float) -> None:
        """Call the callback of on_idle() at that time of the clock; instead of at an earlier one."""
        self._wake_at = when
        self._schedule()

    def _schedule(self) -> None:
        if self.processor.running:
            self.processor.set_tick(self._next_tick())

    def _next_tick(self) -> float:
        now = self.clock.now()
        return min(self._deadline, self._wake_at, now + min(self._idle_every, SLICE))

    def _tick(self) -> None:
        """Handle a tick, between two instructions at a time that was set: timers, limits,
        waiting interrupts.
        """
        now = self.clock.now()
        if self.outcome is None and now >= self._deadline:
            self.outcome = Outcome("seconds")
        if self.outcome is None:
            self.switch.note_state()
            if now >= self._wake_at:
                self._wake_at = NEVER
            if self._idle is not None and self.step.current is None:
                self._idle()
            if self.step.current is None:
                self.guarded(self.entry.resume)
        self.processor.set_tick(self._next_tick())
        self._stop_if_done()

    def _on_exit(self, number: int) -> None:
        if number == EXIT + SVM_EXIT_SMI:
            self._tick()
            return
        if self.outcome is not None:
            self.processor.stop()
            return
        if number == EXIT + SVM_EXIT_INTR or (number == DB_EXIT and self.processor.is_behind_io()):
            self.switch.note_state()
            self.guarded(self.entry.resume)
            self._stop_if_done()
            return
        code = number - EXIT if number >= EXIT else number + SVM_EXIT_EXCP_BASE
        self.switch.note_state()
        if code in NOT_KVMS or self._is_own(code):
            self.guarded(self._handle, code)
            self._stop_if_done()
            return
        self.exits[code] += 1
        processor = self.processor
        self._history.append((code, self.vcpu.rip, processor.exit_info1, processor.exit_info2))
        self.guarded(self._handle, code)
        if self.outcome is not None or (
            self._exit_limit is not None and self.exits.total() >= self._exit_limit
        ):
            if self.outcome is None:
                self.outcome = Outcome("exits")
            self.processor.stop()

    def _is_own(self, code: int) -> bool:
        """Return whether KVM would not see it: IRET without an NMI, a debug register, the end of a step."""
        if code == SVM_EXIT_IRET:
            return not self.entry.events.nmi_blocked
        if SVM_EXIT_READ_DR0 <= code < SVM_EXIT_EXCP_BASE:
            return True
        return code == SVM_EXIT_EXCP_BASE + DB and self.step.current is not None

    def _handle(self, code: int) -> None:
        step = self.step
        if step.current is not None:
            step.exited(code)
        else:
            step.interrupted = False
        handler = self.handlers.get(code)
        if handler is None:
            raise EmulationError(f"exit {code:#x} is not expected")
        handler(code)
        if self.outcome is None:
            self.entry.resume()

    def guarded(self, action: Callable[..., None], *arguments: int) -> None:
        """Do it; what ends KVM_RUN ends run()."""
        try:
            action(*arguments)
        except TripleFault:
            self.outcome = Outcome("triple fault")
        except KvmRunError as error:
            self.outcome = Outcome("host", str(error))
        except (NoShadowPages, DirtyRingFull) as error:
            self.outcome = Outcome("host", str(error) or type(error).__name__)
        except (EmulationError, MachineCheck) as error:
            self.outcome = Outcome("emulation", str(error))
        except EndlessFaults as error:
            self.outcome = Outcome("endless faults", str(error))
