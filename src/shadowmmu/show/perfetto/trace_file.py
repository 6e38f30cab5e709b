"""The file: Chrome's trace-event format (JSON), which Perfetto and chrome://tracing open.

Source: "Trace Event Format" (Google). Used are X (a slice), i (an instant), C (counters), s and f (the ends
of an arrow) and M (names). A time is in microseconds; here one stands for a step of the simulated clock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["CLOCK", "TraceFile", "Track"]

CLOCK = (
    "simulated: each tracepoint, flush request and flush takes one step, which is shown as 1 microsecond; "
    "lengths are numbers of steps, not times"
)
LOCK = "mmu_lock is shown from the first to the last tracepoint in a row that fires with it held"
CATEGORY = "kvm"


class _Written(Protocol):
    def write(self, text: str, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Track:
    """A line of the timeline: a thread of a process."""

    pid: int
    tid: int


class TraceFile:
    """Writes the file. What happens is collected until `flush`, which puts it in the order of time."""

    def __init__(self, file: _Written) -> None:
        self._file = file
        self._waiting: list[tuple[int, int, int, dict[str, Any]]] = []
        self._separator = ""
        self._arrows = 0
        head = {"producer": "shadowmmu", "clock": CLOCK, "mmu_lock": LOCK}
        file.write(f'{{"displayTimeUnit":"ns","otherData":{json.dumps(head)},"traceEvents":[\n')

    def process(self, pid: int, name: str) -> None:
        """Give a process its name; processes are shown in the order of their numbers."""
        self._name("process_name", pid, 0, {"name": name})
        self._name("process_sort_index", pid, 0, {"sort_index": pid})

    def thread(self, track: Track, name: str) -> None:
        """Give a track its name; tracks are shown in the order of their numbers."""
        self._name("thread_name", track.pid, track.tid, {"name": name})
        self._name("thread_sort_index", track.pid, track.tid, {"sort_index": track.tid})

    def slice(self, track: Track, name: str, start: int, end: int, args: Mapping[str, Any]) -> None:
        """Add a slice, [start, end)."""
        row = self._row("X", name, track, start)
        self._add(start, 0, start - end, {**row, "dur": end - start, "args": dict(args)})

    def instant(self, track: Track, name: str, at: int) -> None:
        """Add a moment."""
        self._add(at, 1, 0, {**self._row("i", name, track, at), "s": "t"})

    def counter(self, pid: int, name: str, at: int, values: Mapping[str, int]) -> None:
        """Add the values that the counters of a diagram have from now on."""
        self._add(at, 1, 0, {**self._row("C", name, Track(pid, 0), at), "args": dict(values)})

    def new_arrow(self) -> int:
        """Return the number of an arrow."""
        self._arrows += 1
        return self._arrows

    def arrow(self, name: str, number: int, track: Track, at: int, *, ends: bool) -> None:
        """Add one end of an arrow, which is at the slice of the track at that time; both have one number."""
        row = self._row("f" if ends else "s", name, track, at)
        self._add(at, 1, 0, {**row, "id": number, **({"bp": "e"} if ends else {})})

    def flush(self) -> None:
        """Write what is waiting, by time; a slice before those within it."""
        self._waiting.sort(key=lambda entry: entry[:3])
        for *_, row in self._waiting:
            self._write(row)
        self._waiting.clear()

    def close(self) -> None:
        """Write what is waiting, and the end of the file."""
        self.flush()
        self._file.write("\n]}\n")

    def _row(self, phase: str, name: str, track: Track, at: int) -> dict[str, Any]:
        return {"ph": phase, "cat": CATEGORY, "name": name, "pid": track.pid, "tid": track.tid, "ts": at}

    def _name(self, what: str, pid: int, tid: int, args: Mapping[str, Any]) -> None:
        self._write({"ph": "M", "name": what, "pid": pid, "tid": tid, "args": dict(args)})

    def _add(self, at: int, order: int, longest: int, row: dict[str, Any]) -> None:
        self._waiting.append((at, order, longest, row))

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(self._separator + json.dumps(row, separators=(",", ":")))
        self._separator = ",\n"
