"""Recordings: what every op of a scenario did, as lines of JSON.

The first line is a header (scenario, kernel, parameters, the setup as single entries), then there is one
object per op: its text, result, statistics, changed guest entries, events, and the change of the MMU's state.
All host addresses have names (trace.names). `Recorder` makes the lines, `Recording.read` reads them, `replay`
follows the state.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from shadowmmu.guest.scenario.modes import trampolines_of
from shadowmmu.guest.scenario.scenario import HOST_MAXPHYADDR, Scenario
from shadowmmu.guest.scenario.setup import (
    L2_CODE,
    PAGE,
    Cap,
    Code,
    L2Code,
    Poke,
    Pt,
    Setup,
    SetupAction,
    SlotSetup,
    Vcpu,
    Vmcb,
    Watch,
    resolve,
)
from shadowmmu.guest.scenario.text import first_invisible, read_file, shown
from shadowmmu.kvm.design.design import design_of
from shadowmmu.trace import events
from shadowmmu.trace.events import Event
from shadowmmu.trace.names import Area, Names, RawState, State

__all__ = [
    "PlayedOp",
    "Recorder",
    "Recording",
    "RecordingError",
    "Row",
    "apply_delta",
    "difference",
    "json_line",
    "replay",
]

Row = dict[str, Any]
"""One line of a recording."""

_NOT_RECORDED_EXITS = {"interrupt", "nmi", "io", "vintr", "IO_INSTRUCTION"}
_NOT_RECORDED_STATS = {
    "irq_exits", "host_state_reload", "fpu_reload", "req_event", "preemption_reported", "preemption_other",
    "exits", "io_exits", "signal_exits", "halt_poll_fail_ns", "blocking",
}  # fmt: skip
_TRAMP_CODE = 0x2000
_EMPTY_SPTES = (0, 1 << 63)
_MMU_PRESENT = 1 << 11
_GPA = re.compile(r"gpa:(\w+)")


class RecordingError(ValueError):
    """A file that is not a whole recording; the text is `file:line: what is wrong; how to mend it`."""


class PlayedOp(Protocol):
    """What a player tells of one op (op -1: the machine after `start`)."""

    @property
    def op(self) -> int:
        """Number of the op."""
        ...

    @property
    def text(self) -> str:
        """The line as written."""
        ...

    @property
    def vcpu(self) -> int:
        """The vCPU selected."""
        ...

    @property
    def result(self) -> Mapping[str, Any]:
        """Outcome and values, as recorded."""
        ...

    @property
    def stats(self) -> Mapping[str, Mapping[str, int]]:
        """Differences of the statistics, per `vm`, `vcpu0`, ..."""
        ...

    @property
    def gptes(self) -> Sequence[Sequence[str]]:
        """Guest entries that changed: [gpa, old, new]."""
        ...

    @property
    def events(self) -> Sequence[Event]:
        """The tracepoints that fired."""
        ...

    @property
    def state(self) -> RawState | None:
        """The MMU's state afterwards, None when dumping is off."""
        ...


# -------------------------------------------------------------------------------------------------- recording


class Recorder:
    """Turns the ops of one play into the lines of a recording. Give it every op, in order."""

    def __init__(self, scenario: Scenario, areas: Mapping[int, Area]) -> None:
        """`areas` is the player's live view of the memory made for slots (see `Names`)."""
        self._scenario = scenario
        self._setup = resolve(scenario)
        self._design = design_of(scenario.kernel, scenario.design)
        self._names = Names(areas, self._design)
        self._state: State = {}

    @property
    def state(self) -> State:
        """The named state after the last op that had one."""
        return self._state

    def header(self) -> Row:
        """The first line."""
        scenario = self._scenario
        return {
            "scenario": scenario.name,
            "title": scenario.title,
            "kernel": scenario.kernel,
            "params": dict(scenario.params),
            **({"design": dict(scenario.design)} if scenario.design else {}),
            "tramp_gva": f"{self._setup.tramp_gva:#x}",
            "setup": _header_setup(self._setup),
        }

    def row(self, played: PlayedOp) -> Row:
        """The line of one op."""
        state = None if played.state is None else self._names.state(played.state, played.events)
        row: Row = {"op": played.op, "do": played.text}
        if played.op >= 0:
            row["vcpu"] = played.vcpu
            row["result"] = dict(played.result)
            row["stats"] = {
                group: {name: n for name, n in counters.items() if n and name not in _NOT_RECORDED_STATS}
                for group, counters in played.stats.items()
            }
            row["gptes"] = [list(change) for change in played.gptes]
            row["events"] = self._events(played.events)
        if state is not None:
            row["delta"] = difference(self._state, state)
            self._state = state
        return row

    def _events(self, fired: Iterable[Event]) -> list[Row]:
        kept = (event for event in fired if not _is_freezing(event))
        if self._design.event_strings:
            kept = (event for event in kept if _is_recorded(event))
        entries = [_named_event(self._names, event) for event in kept]
        named = _collapsed([entry for entry in entries if not _is_of_other_memory(entry)])
        code = [(tramp.gva, _TRAMP_CODE) for tramp in trampolines_of(self._setup.modes).values()]
        if self._setup.nested:
            code.append((L2_CODE, PAGE))
        tramp = False
        for entry in named:
            if entry["e"] == events.PagetableWalk.name:
                addr = int(entry["addr"], 16)
                tramp = any(first <= addr < first + size for first, size in code)
            elif entry["e"] not in (events.PagingElement.name, events.WalkerError.name):
                tramp = False
            if tramp:
                entry["tramp"] = True
        return named


def _header_setup(setup: Setup) -> list[Row]:
    machine = [action for action in setup.actions if not isinstance(action, Vcpu | Vmcb | Watch)]
    vcpus = [action for action in setup.actions if isinstance(action, Vcpu | Vmcb)]
    cpuid: Row = {"setup": "cpuid", "maxphyaddr": setup.maxphyaddr}
    if setup.host_maxphyaddr != HOST_MAXPHYADDR:
        cpuid["host"] = setup.host_maxphyaddr
    entries = [*map(_header_entry, machine), cpuid, *map(_header_entry, vcpus)]
    return [*_header_modes(setup.modes), *entries]


def _header_modes(modes: Sequence[str]) -> list[Row]:
    """The mode of the VM; if the vCPUs differ, then those of the others follow."""
    first: Row = {"setup": "mode", "mode": modes[0]}
    if len(set(modes)) == 1:
        return [first]
    return [first, *({"setup": "mode", "vcpu": n, "mode": mode} for n, mode in enumerate(modes) if n)]


def _header_entry(action: SetupAction) -> Row:
    match action:
        case SlotSetup():
            entry = {
                "setup": "slot",
                "id": action.id,
                "gpa": f"{action.gpa:#x}",
                "size": f"{action.size:#x}",
                "flags": action.flags,
                "opts": action.options,
            }
            return entry if action.options in ("trampoline", "nested") else {**entry, "result": action.result}
        case Pt():
            return {
                "setup": "pt",
                "gpa": f"{action.gpa:#x}",
                "size": action.size,
                "val": f"{action.value:#x}",
            }
        case Poke():
            return {"setup": "poke", "gpa": f"{action.gpa:#x}", "val": f"{action.value:#x}"}
        case Code():
            return {"setup": "code", "gpa": f"{action.gpa:#x}"}
        case L2Code():
            return {"setup": "l2code", "gpa": f"{action.gpa:#x}"}
        case Vmcb():
            where = {"gpa": f"{action.gpa:#x}", "ncr3": f"{action.ncr3:#x}"}
            return {"setup": "vmcb", "vcpu": action.vcpu, **where, "asid": action.asid}
        case Cap():
            return {"setup": "cap", "cap": action.cap, "arg": action.arg, "result": action.result}
        case Vcpu():
            registers = {name: f"{getattr(action, name):#x}" for name in ("cr0", "cr3", "cr4", "efer")}
            return {"setup": "vcpu", "id": action.id, **registers}
        case Watch():
            raise AssertionError("watched pages are not in the header")


def _is_recorded(event: Event) -> bool:
    """Whether recordings have the event; where texts have lost their strings they cannot leave any out."""
    return not isinstance(event, events.Exit) or event.reason_name not in _NOT_RECORDED_EXITS


def _is_freezing(event: Event) -> bool:
    """Whether an entry of a removed table that mapped nothing is frozen: 512 of them tell nothing."""
    if isinstance(event, events.ByTask):
        event = event.event
    if not isinstance(event, events.TdpMmuSpteChanged):
        return False
    return event.old_spte in _EMPTY_SPTES and not event.new_spte & _MMU_PRESENT


def _named_event(names: Names, event: Event) -> Row:
    """The event as recorded."""
    if isinstance(event, events.ByTask):
        return {**_named_event(names, event.event), "task": event.task}
    entry: Row = {"e": event.name}
    match event:
        case events.PageEvent():
            _describe_page(entry, event)
        case events.SetSpte():
            entry["gfn"] = f"{event.gfn:x}"
            entry["spte"] = names.spte(event.spte, leaf=True)
            entry["perm"] = event.permissions
            entry["level"] = event.level
            entry["at"] = names.sptep(event.sptep)
        case events.SpteRequested():
            entry["gfn"] = f"{event.gfn:x}"
            entry["pfn"] = names.pfn(event.pfn)
            entry["level"] = event.level
            if event.access is not None:
                entry["access"] = f"{event.access:x}"
        case events.PagetableWalk():
            entry["addr"] = f"{event.addr:x}"
            entry["pferr"] = f"{event.pferr & 0xFFFFFFFF:x}"
        case events.PagingElement():
            entry["pte"] = f"{event.pte:x}"
            entry["level"] = event.level
        case events.FastPageFault():
            entry["gva"] = f"{event.gva:x}"
            entry["error_code"] = events.pferr_flags(event.error_code)
            entry["at"] = names.pointer(event.sptep)
            entry["old"] = names.spte(event.old_spte)
            entry["new"] = names.spte(event.new_spte)
            entry["spurious"] = int(event.spurious)
            entry["fixed"] = int(event.fixed)
        case events.MarkMmioSpte():
            entry["at"] = names.pointer(event.sptep)
            entry["gfn"] = f"{event.gfn:x}"
            entry["access"] = f"{event.access:x}"
            entry["gen"] = f"{event.gen:x}"
        case events.TdpMmuSpteChanged():
            entry["gfn"] = f"{event.gfn:x}"
            entry["level"] = event.level
            entry["old"] = names.spte(event.old_spte, leaf=event.level == 1)
            entry["new"] = names.spte(event.new_spte, leaf=event.level == 1)
        case events.SplitHugePage():
            entry["gfn"] = f"{event.gfn:x}"
            entry["spte"] = names.spte(event.spte, leaf=True)
            entry["level"] = event.level
            entry["errno"] = event.errno
        case events.UnmapHvaRange() | events.AgeHva():
            entry["start"] = names.hva(event.start)
            entry["end"] = names.hva(event.end)
        case events.TestAgeHva():
            entry["hva"] = names.hva(event.hva)
        case events.Exit():
            entry["reason"] = event.reason_name
            entry["rip"] = f"{event.rip:#x}"
            entry["info1"] = f"{event.info1:x}"
            entry["info2"] = f"{event.info2:x}"
        case _:
            entry["t"] = event.text().strip()
    return entry


def _collapsed(entries: list[Row]) -> list[Row]:
    """Runs of the same change of SPTEs to consecutive pages as one event with `n`, their number.

    So are runs of adjacent ranges that are aged.
    """
    rows: list[Row] = []
    for entry in entries:
        if rows and _is_adjacent(rows[-1], entry):
            rows[-1]["end"] = entry["end"]
            rows[-1]["n"] = rows[-1].get("n", 1) + 1
        elif rows and _continues(rows[-1], entry):
            rows[-1]["n"] = rows[-1].get("n", 1) + 1
        else:
            rows.append(entry)
    return rows


def _is_of_other_memory(entry: Row) -> bool:
    """Whether the host asked about memory that is no slot's any more: recordings leave that out."""
    asked = entry["e"] in (events.AgeHva.name, events.TestAgeHva.name)
    return asked and str(entry.get("start", entry.get("hva"))).startswith("hva?")


def _is_adjacent(run: Row, entry: Row) -> bool:
    return run["e"] == entry["e"] == events.AgeHva.name and bool(run["end"] == entry["start"])


def _continues(run: Row, entry: Row) -> bool:
    if not run["e"] == entry["e"] == events.TdpMmuSpteChanged.name or run["level"] != entry["level"]:
        return False
    distance = int(entry["gfn"], 16) - int(run["gfn"], 16) << 12
    if distance != run.get("n", 1) << 12 + 9 * (run["level"] - 1):
        return False
    return all(_moved(run[key], distance) == entry[key] for key in ("old", "new"))


def _moved(name: str, distance: int) -> str:
    """The name of an SPTE that maps memory `distance` bytes further on."""
    return _GPA.sub(lambda match: f"gpa:{int(match[1], 16) + distance:x}", name)


def _describe_page(entry: Row, event: events.PageEvent) -> None:
    role = event.role
    entry["gen"] = event.gen
    entry["gfn"] = f"{event.gfn:x}"
    entry["level"] = event.level
    four_byte = role & 1 << 4
    if four_byte:
        entry["4byte"] = 1
    if four_byte or event.quadrant:
        entry["q"] = event.quadrant
    if role & 1 << 7:
        entry["direct"] = 1
    entry["access"] = event.access
    if role & 1 << 11:
        entry["invalid"] = 1
    if not role & 1 << 12:
        entry["nxe"] = 0
    if role & 1 << 16:
        entry["ad"] = 0
    entry["root"] = event.root_count
    entry["sync"] = "unsync" if event.unsync else "sync"
    if isinstance(event, events.GetPage):
        entry["created"] = bool(event.created)


def json_line(row: Row) -> str:
    """A line of a recording, with its end."""
    return json.dumps(row, separators=(",", ":")) + "\n"


# ------------------------------------------------------------------------------------------------------ delta


def difference(before: State, after: State) -> Row:
    """What has to be set and deleted to come from one state to the next, by path (`sps:S7:sptes:3`)."""
    to_set: Row = {}
    to_delete: list[str] = []
    _differences(before, after, "", to_set, to_delete)
    return {"set": to_set, "del": to_delete} if to_delete else {"set": to_set}


def _differences(before: State, after: State, path: str, to_set: Row, to_delete: list[str]) -> None:
    to_delete += [path + key for key in before if key not in after]
    for key, value in after.items():
        if key not in before:
            to_set[path + key] = value
        elif isinstance(value, dict) and isinstance(before[key], dict):
            _differences(before[key], value, f"{path}{key}:", to_set, to_delete)
        elif before[key] != value:
            to_set[path + key] = value


def apply_delta(state: State, delta: Mapping[str, Any]) -> None:
    """Carry a delta out on `state`. Raises KeyError or TypeError when it does not fit the state."""
    for path in delta.get("del", ()):
        *parents, last = path.split(":")
        del _descend(state, parents)[last]
    for path, value in delta["set"].items():
        *parents, last = path.split(":")
        _descend(state, parents)[last] = deepcopy(value)


def _descend(state: State, parents: Iterable[str]) -> State:
    for key in parents:
        state = state[key]
    return state


# ---------------------------------------------------------------------------------------------------- reading

_HEADER = {"scenario": str, "title": str, "kernel": str, "params": dict, "tramp_gva": str, "setup": list}
_ROW = {"op": int, "do": str}
_ESCAPE = re.compile(r"\\[^\"\\/]")
_LONGEST_INTEGER = 20
_LONGEST_NAME = 200
_OP_ROW = {"vcpu": int, "result": dict, "stats": dict, "gptes": list, "events": list}


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording in memory: row n is line n + 2, the first row is op -1."""

    path: Path
    header: Row
    rows: tuple[Row, ...]

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


def _fail(path: Path, line: int, what: str, mend: str) -> NoReturn:
    raise RecordingError(f"{path}:{line}: {shown(what)}; {shown(mend)}")


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
    """An integer of a recording, of 64 bits at most. Raises ValueError."""
    if len(text) > _LONGEST_INTEGER:
        raise ValueError("an integer of more than 64 bits")
    return int(text)


def _first_odd(value: Any) -> str | None:
    """The first character that cannot be shown in the texts of a value, names of members included."""
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
    for key, value in header["params"].items():
        if not isinstance(value, str):
            _fail(path, 1, f"the parameter `{key}` is not a text", "record it again")


def _check_row(path: Path, number: int, row: Any) -> None:
    def malformed(what: str) -> NoReturn:
        _fail(path, number, what, "record it again")

    if not isinstance(row, dict):
        malformed("this line is no object")
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
        malformed("`delta` has a `del` that is no list of paths")


def replay(recording: Recording) -> Iterator[tuple[Row, State]]:
    """Every row with the full state after it; the state is the same object, changed from op to op.

    Raises RecordingError when a delta does not fit the state before it.
    """
    state: State = {}
    for number, row in enumerate(recording.rows, 2):
        try:
            apply_delta(state, row.get("delta", {"set": {}}))
        except (KeyError, TypeError):
            _fail(recording.path, number, "`delta` does not fit the state before it", "record it again")
        yield row, state
