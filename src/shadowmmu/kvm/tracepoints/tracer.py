"""Who listens to the tracepoints of a VM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from .event import Event, Tracepoint
from .exits import ExitTracepoints
from .host import HostTracepoints
from .mmu import MmuTracepoints

Listener: TypeAlias = Callable[[Event], object]
"""Is called with each event, at the moment at which the kernel's tracepoint would fire."""


class Traced(Protocol):
    """A VM with tracepoints."""

    tracing: bool
    """Whether anybody listens; the tracepoints are called only then."""

    @property
    def design(self) -> object:
        """Return the switches of its kernel, which decide what some events show."""
        ...


class Tracer(MmuTracepoints, ExitTracepoints, HostTracepoints):
    """The tracepoints of a VM, a method each under the kernel's name, and their listeners.

    Attributes:
        _kvm: The VM, whose `tracing` is true while there are listeners.
        _listeners: The names of the tracepoints that each listener hears, in the order of their addition.
        _task: Kernel thread of the events; empty for the task that runs the VM.
    """

    def __init__(self, kvm: Traced) -> None:
        self._kvm = kvm
        self._listeners: dict[Listener, frozenset[str]] = {}
        self._task = ""

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """All listeners, in the order in which they were added."""
        return tuple(self._listeners)

    def add(self, listener: Listener, *names: str) -> None:
        """Let `listener` hear the tracepoints `names`, by default all, until it is removed.

        One that listens already hears these from now on. One that raises is removed, after the others have
        heard the event; then its exception leaves the mechanism that fired the event. Raises ValueError for a
        name that no tracepoint has.
        """
        for name in names:
            if name not in TRACEPOINTS:
                raise ValueError(f"{name!r} must be the name of a tracepoint")
        self._listeners[listener] = frozenset(names or TRACEPOINTS)
        self._changed()

    def remove(self, listener: Listener) -> None:
        """Let `listener` hear nothing any more; it may have been removed already."""
        self._listeners.pop(listener, None)
        self._changed()

    @contextmanager
    def listening(self, listener: Listener, *names: str) -> Iterator[None]:
        """Let `listener` hear what happens inside the block. Raises as `add` does."""
        self.add(listener, *names)
        try:
            yield
        finally:
            self.remove(listener)

    @contextmanager
    def in_task(self, name: str) -> Iterator[None]:
        """Make what happens inside the block happen in a kernel thread (`Event.task`)."""
        before, self._task = self._task, name
        self._changed()
        try:
            yield
        finally:
            self._task = before
            self._changed()

    def wire(self, tracepoint: Tracepoint[Any]) -> Callable[..., None]:
        """Return what fires a tracepoint for those who hear it now; it is kept until they change."""
        make, task = tracepoint.make_of(self._kvm.design), self._task
        listeners = [heard for heard, names in self._listeners.items() if tracepoint.name in names]

        def fire(*fields: Any, **named: Any) -> None:
            event = make(*fields, **named)
            if task:
                event = event.by(task)
            failure: BaseException | None = None
            for listener in listeners:
                try:
                    listener(event)
                except BaseException as error:
                    self.remove(listener)
                    failure = failure or error
            if failure is not None:
                raise failure

        fires = self.__dict__[tracepoint.name] = fire if listeners else _unheard
        return fires

    def _changed(self) -> None:
        self._kvm.tracing = bool(self._listeners)
        for name in TRACEPOINTS:
            self.__dict__.pop(name, None)


def _unheard(*fields: Any, **named: Any) -> None:
    """Fire a tracepoint that nobody hears."""


TRACEPOINTS: dict[str, Tracepoint[Any]] = {
    name: tracepoint
    for room in (MmuTracepoints, ExitTracepoints, HostTracepoints)
    for name, tracepoint in vars(room).items()
    if isinstance(tracepoint, Tracepoint)
}
"""Name -> tracepoint, all of them."""


class EventLog:
    """A listener that keeps what it hears until it is taken.

    Attributes:
        events: The events since the last `take`, in order.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        taken, self.events = self.events, []
        return taken
