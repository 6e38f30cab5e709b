"""What `run` shows people of a scenario: each op with its result, events and changes, and a summary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from shadowmmu.show.text.changes import change_lines
from shadowmmu.show.text.event_text import event_lines
from shadowmmu.show.text.outcome import outcome_details
from shadowmmu.show.text.runs import fitting
from shadowmmu.show.text.summary import SUMMARY, count_op

if TYPE_CHECKING:
    from shadowmmu.guest.scenario.scenario import Scenario
    from shadowmmu.trace.names import State
    from shadowmmu.trace.recording import Row

__all__ = ["Report", "Shown", "outcome_line", "summary"]

_UNNAMED = re.compile(r"pfn\?[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Shown:
    """What of a scenario is shown."""

    only: frozenset[str] = frozenset({"events", "changes"})
    """What of an op besides its result: events, changes."""
    first: int | None = None
    last: int | None = None
    quiet: bool = False

    def has(self, row: Row) -> bool:
        """Return whether a row is shown; the head of a scenario is, unless only totals are."""
        if self.quiet:
            return False
        number = row.get("op", -1)
        if number < 0:
            return True
        return (self.first is None or number >= self.first) and (self.last is None or number <= self.last)


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

    def text(self, row: Row, stale: str | None = None, only: frozenset[str] = Shown().only) -> str:
        """Return what a reader should see of a row, after it was counted; `stale`: why its value is."""
        if "op" not in row:
            scenario = self._scenario
            return click.style(
                f"{scenario.name}: {scenario.title} ({_modes_line(scenario.modes)})", bold=True
            )
        if "result" not in row:
            kvm = self._state["kvm"]
            count = len(self._state["vcpus"])
            vcpus = "1 vCPU" if count == 1 else f"{count} vCPUs"
            return f"      started: {vcpus}, at most {kvm['max']} shadow pages"
        head = f"{row['op']:5} {click.style(row['do'].strip(), bold=True)}"
        lines = [f"{head}  {outcome_line(row['result'])}"]
        if stale is not None:
            lines.append(f"      {click.style('stale', fg='yellow')}: {stale}")
        if "events" in only:
            lines += (f"        {line}" for line in event_lines(row["events"]))
        lines += (f"      {line}" for line in self._meanwhile(row))
        if "changes" in only:
            lines += (
                f"      {click.style(line, fg='cyan')}"
                for line in change_lines(row["gptes"], row.get("delta", {}), self._known)
            )
        text = "\n".join(fitting(line, 6) for line in lines)
        return _UNNAMED.sub(lambda match: self._frames.get(match[0], match[0]), text)

    def _meanwhile(self, row: Row) -> Iterator[str]:
        """Yield what others did in the middle of the op, and what they would have done had it let them."""
        left = Counter(self._waiting.get(row["op"], ()))
        for done in row["result"].get("meanwhile", ()):
            yield f"meanwhile {done['do'].strip()}  {outcome_line(done)}"
            left[done["do"].strip()] -= 1
        for text in (+left).elements():
            yield f"meanwhile {text}  not played: the op does not let others run so often"


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


def outcome_line(result: Mapping[str, Any]) -> str:
    """Return an op's result in a few words, coloured by its kind."""
    outcome = result["outcome"]
    colour = {"ok": "green", "exception": "yellow", "vmexit": "yellow"}.get(outcome, "red")
    return " ".join([click.style(outcome, fg=colour), *outcome_details(result)])


def summary(name: str, totals: Mapping[str, int]) -> str:
    """Return the totals of a scenario, those that are not zero, one a line."""
    outcomes = ", ".join(f"{n} {key[8:]}" for key, n in sorted(totals.items()) if key.startswith("outcome "))
    lines = [click.style(f"{name}: {totals.get('ops', 0)} ops ({outcomes})", bold=True)]
    lines += (f"  {label:<30}{totals[key]:>8}" for label, key in SUMMARY if totals.get(key))
    left = [f"{totals[key]} of {key}" for key in (f"level {n}" for n in range(5, 0, -1)) if totals.get(key)]
    lines.append(
        f"  {'shadow pages left':<30}{sum(totals.get(f'level {n}', 0) for n in range(6)):>8}"
        f"  ({', '.join(left) or 'none'})"
    )
    return "\n".join([*lines, ""])
