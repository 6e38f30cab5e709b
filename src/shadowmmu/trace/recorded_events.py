"""Events as recordings hold them: with names for host addresses (trace.names), and back.

What a recording has of an event stands in its declaration, `Event.recorded`: `text` for the kernel's text, as
`t`; `page` for the state of a shadow page; or members, `KEY=FIELD:FORMAT`, where FIELD is by default KEY and
FORMAT is by default that of the field's kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from shadowmmu.kvm.tracepoints.event import Event, Tracepoint
from shadowmmu.kvm.tracepoints.exits import Exit
from shadowmmu.kvm.tracepoints.host import AgeHva, TestAgeHva
from shadowmmu.kvm.tracepoints.mmu import (
    GetPage,
    PageEvent,
    PagetableWalk,
    PagingElement,
    TdpMmuSpteChanged,
    WalkerError,
)
from shadowmmu.kvm.tracepoints.reasons import pferr_flags, pferr_of
from shadowmmu.kvm.tracepoints.tracer import TRACEPOINTS
from shadowmmu.trace.names import Names

__all__ = ["RECORDED", "Places", "entries_of", "events_of"]

Entry = dict[str, Any]
"""An event of a recording."""

RECORDED = frozenset(name for name, tracepoint in TRACEPOINTS.items() if tracepoint.event.recorded)
"""Tracepoints that the lab records, whatever the kernel: what a recording can hold whose header does not say.

The lab leaves out what depends on the host's timing or on its guest's code.
"""

_NOT_RECORDED_EXITS = {"interrupt", "nmi", "io", "vintr", "IO_INSTRUCTION"}
_EMPTY_SPTES = (0, 1 << 63)
_MMU_PRESENT = 1 << 11
_GPA = re.compile(r"gpa:(\w+)")


class Places(Protocol):
    """Knows the addresses that the names of a recording stand for."""

    def pfn(self, name: str) -> int:
        """Return host frame."""
        ...

    def spte(self, name: str) -> int:
        """Return value of an SPTE."""
        ...

    def sptep(self, name: str) -> int:
        """Return physical address of an SPTE."""
        ...

    def hva(self, name: str) -> int:
        """Return host virtual address."""
        ...


class _Format(NamedTuple):
    """How a member is written and read."""

    write: Callable[[Names, Event, Any], Any]
    read: Callable[[Places, Any], Any]


def _hex(value: str) -> int:
    return int(value, 16)


def _plain(write: Callable[[Any], Any], read: Callable[[Any], Any]) -> _Format:
    """Return a format that needs no names."""
    return _Format(lambda names, event, value: write(value), lambda places, value: read(value))


_FORMATS = {
    "int": _plain(int, int),
    "str": _plain(str, str),
    "#x": _plain(lambda value: f"{value:#x}", _hex),
    "pferr": _plain(pferr_flags, pferr_of),
    **dict.fromkeys(("Word", "Gpa", "Gva", "Gfn"), _plain(lambda value: f"{value:x}", _hex)),
    "Pfn": _Format(lambda names, event, pfn: names.pfn(pfn), lambda places, name: places.pfn(name)),
    "Sptep": _Format(lambda names, event, at: names.pointer(at), lambda places, name: places.sptep(name)),
    "Hva": _Format(lambda names, event, hva: names.hva(hva), lambda places, name: places.hva(name)),
    "Spte": _Format(lambda names, event, spte: names.spte(spte), lambda places, name: places.spte(name)),
    "LeafSpte": _Format(
        lambda names, event, spte: names.spte(spte, leaf=True), lambda places, name: places.spte(name)
    ),
    "TdpSpte": _Format(
        lambda names, event, spte: names.spte(spte, leaf=event.level == 1),  # type: ignore[attr-defined]
        lambda places, name: places.spte(name),
    ),
}

_members: dict[type[Event], list[tuple[str, str, _Format]]] = {}


def _members_of(kind: type[Event]) -> list[tuple[str, str, _Format]]:
    """Return key, field and format of each member."""
    if kind not in _members:
        split = (re.fullmatch(r"(\w+)(?:=(\w+))?(?::(\S+))?", member) for member in kind.recorded.split())
        parts = [(match[1], match[2] or match[1], match[3]) for match in split if match is not None]
        _members[kind] = [
            (key, field, _FORMATS[form or kind.fields.get(field, "str")]) for key, field, form in parts
        ]
    return _members[kind]


# ---------------------------------------------------------------------------------------------------- writing


def entries_of(
    names: Names, fired: Iterable[Event], code: Iterable[tuple[int, int]], *, strings: bool
) -> list[Entry]:
    """Return what a recording has of the events of an op.

    code: (address, bytes) of the player's own guest code; walks that only fetch it are marked with `tramp`.
    strings: False if the kernel's texts have lost their strings; then no exit can be left out.
    """
    kept = (
        event
        for event in fired
        if event.recorded and not _is_freezing(event) and not (strings and _is_unrecorded_exit(event))
    )
    shown = (_entry_of(names, event) for event in kept)
    entries = _collapsed([entry for entry in shown if not _is_of_other_memory(entry)])
    places = list(code)
    tramp = False
    for entry in entries:
        if entry["e"] == PagetableWalk.name:
            addr = int(entry["addr"], 16)
            tramp = any(first <= addr < first + size for first, size in places)
        elif entry["e"] not in (PagingElement.name, WalkerError.name):
            tramp = False
        if tramp:
            entry["tramp"] = True
    return entries


def _is_unrecorded_exit(event: Event) -> bool:
    return isinstance(event, Exit) and event.reason_name in _NOT_RECORDED_EXITS


def _is_freezing(event: Event) -> bool:
    """Return whether an entry of a removed table that mapped nothing is frozen: there are 512 of them."""
    if not isinstance(event, TdpMmuSpteChanged):
        return False
    return event.old_spte in _EMPTY_SPTES and not event.new_spte & _MMU_PRESENT


def _entry_of(names: Names, event: Event) -> Entry:
    entry: Entry = {"e": event.name}
    if isinstance(event, PageEvent):
        _describe_page(entry, event)
    elif event.recorded == "text":
        entry["t"] = event.text().strip()
    else:
        for key, field, form in _members_of(type(event)):
            entry[key] = form.write(names, event, getattr(event, field))
    if event.task:
        entry["task"] = event.task
    return entry


def _describe_page(entry: Entry, event: PageEvent) -> None:
    entry["gen"] = event.mmu_valid_gen
    entry["gfn"] = f"{event.gfn:x}"
    entry["level"] = event.level
    if event.has_4_byte_gpte:
        entry["4byte"] = 1
    if event.has_4_byte_gpte or event.quadrant:
        entry["q"] = event.quadrant
    if event.direct:
        entry["direct"] = 1
    entry["access"] = event.access
    if event.invalid:
        entry["invalid"] = 1
    if not event.efer_nx:
        entry["nxe"] = 0
    if event.ad_disabled:
        entry["ad"] = 0
    entry["root"] = event.root_count
    entry["sync"] = "unsync" if event.unsync else "sync"
    if isinstance(event, GetPage):
        entry["created"] = bool(event.created)


def _collapsed(entries: list[Entry]) -> list[Entry]:
    """Yield runs of the same change of SPTEs to consecutive pages as one event with `n`, their number.

    So are runs of adjacent ranges that are aged.
    """
    rows: list[Entry] = []
    for entry in entries:
        if rows and _is_adjacent(rows[-1], entry):
            rows[-1]["end"] = entry["end"]
            rows[-1]["n"] = rows[-1].get("n", 1) + 1
        elif rows and _continues(rows[-1], entry):
            rows[-1]["n"] = rows[-1].get("n", 1) + 1
        else:
            rows.append(entry)
    return rows


def _is_of_other_memory(entry: Entry) -> bool:
    """Return whether the host asked about memory that no slot has any more: recordings leave that out."""
    asked = entry["e"] in (AgeHva.name, TestAgeHva.name)
    return asked and str(entry.get("start", entry.get("hva"))).startswith("hva?")


def _is_adjacent(run: Entry, entry: Entry) -> bool:
    return run["e"] == entry["e"] == AgeHva.name and bool(run["end"] == entry["start"])


def _continues(run: Entry, entry: Entry) -> bool:
    if not run["e"] == entry["e"] == TdpMmuSpteChanged.name or run["level"] != entry["level"]:
        return False
    distance = int(entry["gfn"], 16) - int(run["gfn"], 16) << 12
    if distance != run.get("n", 1) << 12 + 9 * (run["level"] - 1):
        return False
    return all(_moved(run[key], distance) == entry[key] for key in ("old", "new"))


def _moved(name: str, distance: int) -> str:
    """Return the name of an SPTE that maps memory `distance` bytes further on."""
    return _GPA.sub(lambda match: f"gpa:{int(match[1], 16) + distance:x}", name)


# ---------------------------------------------------------------------------------------------------- reading


def events_of(entry: Mapping[str, Any], places: Places) -> Iterator[Event]:
    """Return the events that an entry stands for: `n` of them if it is a run.

    What recordings do not have of an event is 0. Raises KeyError if it does not name a tracepoint, or a
    member is missing, ValueError for a text that the tracepoint does not have.
    """
    for number in range(entry.get("n", 1)):
        event = _event_of(_one_of(entry, number) if number else entry, places)
        if isinstance(event, AgeHva):
            event = _range_of(event, number, entry.get("n", 1))
        yield event.by(entry["task"]) if "task" in entry else event


def _range_of(run: AgeHva, number: int, ranges: int) -> AgeHva:
    """Return one of adjacent ranges that are aged; recordings do not say how large each
    is, here all are equal.
    """
    size = (run.end - run.start) // ranges
    return AgeHva(run.start + number * size, run.start + (number + 1) * size)


def _one_of(run: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """Return the entry of a change of SPTEs so many after the first of a run."""
    if run["e"] == AgeHva.name:
        return run
    pages = number << 9 * (run["level"] - 1)
    names = {key: _moved(run[key], pages << 12) for key in ("old", "new")}
    return {**run, **names, "gfn": f"{int(run['gfn'], 16) + pages:x}"}


def _event_of(entry: Mapping[str, Any], places: Places) -> Event:
    kind = _form_of(TRACEPOINTS[entry["e"]], entry)
    if kind.recorded == "text":
        return kind.from_text(entry["t"])
    if issubclass(kind, PageEvent):
        return kind.assemble(_page_of(entry))
    unknown = {field: 0 for field in kind.fields if field not in kind.defaults}
    known = {field: form.read(places, entry[key]) for key, field, form in _members_of(kind)}
    return kind.assemble({**unknown, **known})


def _form_of(tracepoint: Tracepoint[Any], entry: Mapping[str, Any]) -> type[Event]:
    """Return the class of the event that shows as much as the entry has."""
    for kind in reversed(tracepoint.forms):
        if issubclass(kind, PageEvent):
            if len(kind.layout.letters(0)) == len(entry["access"]):
                return kind
        elif all(key in entry for key, _, _ in _members_of(kind)):
            return kind
    return tracepoint.event


def _page_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "mmu_valid_gen": entry["gen"],
        "gfn": int(entry["gfn"], 16),
        "level": entry["level"],
        "has_4_byte_gpte": entry.get("4byte", 0),
        "quadrant": entry.get("q", 0),
        "direct": entry.get("direct", 0),
        "access": entry["access"],
        "invalid": entry.get("invalid", 0),
        "efer_nx": entry.get("nxe", 1),
        "ad_disabled": not entry.get("ad", 1),
        "root_count": entry["root"],
        "unsync": int(entry["sync"] == "unsync"),
        "created": int(entry.get("created", 0)),
    }
