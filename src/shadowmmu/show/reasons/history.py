"""Reasons of a scenario or a recording: its history, and all changes with their causes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.show.history.timeline import Moment, Timeline, recorded_timeline, timeline_of_rows
from shadowmmu.show.reasons.change import Cause, Change
from shadowmmu.show.reasons.record import recorded_reasons
from shadowmmu.trace.compare import comparable
from shadowmmu.trace.recording import Recording, Row

__all__ = ["UNEXPLAINED", "Reasons", "reasons_of", "reasons_of_recording"]

UNEXPLAINED = Cause("", "recorded; the model does not explain it")
_MAPPED = re.compile(r"gpa:([0-9a-f]+)\|")


@dataclass(frozen=True, slots=True)
class Reasons:
    """All changes of a history, oldest first, each with its causes."""

    timeline: Timeline
    changes: Sequence[Change]
    needed: Sequence[bool] = ()
    """Of each flush request to all vCPUs, oldest first, whether it was needed; empty if not asked for."""
    unexplained: Sequence[int] = ()
    """Ops of a recording whose state the model does not have after them: their changes have no causes."""

    def before(self, op: int) -> Reasons:
        """Return what happened up to an op and in it."""
        return replace(self, changes=[change for change in self.changes if change.op <= op])

    def of_entry(self, table: str, index: int) -> list[Change]:
        """Return the changes of an SPTE, `S7`, 3, newest first."""
        return self._newest(lambda change: change.subject == f"{table}[{index}]")

    def of_page(self, name: str) -> list[Change]:
        """Return what became of a shadow page and its SPTEs, newest first."""
        return self._newest(lambda change: change.subject.partition("[")[0] == name)

    def of_root(self, vcpu: int, *, l2: bool = False) -> list[Change]:
        """Return the changes of a vCPU's root, newest first."""
        subject = f"vCPU {vcpu}{' for L2' if l2 else ''}"
        return self._newest(lambda change: change.kind == "root" and change.subject == subject)

    def of_gfn(self, gfn: int) -> list[Change]:
        """Return the changes of SPTEs that mapped a guest frame and of pages that shadow it, newest first."""
        pages = {
            name: page
            for moment in self.timeline.moments
            for name, page in moment.state.get("sps", {}).items()
        }

        def concerns(change: Change) -> bool:
            name = change.subject.partition("[")[0]
            page = pages.get(name)
            if change.kind in ("page", "zap"):
                return page is not None and not page.get("direct") and int(page["gfn"], 16) == gfn
            if change.kind != "spte":
                return False
            frames = 1 << 9 * ((page["level"] if page else 1) - 1)
            found = (_MAPPED.match(value) for value in (change.old, change.new))
            return any(m is not None and 0 <= gfn - (int(m[1], 16) >> 12) < frames for m in found)

        return self._newest(concerns)

    def of_guest_entry(self, gpa: int) -> list[tuple[Moment, str, str]]:
        """Return when a guest's page-table entry changed, its old and new value, newest first."""
        return [
            (moment, old, new)
            for moment in reversed(self.timeline.moments)
            for at, old, new in moment.changes
            if int(at, 16) == gpa
        ]

    def zaps(self) -> list[Change]:
        """Return the zaps, newest first: pages marked invalid, and tables of the TDP MMU that are freed."""
        zapped = {change.subject for change in self.changes if change.kind == "zap"}
        return self._newest(
            lambda change: change.kind == "zap" or (change.new == "freed" and change.subject not in zapped)
        )

    def flushes(self) -> list[Change]:
        """Return the flush requests, newest first."""
        return self._newest(lambda change: change.kind == "flush")

    def flush_causes(self) -> Counter[tuple[str, str]]:
        """Return the number of flush requests by (function, whom it concerns: all vCPUs, one vCPU)."""
        return Counter(
            (change.mechanism.function, "all vCPUs" if change.subject == "all vCPUs" else "one vCPU")
            for change in self.flushes()
        )

    def _newest(self, wanted: Any) -> list[Change]:
        return [change for change in reversed(self.changes) if wanted(change)]


def reasons_of(scenario: Scenario, *, tlb: bool = False, judged: bool = False) -> Reasons:
    """Play a scenario and return its reasons. Raises NotPlayed, ScenarioError, DesignError."""
    played = recorded_reasons(scenario, tlb=tlb, judged=judged)
    return Reasons(timeline_of_rows(scenario, played.rows), played.changes, played.needed)


def reasons_of_recording(recording: Recording) -> Reasons:
    """Return the reasons of a recording of real KVM: those of the model, where its op leaves the same state.

    Raises NotPlayed, ScenarioError, RecordingError, DesignError.
    """
    timeline = recorded_timeline(recording)
    played = recorded_reasons(rebuild_scenario(recording))
    rows = [row for row, _ in played.rows[1:]]
    differing = [
        row["op"]
        for number, row in enumerate(recording.rows)
        if number >= len(rows) or not _same(row, rows[number])
    ]
    explained = [change for change in played.changes if change.op not in differing]
    unknown = [change for moment in timeline.moments if moment.op in differing for change in _bare(moment)]
    return Reasons(timeline, sorted([*explained, *unknown], key=lambda change: change.op), (), differing)


def _same(recorded: Row, played: Row) -> bool:
    """Return whether the model's op has the same effect on the MMU as the recorded one."""
    return all(comparable(recorded, part) == comparable(played, part) for part in ("state", "stats"))


def _bare(moment: Moment) -> Iterator[Change]:
    """Yield the changes of SPTEs and pages that a recording shows of an op, without their causes."""
    for path in moment.delta.get("del", ()):
        kind, name, *rest = path.split(":")
        if kind == "sps" and not rest:
            yield Change(moment.op, "page", name, "", "freed", "freed", (UNEXPLAINED,))
        elif kind == "sps" and rest[0] == "sptes":
            yield Change(moment.op, "spte", f"{name}[{rest[1]}]", "?", "none", "removed", (UNEXPLAINED,))
    for path, value in moment.delta["set"].items():
        kind, *rest = path.split(":")
        if kind == "sps" and len(rest) == 1:
            yield Change(moment.op, "page", rest[0], "", "made", "made", (UNEXPLAINED,))
        if kind == "sps" and (len(rest) == 1 or rest[1] == "sptes"):
            entries = value["sptes"] if len(rest) == 1 else {rest[2]: value} if len(rest) > 2 else value
            for index, text in entries.items():
                yield Change(
                    moment.op, "spte", f"{rest[0]}[{index}]", "?", text, f"became {text}", (UNEXPLAINED,)
                )
