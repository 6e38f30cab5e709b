"""Counts by cause as tables: processes, then what faults, syncs, gets out of sync and is zapped most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from shadowmmu.guest.observe.counts import PAGES, Counts
from shadowmmu.guest.observe.running import Running, Who

__all__ = ["process_lines", "top_data", "top_lines"]

_COLUMNS = ("exits", "faults", *PAGES.values())
_PAGE_TITLES = {
    "syncs": "unsync pages synced, by process and cause",
    "unsync": "pages that got out of sync, by process and cause",
    "zaps": "shadow pages zapped, by process and cause",
}


def process_lines(running: Running) -> Iterator[str]:
    """Yield the processes that ran and their CR3s: nothing for a bare machine."""
    processes = running.processes
    if not processes:
        return
    yield "  processes:"
    for who, loads in processes:
        yield f"    {who!s:<22} CR3 {who.cr3:#x}, loaded {_times(loads)}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def _by_process(counts: Counts) -> dict[Who, dict[str, int]]:
    """Return each process's counts under its last name, most syncs first, then most faults."""
    names = {(who.pid, who.cr3): who for who, _ in counts.running.processes}
    found: dict[Who, dict[str, int]] = {}
    counters: dict[str, Counter[Any]] = {"exits": counts.exits, "faults": counts.faults, **counts.pages}
    for column, counter in counters.items():
        for key, number in counter.items():
            who = names.get((key[0].pid, key[0].cr3), key[0])
            row = found.setdefault(who, dict.fromkeys(_COLUMNS, 0))
            row[column] += number
    return dict(sorted(found.items(), key=lambda item: (-item[1]["syncs"], -item[1]["faults"])))


def _tables(counts: Counts) -> Iterator[tuple[str, Counter[Any]]]:
    yield "page faults, by process, access and outcome", counts.faults
    yield "page faults, by process and instruction", counts.by_rip
    yield "page faults, by process and address", counts.by_region
    yield "exits, by process and reason", counts.exits
    for what, counter in counts.pages.items():
        yield _PAGE_TITLES[what], counter


def top_lines(counts: Counts, most: int) -> Iterator[str]:
    """Yield the tables for people, `most` rows each."""
    rows = _by_process(counts)
    yield f"{'process':<22} {'CR3':>10}" + "".join(f" {column:>9}" for column in _COLUMNS)
    for who, row in list(rows.items())[:most]:
        name = str(who) if who.pid else "-"
        yield f"{name:<22} {who.cr3:>#10x}" + "".join(f" {row[column]:>9,}" for column in _COLUMNS)
    yield from _rest(len(rows), most)
    for title, counter in _tables(counts):
        if counter:
            yield ""
            yield f"{title} ({counter.total():,}):"
            for key, number in counter.most_common(most):
                yield f"  {number:>9,}  {', '.join(map(str, key))}"
            yield from _rest(len(counter), most)


def _rest(number: int, most: int) -> Iterator[str]:
    if number > most:
        yield f"             ... and {number - most:,} more"


def top_data(counts: Counts, most: int) -> dict[str, Any]:
    """Return the same as plain data."""
    rows = _by_process(counts)
    tables = {
        title: [[*_plain(key), number] for key, number in counter.most_common(most)]
        for title, counter in _tables(counts)
    }
    return {"processes": [{**who._asdict(), **row} for who, row in list(rows.items())[:most]], **tables}


def _plain(key: Sequence[Any]) -> list[Any]:
    return [str(part) for part in key]
