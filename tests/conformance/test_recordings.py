"""Every recording of real KVM is what the model does: results, statistics, guest entries, events, state."""

from pathlib import Path

import pytest

from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.guest.scenario.parser import load_scenario
from shadowmmu.guest.scenario.setup import resolve
from shadowmmu.kvm.design.design import design_of
from shadowmmu.kvm.tracepoints.tracer import EventLog
from shadowmmu.trace.compare import compare
from shadowmmu.trace.recorder import Recorder
from shadowmmu.trace.recording import Recording
from shadowmmu.trace.snapshot import snapshot

HERE = Path(__file__).parent
RECORDINGS = sorted((HERE / "recordings").glob("*.jsonl"))
OTHER_KERNELS = sorted((HERE / "recordings").glob("*/*.jsonl"))
INTEL = sorted((HERE / "recordings/intel").glob("*/*.jsonl"))
PARTS = ("result", "stats", "gptes", "events", "state")


def test_there_are_recordings_of_every_mode() -> None:
    modes = {mode for path in (HERE / "scenarios").glob("*.txt") for mode in load_scenario(path).modes}
    assert modes == {"long4", "long5", "pae", "32", "nopaging"}


def test_every_scenario_has_a_recording() -> None:
    recorded = {path.stem for path in [*RECORDINGS, *OTHER_KERNELS]}
    assert recorded == {path.stem for path in (HERE / "scenarios").rglob("*.txt")}


def test_there_are_recordings_of_every_kernel() -> None:
    assert {path.parent.name for path in OTHER_KERNELS} == {"k6.1", "k7.3"}


def test_there_are_recordings_of_an_intel_processor_with_shadow_paging_and_with_ept() -> None:
    headers = [Recording.read(path).header for path in INTEL]
    assert {header["params"]["kvm_intel.ept"] for header in headers} == {"Y", "N"}
    assert {header["params"]["kvm_intel.eptad"] for header in headers} == {"Y", "N"}
    assert {header["kernel"].partition("+")[0] for header in headers} == {"6.12.111", "7.3.4"}
    cpuid = [entry for header in headers for entry in header["setup"] if entry["setup"] == "cpuid"]
    assert {entry.get("l1tf", 0) for entry in cpuid} == {0, 44}


@pytest.mark.parametrize(
    "path", [*RECORDINGS, *OTHER_KERNELS, *INTEL], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_replays_equal(path: Path) -> None:
    recording = Recording.read(path)
    written = HERE / "scenarios" / f"{path.stem}.txt"
    text = load_scenario(written) if written.exists() else None
    scenario = rebuild_scenario(recording, text=text)
    player = Player(resolve(scenario), EventLog(), snapshot)
    recorder = Recorder(scenario, player.areas)
    rows = [recorder.row(player.start()), *(recorder.row(played) for played in player.play(scenario.ops))]
    assert len(rows) == len(recording.rows)
    strings = design_of(recording.header["kernel"]).event_strings
    comparison = compare(recording.rows, rows, strings=strings, events=recording.events)
    assert comparison.first is None
    assert comparison.equal == comparison.ops == len(rows)
    assert dict(comparison.parts) == dict.fromkeys(PARTS, len(rows))
