"""What a case is: a small program of threads, its protections, and what must not come of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from .engine import Bad, CaseError, Execution
from .memory import Lock, Rcu, Shared

__all__ = ["Case", "CaseError"]


class Case:
    """One program, made anew for each order that is run.

    name         R1 and so on as the protocol's description numbers them, with a letter if there are several
    title        one line
    protections  what prevents the bad outcome: name and what it is in KVM; each alone can be taken away
    needs_tso    protections without which only store buffers bring the bad outcome out
    bound        preemptions that are searched; None: every order
    missing      protections that KVM has not (6.12): a candidate that turned out to be a finding
    verdict      what a candidate turned out to be
    reachable    an outcome that looks bad, is not, and must come up: the end of check() says so by witness()

    `without` are the protections taken away.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    protections: ClassVar[dict[str, str]] = {}
    needs_tso: ClassVar[frozenset[str]] = frozenset()
    bound: ClassVar[int | None] = None
    missing: ClassVar[frozenset[str]] = frozenset()
    verdict: ClassVar[str] = ""
    reachable: ClassVar[str] = ""

    s: Any
    """The shared variables."""

    def __init__(self, execution: Execution, without: frozenset[str] = frozenset()) -> None:
        self.execution = execution
        self.without = without
        self.setup()
        for name, body in self.threads().items():
            execution.add(name, body)

    @classmethod
    def environment(cls) -> AbstractContextManager[None]:
        """Set up what orders of this case need while they run."""
        return nullcontext()

    def setup(self) -> None:
        """Make the shared memory and the locks."""

    def threads(self) -> dict[str, Callable[[], None]]:
        """Return the threads by the name that heads their column."""
        raise NotImplementedError

    def check(self) -> None:
        """Look at the end of an order; bad() and witness() say what was found."""

    # -- for the threads -----------------------------------------------------------------------------------

    def has(self, protection: str) -> bool:
        """Return whether a protection is in place."""
        return protection not in self.without

    def shared(self, **values: Any) -> Any:
        """Return the shared variables with their first values."""
        return Shared(self.execution, **values)

    def lock(self, name: str = "mmu_lock", *, held: bool = True) -> Lock:
        return Lock(self.execution, name, held=held)

    def rcu(self, name: str = "rcu", *, held: bool = True) -> Rcu:
        return Rcu(self.execution, name, held=held)

    def fence(self, protection: str = "", text: str = "smp_mb()") -> None:
        """Execute a full barrier, unless it was taken away."""
        if not protection or self.has(protection):
            self.execution.fence(text)

    def in_order(self, protection: str, *steps: Callable[[], object]) -> None:
        """Make steps in this order; without the protection in the reverse order."""
        for step in steps if self.has(protection) else reversed(steps):
            step()

    def note(self, text: str) -> None:
        """Show something that is not a memory access."""
        self.execution.note(text)

    def bad(self, text: str) -> None:
        """Report an outcome that must not be; end the thread that runs."""
        if self.execution.current is not None:
            raise Bad(text)
        self.execution.bad = text

    def witness(self, text: str) -> None:
        """Report the outcome `reachable`."""
        self.execution.witness = text
