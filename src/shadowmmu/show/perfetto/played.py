"""Timelines of scenarios that are played and of programs that run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from shadowmmu.guest.play.player import OpResult, Player
from shadowmmu.guest.scenario import ops as kinds
from shadowmmu.kvm.state.vm import Kvm

from .timeline import Timeline
from .trace_file import TraceFile

__all__ = ["ScenarioTimelines", "program_timeline"]

_PROCESSES = 2


class ScenarioTimelines:
    """The timelines of scenarios that are played one after the other, in one file."""

    def __init__(self, file: TraceFile) -> None:
        self._file = file
        self._first = 1
        self._now = 0

    def play(self, player: Player, name: str, ops: Iterable[kinds.Op]) -> Iterator[OpResult]:
        """Carry out ops as Player.play does, and write their timeline."""
        timeline = Timeline(player.kvm, self._file, name, first=self._first, start=self._now)

        def meanwhile(op: kinds.Op, result: Mapping[str, Any] | None) -> None:
            if result is None:
                _begin(timeline, op)
            else:
                timeline.end(result)

        player.on_meanwhile.append(meanwhile)
        with player.kvm.tracer.listening(timeline):
            for op in ops:
                recorded = not isinstance(op, kinds.UNRECORDED)
                if recorded:
                    _begin(timeline, op)
                for played in player.play([op]):
                    timeline.end(played.result)
                    yield played
            timeline.finish()
        self._first += _PROCESSES
        self._now = timeline.now


def _begin(timeline: Timeline, op: kinds.Op) -> None:
    timeline.begin(" ".join(op.text.split()), op.vcpu, of_guest=isinstance(op, kinds.GUEST_OPS))


@contextmanager
def program_timeline(kvm: Kvm, file: TraceFile, name: str) -> Iterator[None]:
    """Write the timeline of what a VM does in the block; each exit begins a new stretch."""
    timeline = Timeline(kvm, file, name)
    with kvm.tracer.listening(timeline):
        yield
    timeline.finish()
