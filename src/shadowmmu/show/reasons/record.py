"""Recording reasons: a play in which every change is noted with the kernel functions that led to it.

The functions of the model have the kernel's names, so the call stack at a change is its cause. It can be read
only where the model is interpreted: `recorded_reasons` plays the scenario in a process of its own
(SHADOWMMU_INTERPRETED=1), in which some objects of the VM report what is done to them. The compiled model
and any other play have no part in it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shadowmmu.show.reasons.change import Change

if TYPE_CHECKING:
    from shadowmmu.guest.scenario.scenario import Scenario
    from shadowmmu.trace.recording import Row

__all__ = ["NotPlayed", "PlayedReasons", "flushes_needed", "main", "play_with_reasons", "recorded_reasons"]


class NotPlayed(ValueError):
    """The scenario could not be played."""


@dataclass(frozen=True, slots=True)
class PlayedReasons:
    """What the process that played sends back."""

    rows: Sequence[tuple[Row, str | None]]
    """Lines of a recording, header first, each with why a read is stale."""
    changes: Sequence[Change]
    needed: Sequence[bool] = ()
    """Of each flush request to all vCPUs, in order, whether it was needed; empty if that was not asked."""


def recorded_reasons(scenario: Scenario, *, tlb: bool = False, judged: bool = False) -> PlayedReasons:
    """Play a scenario, interpreted, in another process; `judged`: say which flushes were needed.

    Raises NotPlayed.
    """
    environment = {**os.environ, "SHADOWMMU_INTERPRETED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment.pop("SHADOWMMU_REQUIRE_NATIVE", None)
    code = "from shadowmmu.show.reasons.record import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((scenario, tlb, judged)),
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
    )
    answer = pickle.loads(done.stdout)
    if isinstance(answer, str):
        raise NotPlayed(answer)
    return PlayedReasons(*answer)


def flushes_needed(scenario: Scenario, requests: int) -> list[bool]:
    """Return of each flush request to all vCPUs whether it is needed.

    The scenario is played again without that request, with a TLB that keeps translations: it is needed if
    coherence (check.coherence) then finds a translation usable that may not be. In this process, which must
    be interpreted.
    """
    from shadowmmu.check.checker import play_checked
    from shadowmmu.check.coherence.whole import Coherence
    from shadowmmu.guest.play.player import Player
    from shadowmmu.guest.scenario.setup import resolve
    from shadowmmu.show.reasons.watch import Watch
    from shadowmmu.trace.names import Names

    found = []
    for number in range(requests):
        player = Player(resolve(scenario), None, lambda machine: {}, tlb=True)
        Watch(player.kvm, Names(player.areas)).drop = number
        played = play_checked(player, scenario.ops, [Coherence(player)])
        found.append(any(violations for _, _, violations in played))
    return found


def main() -> None:
    """Play the scenario on standard input and write what came out to standard output, both pickled."""
    from shadowmmu.guest.scenario.setup import ScenarioError
    from shadowmmu.kvm.design.switches import DesignError

    scenario, tlb, judged = pickle.load(sys.stdin.buffer)
    try:
        played = play_with_reasons(scenario, tlb=tlb)
        requests = sum(change.subject == "all vCPUs" for change in played.changes)
        needed = flushes_needed(scenario, requests) if judged else []
        answer: object = (played.rows, played.changes, needed)
    except (ScenarioError, DesignError) as error:
        answer = str(error)
    sys.stdout.buffer.write(pickle.dumps(answer))


def play_with_reasons(scenario: Scenario, *, tlb: bool = False) -> PlayedReasons:
    """Play a scenario in this process, which must be interpreted. Raises ScenarioError, DesignError."""
    from shadowmmu.check.coherence.stale import StaleReads
    from shadowmmu.guest.play.player import Player
    from shadowmmu.guest.scenario.setup import resolve
    from shadowmmu.kvm.tracepoints.tracer import EventLog
    from shadowmmu.show.reasons.watch import Watch
    from shadowmmu.trace.recorder import Recorder
    from shadowmmu.trace.snapshot import snapshot

    player = Player(resolve(scenario), EventLog(), snapshot, tlb=tlb)
    recorder = Recorder(scenario, player.areas)
    stale = StaleReads(player)
    ops = scenario.recorded_ops
    watch = Watch(player.kvm, recorder.names)
    rows: list[tuple[Row, str | None]] = [(recorder.header(), None)]
    start = player.start()
    rows.append((recorder.row(start), None))
    changes = list(watch.changes(start.op, start.state))
    for played in player.play(scenario.ops):
        rows.append((recorder.row(played), stale.note(ops[played.op], played.result)))
        changes += watch.changes(played.op, played.state)
    return PlayedReasons(rows, changes)
