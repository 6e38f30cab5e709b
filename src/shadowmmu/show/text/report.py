"""What `run` shows people of a scenario: each op with its result, events and changes, and a summary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .changes import change_lines
from .event_text import event_lines
from .outcome import outcome_details
from .spans import Line, Role, Span, fitting
from .summary import SUMMARY, count_op

if TYPE_CHECKING:
    from shadowmmu.guest.scenario.scenario import Scenario
    from shadowmmu.trace.names import State
    from shadowmmu.trace.recording import Row

__all__ = ["EVERYTHING", "Report", "outcome_spans", "summary_lines"]

_UNNAMED = re.compile(r"pfn\?[0-9a-f]+")


EVERYTHING = frozenset({"events", "changes"})
"""What is shown of an op besides its result."""


class Report:
    """Text and sums of one scenario, row by row."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._state: State = {}
        self._known: set[str] = set()
        self._frames: dict[str, str] = {}
        self._waiting = _waiting(scenario)
        self.totals: Counter[str] = Counter()

    def count(self, row: Row) -> None:
        """Add a row to the totals: `ops`, `outcome X`, statistics, events, and the pages left by level."""
        from shadowmmu.trace.delta import apply_delta

        if "op" not in row:
            return
        self._known = set(self._state.get("sps", ()))
        apply_delta(self._state, row.get("delta", {"set": {}}))
        if "result" not in row:
            return
        for level in range(1, 6):
            left = sum(sp["level"] == level for sp in self._state["sps"].values())
            self.totals[f"level {level}"] = left
        count_op(self.totals, row["result"], row["stats"], row["events"])
        for event in row["events"]:
            self._frames.update(_frame_of(event))

    def lines(self, row: Row, stale: str | None = None, only: frozenset[str] = EVERYTHING) -> list[Line]:
        """Return what a reader should see of a row, after it was counted; `stale`: why its value is."""
        if "op" not in row:
            scenario = self._scenario
            title = f"{scenario.name}: {scenario.title} ({_modes_line(scenario.modes)})"
            return [(Span(title, "title"),)]
        if "result" not in row:
            kvm = self._state["kvm"]
            count = len(self._state["vcpus"])
            vcpus = "1 vCPU" if count == 1 else f"{count} vCPUs"
            return [(Span(f"      started: {vcpus}, at most {kvm['max']} shadow pages"),)]
        head = Span(f"{row['op']:5} "), Span(row["do"].strip(), "op"), Span("  ")
        lines: list[Line] = [(*head, *outcome_spans(row["result"]))]
        if stale is not None:
            lines.append((Span("      "), Span("stale", "warning"), Span(f": {stale}")))
        if "events" in only:
            lines += ((Span(f"        {line}"),) for line in event_lines(row["events"]))
        lines += ((Span("      "), *line) for line in self._meanwhile(row))
        if "changes" in only:
            changes = change_lines(row["gptes"], row.get("delta", {}), self._known)
            lines += ((Span("      "), Span(line, "change")) for line in changes)
        return [self._named(part) for line in lines for part in fitting(line, 6)]

    def _named(self, line: Line) -> Line:
        """Return a line in which frames that backed a page only for a moment have the page's name."""
        return tuple(
            Span(_UNNAMED.sub(lambda match: self._frames.get(match[0], match[0]), span.text), span.role)
            for span in line
        )

    def _meanwhile(self, row: Row) -> Iterator[Line]:
        """Yield what others did in the middle of the op, and what they would have done had it let them."""
        left = Counter(self._waiting.get(row["op"], ()))
        for done in row["result"].get("meanwhile", ()):
            yield Span(f"meanwhile {done['do'].strip()}  "), *outcome_spans(done)
            left[done["do"].strip()] -= 1
        for text in (+left).elements():
            yield (Span(f"meanwhile {text}  not played: the op does not let others run so often"),)


def _waiting(scenario: Scenario) -> dict[int, list[str]]:
    """Return the ops that are to be played in the middle of others, by the number of those."""
    from shadowmmu.guest.scenario.ops import UNRECORDED, Meanwhile

    number = 0
    found: dict[int, list[str]] = {}
    for op in scenario.ops:
        if isinstance(op, Meanwhile):
            found.setdefault(number, []).append(op.op.text.strip())
        number += not isinstance(op, UNRECORDED)
    return found


def _frame_of(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of a frame that backed a guest page only in the middle of an op."""
    text = str(event.get("pfn") or event.get("spte") or "")
    match = _UNNAMED.match(text)
    if match and "gfn" in event:
        yield match[0], f"gpa:{int(event['gfn'], 16) << 12:x}"


def _modes_line(modes: Sequence[str]) -> str:
    """Return the paging mode, or modes in the order of the vCPUs if they differ."""
    return f"mode {modes[0]}" if len(set(modes)) == 1 else f"modes {', '.join(modes)}"


def outcome_spans(result: Mapping[str, Any]) -> Line:
    """Return an op's result in a few words, with a role by its kind."""
    outcome = result["outcome"]
    roles: dict[str, Role] = {"ok": "good", "exception": "warning", "vmexit": "warning"}
    details = "".join(f" {word}" for word in outcome_details(result))
    return Span(outcome, roles.get(outcome, "bad")), Span(details)


def summary_lines(name: str, totals: Mapping[str, int]) -> list[Line]:
    """Return the totals of a scenario, those that are not zero, one a line, and an empty line."""
    outcomes = ", ".join(f"{n} {key[8:]}" for key, n in sorted(totals.items()) if key.startswith("outcome "))
    lines: list[Line] = [(Span(f"{name}: {totals.get('ops', 0)} ops ({outcomes})", "title"),)]
    lines += ((Span(f"  {label:<30}{totals[key]:>8}"),) for label, key in SUMMARY if totals.get(key))
    left = [f"{totals[key]} of {key}" for key in (f"level {n}" for n in range(5, 0, -1)) if totals.get(key)]
    pages = sum(totals.get(f"level {n}", 0) for n in range(6))
    lines.append((Span(f"  {'shadow pages left':<30}{pages:>8}  ({', '.join(left) or 'none'})"),))
    return [*lines, ()]
