"""Two histories compared op by op, and by what they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

from shadowmmu.show.history.timeline import Moment, Timeline
from shadowmmu.show.html.table import table
from shadowmmu.show.text.changes import change_lines
from shadowmmu.show.text.event_text import event_lines
from shadowmmu.show.text.outcome import outcome_details
from shadowmmu.show.text.summary import SUMMARY, count_op
from shadowmmu.trace.recording import Row

from .pairing import Pairing

__all__ = ["CounterPair", "Difference", "OpPair", "as_json", "compare_timelines"]

_OF_THE_PLAYER = ("io", "IO_INSTRUCTION")
"""Exits of the code that plays the ops, which recordings of some kernels show."""
_LABELS = {name: label for label, name in SUMMARY}


@dataclass(frozen=True, slots=True)
class OpPair:
    """One op on both sides."""

    op: int
    text: str
    rows: tuple[tuple[str, str], ...]
    """Its lines side by side, "" where a side has none."""

    @property
    def equal(self) -> bool:
        """Whether both sides did the same."""
        return all(left == right for left, right in self.rows)


@dataclass(frozen=True, slots=True)
class CounterPair:
    """A total on both sides."""

    name: str
    label: str
    left: int
    right: int

    @property
    def ratio(self) -> float | None:
        """The right one by the left one; None if there is nothing to divide by."""
        return self.right / self.left if self.left else None


@dataclass(frozen=True, slots=True)
class Difference:
    """All ops of two histories, and their totals."""

    left: str
    """What the left side is called."""
    right: str
    ops: tuple[OpPair, ...]
    counters: tuple[CounterPair, ...]
    """Those that are not 0 on both sides, in the order in which people read them."""

    def counter(self, name: str) -> CounterPair:
        """Return a total by its name; both sides are 0 if it was not counted."""
        found = (pair for pair in self.counters if pair.name == name)
        return next(found, CounterPair(name, _LABELS.get(name, name), 0, 0))

    @property
    def differing(self) -> tuple[OpPair, ...]:
        """The ops that are not equal."""
        return tuple(pair for pair in self.ops if not pair.equal)

    def _repr_html_(self) -> str:
        """Return the tables that a notebook shows: the ops that differ side by side, then the totals."""
        rows: list[tuple[str, str, str]] = []
        marked = []
        for pair in self.differing:
            rows.append((f"{pair.op} {pair.text}", "", ""))
            for left, right in pair.rows:
                if left != right:
                    marked.append(len(rows))
                rows.append(("", left, right))
        totals = [(pair.label, f"{pair.left:,}", f"{pair.right:,}") for pair in self.counters]
        unequal = [n for n, pair in enumerate(self.counters) if pair.left != pair.right]
        caption = f"{len(self.differing)} of {len(self.ops)} ops differ"
        return table(caption, ("op", self.left, self.right), rows, marked=marked) + table(
            "Totals", ("", self.left, self.right), totals, marked=unequal
        )


def compare_timelines(left: Timeline, right: Timeline, names: tuple[str, str]) -> Difference:
    """Return the difference of two histories; `names` are what the sides are called."""
    pairing = Pairing()
    ops = []
    totals: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    known: tuple[set[str], set[str]] = (set(), set())
    played = not left.recorded and not right.recorded
    for one, other in zip_longest(left.moments, right.moments):
        state = {} if one is None else one.state
        pairing.follow(state, {} if other is None else other.state)
        left_lines = [] if one is None else list(_lines(one, known[0], stale=played))
        right_lines = [] if other is None else list(_lines(other, known[1], stale=played))
        right_lines = [pairing.in_left_names(line) for line in right_lines]
        moment = one or other
        assert moment is not None
        for side, each in enumerate((one, other)):
            if each is not None and each.result:
                count_op(totals[side], each.result, each.stats, _events(each))
                totals[side]["stale values"] += played and each.stale is not None
        known = (set(state.get("sps", ())), set() if other is None else set(other.state.get("sps", ())))
        if moment.op >= 0:
            ops.append(OpPair(moment.op, moment.text, tuple(_side_by_side(left_lines, right_lines))))
    return Difference(*names, tuple(ops), tuple(_counters(*totals)))


def _events(moment: Moment) -> list[Row]:
    return [event for event in moment.events if event.get("reason") not in _OF_THE_PLAYER]


def _lines(moment: Moment, known: set[str], *, stale: bool) -> Iterator[str]:
    """Yield what an op did, as lines; nothing for the machine before the first."""
    if not moment.result:
        return
    yield " ".join([moment.result["outcome"], *outcome_details(moment.result)])
    if stale and moment.stale is not None:
        yield f"stale: {moment.stale}"
    for done in moment.result.get("meanwhile", ()):
        yield " ".join(["meanwhile", done["do"].strip(), done["outcome"], *outcome_details(done)])
    yield from event_lines(_events(moment))
    yield from change_lines(moment.changes, moment.delta, known)
    for path, parents in moment.delta.get("set", {}).items():
        if path.startswith("sps:") and path.endswith(":parents"):
            yield f"{path.split(':')[1]} has the parents {' '.join(parents) or 'none'}"
    for group, counters in moment.stats.items():
        for name in ("remote_tlb_flush_requests", "tlb_flush"):
            if counters.get(name):
                yield f"{group} {name} +{counters[name]}"


def _side_by_side(left: Sequence[str], right: Sequence[str]) -> Iterator[tuple[str, str]]:
    for _, a, a_end, b, b_end in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        yield from zip_longest(left[a:a_end], right[b:b_end], fillvalue="")


def _counters(left: Counter[str], right: Counter[str]) -> Iterator[CounterPair]:
    first = [name for _, name in SUMMARY]
    outcomes = sorted(name for name in {*left, *right} if name.startswith("outcome "))
    names = dict.fromkeys([*outcomes, *first, *sorted({*left, *right} - {"ops"})])
    for name in names:
        if left[name] or right[name]:
            yield CounterPair(name, _LABELS.get(name, name), left[name], right[name])


def as_json(difference: Difference, verdict: str) -> dict[str, Any]:
    """Return a difference as plain data for JSON."""
    return {
        "left": difference.left,
        "right": difference.right,
        "ops": [
            {"op": pair.op, "do": pair.text, "equal": pair.equal, "rows": [list(row) for row in pair.rows]}
            for pair in difference.ops
        ],
        "counters": {
            pair.name: {"label": pair.label, "left": pair.left, "right": pair.right, "ratio": pair.ratio}
            for pair in difference.counters
        },
        "verdict": verdict,
    }
