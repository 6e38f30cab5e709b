"""Playing a scenario on the model, with the line that a recording would have for each op."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shadowmmu.guest.play.player import OpResult, Player
    from shadowmmu.guest.scenario.ops import Op
    from shadowmmu.guest.scenario.scenario import Scenario
    from shadowmmu.trace.recorder import PlayedOp
    from shadowmmu.trace.recording import Row

__all__ = ["played_rows"]


def played_rows(
    scenario: Scenario,
    *,
    tlb: bool = False,
    play: Callable[[Player, str, Iterable[Op]], Iterator[OpResult]] | None = None,
) -> Iterator[tuple[PlayedOp | None, Row, str | None]]:
    """Yield the header, then every op with its row, and why the value it read is stale, if so.

    `play` carries the ops out, by default as Player.play: a watcher sees them begin and end.

    Raises ScenarioError for a scenario that cannot be played.
    """
    from shadowmmu.check.coherence.stale import StaleReads
    from shadowmmu.guest.play.player import Player
    from shadowmmu.guest.scenario.setup import resolve
    from shadowmmu.kvm.tracepoints.tracer import EventLog
    from shadowmmu.trace.recorder import Recorder
    from shadowmmu.trace.snapshot import snapshot

    player = Player(resolve(scenario), EventLog(), snapshot, tlb=tlb)
    recorder = Recorder(scenario, player.areas)
    stale = StaleReads(player)
    ops = scenario.recorded_ops
    yield None, recorder.header(), None
    start = player.start()
    yield start, recorder.row(start), None
    done = player.play(scenario.ops) if play is None else play(player, scenario.name, scenario.ops)
    for played in done:
        yield played, recorder.row(played), stale.note(ops[played.op], played.result)
