"""The tracepoints that fired, to index, filter and put into a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from ..kvm.tracepoints.event import Event
from ..show.html.table import table
from ..trace.frames import pandas_frame, polars_frame

if TYPE_CHECKING:
    import pandas
    import polars

__all__ = ["Trace"]


class Trace(Sequence[Event]):
    """Events in the order in which they fired; those whose name matches one of the `patterns` (`kvm_mmu_*`).

    `vm.trace()` returns one that listens until `stop()`, or to the end of its `with` block. Any number of
    them may listen.
    """

    def __init__(
        self,
        patterns: Sequence[str] = (),
        events: Iterable[Event] = (),
        *,
        on_stop: Callable[[Trace], None] | None = None,
    ) -> None:
        self.patterns = tuple(patterns)
        self._events = list(events)
        self._on_stop = on_stop

    def __call__(self, event: Event) -> None:
        """Add an event if it matches."""
        if self._matches(event.name):
            self._events.append(event)

    def _matches(self, name: str) -> bool:
        return not self.patterns or any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def stop(self) -> None:
        """Stop listening. Events cost nothing while nobody listens."""
        if self._on_stop is not None:
            self._on_stop(self)
            self._on_stop = None

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    @overload
    def __getitem__(self, index: int) -> Event: ...
    @overload
    def __getitem__(self, index: slice) -> Trace: ...
    def __getitem__(self, index: int | slice) -> Event | Trace:
        if isinstance(index, slice):
            return Trace((), self._events[index])
        return self._events[index]

    def __len__(self) -> int:
        return len(self._events)

    def __iter__(self) -> Iterator[Event]:
        return iter(tuple(self._events))

    def filter(self, *patterns: str) -> Trace:
        """Return the events whose name matches one of the patterns, `trace.filter("kvm_mmu_*")`."""
        found = Trace(patterns)
        for event in self._events:
            found(event)
        return found

    def counts(self) -> dict[str, int]:
        """Return how often each event fired, the most frequent first."""
        return dict(Counter(event.name for event in self._events).most_common())

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each event: its number, name, fields and text."""
        return [
            {
                "n": n,
                "name": event.name,
                **{name: getattr(event, name) for name in event.fields},
                "text": event.text(),
            }
            for n, event in enumerate(self._events)
        ]

    def to_polars(self) -> polars.DataFrame:
        """Return a polars data frame with a row for each event. Raises ImportError without polars."""
        return polars_frame(self.rows(), "Trace.to_polars()")

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas data frame with a row for each event. Raises ImportError without pandas."""
        return pandas_frame(self.rows(), "Trace.to_pandas()")

    def __str__(self) -> str:
        return "\n".join(map(str, self._events))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {count}" for name, count in self.counts().items())
        return f"<Trace of {len(self)} events{': ' if shown else ''}{shown}>"

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows: a row for each event."""
        rows = [(str(n), event.name, event.text(), event.task) for n, event in enumerate(self._events)]
        caption = f"{len(self):,} event{'' if len(self) == 1 else 's'}"
        return table(caption, ("n", "event", "as the kernel prints it", "kernel thread"), rows)
