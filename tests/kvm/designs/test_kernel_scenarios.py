"""The table of differences between 6.12.111 and 7.3.4: the two runs of a scenario differ by each row."""

from pathlib import Path

import pytest

from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario.parser import load_scenario
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.guest.scenario.setup import resolve
from shadowmmu.kvm.design.switches import SWITCHES
from shadowmmu.kvm.tracepoints.tracer import EventLog
from shadowmmu.trace.recorder import Recorder
from shadowmmu.trace.recording import Row
from shadowmmu.trace.snapshot import snapshot

SCENARIOS = Path(__file__).parents[3] / "scenarios" / "kernels"
ROWS = [switch for switch in SWITCHES if "7.3" in switch.kernels]


def rows(scenario: Scenario) -> list[Row]:
    player = Player(resolve(scenario), EventLog(), snapshot)
    recorder = Recorder(scenario, player.areas)
    return [recorder.row(player.start()), *(recorder.row(played) for played in player.play(scenario.ops))]


def test_no_scenario_is_without_a_row() -> None:
    assert {path.stem for path in SCENARIOS.glob("*.txt")} == {switch.name for switch in ROWS}


@pytest.mark.parametrize("switch", ROWS, ids=lambda switch: switch.name)
def test_its_two_runs_differ(switch) -> None:
    scenario = load_scenario(SCENARIOS / f"{switch.name}.txt")
    old = scenario.with_kernel("6.12.111")
    new = scenario.with_kernel("7.3.4")
    assert rows(old) != rows(new)
    alone = rows(old) != rows(old.with_design({switch.name: switch.kernels["7.3"]}))
    assert alone or rows(new) != rows(new.with_design({switch.name: switch.default})), "by this switch alone"
    assert rows(old) == rows(old.with_design({switch.name: switch.default}))
