"""The numbers of a study as text, and as rows for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .counters import COUNTERS
from .words import span

if TYPE_CHECKING:
    from .results import Results

__all__ = ["TIMES", "as_csv", "as_rows", "heading", "meaning", "shown", "with_interval"]

TIMES = {"seconds": "MMU time", "longest_hold": "longest hold", "hold_p99": "hold, p99"}
_HEADINGS = {
    "sptes_made": "SPTEs made",
    "sptes_zapped": "SPTEs zapped",
    "unused": "never used",
    "walk_loads": "entries walked",
    "remote_flushes": "flushes of all",
    "local_flushes": "flushes of one",
    "emulated_stores": "emulated stores",
    "shadow_pages_made": "pages made",
    "shadow_pages_zapped": "pages zapped",
    "shadow_pages": "shadow pages",
    "guest_exceptions": "guest faults",
}


def heading(counter: str) -> str:
    """Return the heading of a counter's column."""
    return TIMES.get(counter) or _HEADINGS.get(counter, counter.replace("_", " "))


def shown(counter: str, value: float) -> str:
    """Return a counter's value for people."""
    return span(value) if counter in TIMES else f"{value:,.0f}"


def with_interval(counter: str, value: float, half_width: float | None) -> str:
    """Return a counter's mean for people, with its 95 % confidence interval if there is one: "512 ± 3"."""
    mean = shown(counter, value)
    return mean if half_width is None else f"{mean} \N{PLUS-MINUS SIGN} {shown(counter, half_width)}"


def meaning(counter: str) -> str:
    """Return what a column's numbers are, in a line."""
    times = {
        "seconds": "Estimated time of the MMU's work, by the costs; the guest's own work is not in it",
        "longest_hold": "Longest hold of mmu_lock, by the costs of what is zapped in it",
        "hold_p99": "99 percent of the holds of mmu_lock are no longer",
    }
    return times.get(counter) or COUNTERS[counter]


def as_rows(results: Results) -> Iterator[dict[str, Any]]:
    """Return a flat row for each measurement, with the study's labels first."""
    for case, alternative, measured in results:
        yield {
            "study": results.study.name,
            "case": case.label,
            "alternative": alternative.label,
            **measured.as_row(),
        }


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header; a row's missing columns are empty."""
    listed = list(rows)
    names = list(dict.fromkeys(name for row in listed for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return text.getvalue()
