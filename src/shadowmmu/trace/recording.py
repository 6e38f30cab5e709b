"""Recordings: what every op of a scenario did, as lines of JSON.

The first line is a header (scenario, kernel, parameters, the setup as single entries; `events`, which the lab
leaves out: the tracepoints that the recording can hold), then there is one object per op: its text, result,
statistics, changed guest entries, events, and the change of the MMU's state. All host addresses have names
(trace.names). `Recording.read` reads the lines, `replay` follows the state; trace.recorder makes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from shadowmmu.guest.scenario.text import first_invisible, read_file, shown
from shadowmmu.trace.delta import apply_delta
from shadowmmu.trace.names import State
from shadowmmu.trace.recorded_events import RECORDED

__all__ = ["Recording", "RecordingError", "Row", "replay"]

Row = dict[str, Any]
"""One line of a recording."""

_HEADER = {"scenario": str, "title": str, "kernel": str, "params": dict, "tramp_gva": str, "setup": list}
_ROW = {"op": int, "do": str}
_ESCAPE = re.compile(r"\\[^\"\\/]")
_LONGEST_INTEGER = 20
_LONGEST_NAME = 200
_OP_ROW = {"vcpu": int, "result": dict, "stats": dict, "gptes": list, "events": list}


class RecordingError(ValueError):
    """A file that is not a whole recording; the text is `file:line: what is wrong; how to fix it`."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording in memory: row n is line n + 2, the first row is op -1."""

    path: Path
    header: Row
    rows: tuple[Row, ...]

    @property
    def events(self) -> frozenset[str]:
        """Names of the tracepoints that it can hold: those in its header, else those that the lab records."""
        return frozenset(self.header.get("events", RECORDED))

    @classmethod
    def read(cls, path: str | Path) -> Recording:
        """Read and check a recording.

        Raises RecordingError for a file that is truncated, malformed or no recording, OSError if it cannot be
        read.
        """
        path = Path(path)
        lines = read_file(path).split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        if not lines:
            _fail(path, 1, "the file is empty", "give a recording")
        header = _parse(path, 1, lines[0], last=len(lines) == 1)
        _check_header(path, header)
        rows = []
        for number, line in enumerate(lines[1:], 2):
            row = _parse(path, number, line, last=number == len(lines))
            _check_row(path, number, row)
            rows.append(row)
        if not rows:
            _fail(path, 1, "there is nothing after the header", "record it again")
        return cls(path, header, tuple(rows))


def _fail(path: Path, line: int, what: str, fix: str) -> NoReturn:
    raise RecordingError(f"{path}:{line}: {shown(what)}; {shown(fix)}")


def _parse(path: Path, number: int, line: bytes, *, last: bool) -> Any:
    try:
        text = line.decode()
        value = json.loads(text, parse_constant=_refuse_constant, parse_int=_integer)
    except (ValueError, RecursionError):
        if last and number > 1 and not line.endswith(b"}"):
            _fail(path, number, "the last line is cut off", "record it again, or remove the line")
        _fail(path, number, "this is not JSON", "give a recording: JSON, one object per line")
    if (not text.isprintable() or _ESCAPE.search(text)) and (odd := _first_odd(value)):
        _fail(path, number, f"a text has an invisible character ({odd})", "record it again")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _integer(text: str) -> int:
    """Return an integer of a recording, of 64 bits at most. Raises ValueError."""
    if len(text) > _LONGEST_INTEGER:
        raise ValueError("an integer of more than 64 bits")
    return int(text)


def _first_odd(value: Any) -> str | None:
    """Return the first character that cannot be shown in the texts of a value, names of members included."""
    if isinstance(value, str):
        return first_invisible(value.replace("\t", "\0"))
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return (
        next((odd for held in value if (odd := _first_odd(held))), None) if isinstance(value, list) else None
    )


def _check_header(path: Path, header: Any) -> None:
    if not isinstance(header, dict) or any(
        not isinstance(header.get(key), kind) for key, kind in _HEADER.items()
    ):
        _fail(path, 1, "this is not the header of a recording", "give a file that was made by recording")
    name = header["scenario"]
    if not name or name in (".", "..") or "/" in name or len(name) > _LONGEST_NAME:
        _fail(path, 1, f"`{name}` cannot be the name of a scenario", "use the name of its file, without .txt")
    names = header.get("events", [])
    if not isinstance(names, list) or not all(isinstance(event, str) for event in names):
        _fail(path, 1, "`events` must be a list of names", "record it again, or remove `events`")
    for key, value in header["params"].items():
        if not isinstance(value, str):
            _fail(path, 1, f"the parameter `{key}` is not a text", "record it again")


def _check_row(path: Path, number: int, row: Any) -> None:
    def malformed(what: str) -> NoReturn:
        _fail(path, number, what, "record it again")

    if not isinstance(row, dict):
        malformed("this line must be a JSON object")
    expected = number - 3
    required = _ROW if expected < 0 else _ROW | _OP_ROW
    for key, kind in required.items():
        if not isinstance(row.get(key), kind):
            malformed(f"`{key}` is missing or of the wrong type")
    if row["op"] != expected:
        malformed(f"this is op {row['op']}, but op {expected} is due: lines are missing or in disorder")
    if not all(
        isinstance(event, dict) and isinstance(event.get("e"), str) for event in row.get("events", ())
    ):
        malformed("an event has no name")
    if not all(isinstance(counters, dict) for counters in row.get("stats", {}).values()):
        malformed("`stats` has no counters")
    delta = row.get("delta", {"set": {}})
    if not isinstance(delta, dict) or not isinstance(delta.get("set"), dict):
        malformed("`delta` has no `set`")
    if not all(isinstance(path, str) for path in delta.get("del", ())):
        malformed("`delta` has a `del` that must be a list of paths")


def replay(recording: Recording) -> Iterator[tuple[Row, State]]:
    """Yield every row with the full state after it; the state is the same object, changed from op to op.

    Raises RecordingError when a delta does not fit the state before it.
    """
    state: State = {}
    for number, row in enumerate(recording.rows, 2):
        try:
            apply_delta(state, row.get("delta", {"set": {}}))
        except (KeyError, TypeError):
            _fail(recording.path, number, "`delta` does not fit the state before it", "record it again")
        yield row, state
