"""Histories: the same states as the recordings, shared where nothing changed; registers and walks as the
model's.
"""

import random

import pytest
from show.recorded import RECORDINGS, SCENARIOS, recording

from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.guest.scenario.setup import resolve
from shadowmmu.kvm.guest_access.guest_walk import gva_to_gpa
from shadowmmu.kvm.tracepoints.tracer import EventLog
from shadowmmu.show.history.delta import DeltaError, changed
from shadowmmu.show.history.timeline import Timeline, is_recording, recorded_timeline, timeline_of
from shadowmmu.show.history.walk import guest_walk, translate
from shadowmmu.trace.recording import Recording, RecordingError, replay

SCENARIOS_THAT_CHANGE_REGISTERS = (
    "d-cr3", "p-roles", "t-nopaging", "v-hostsregs", "lme-pae", "xl-lme", "hb-pae", "e-nonpae", "l-smp",
    "n7-ncr3", "fuzz-long4-5", "fuzz-32-2", "fuzz-pae-2", "tdp1-a-map4", "z-long5", "x-nested-sregs",
)  # fmt: skip
RECORDED = sorted(RECORDINGS.rglob("*.jsonl"))[::7]


def scenario_of(name: str) -> Scenario:
    return rebuild_scenario(recording(name))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_moments_have_the_states_of_the_recording(path):
    read = Recording.read(path)
    timeline = recorded_timeline(read)
    assert timeline.recorded
    assert len(timeline.moments) == len(read.rows)
    for moment, (row, state) in zip(timeline.moments, replay(read), strict=True):
        assert moment.op == row["op"]
        assert moment.state == state


def test_what_did_not_change_is_the_same_object():
    timeline = recorded_timeline(recording("b-unsync"))
    pairs = list(zip(timeline.moments, timeline.moments[1:], strict=False))
    shared = [a for a, b in pairs if a.state["slots"] is b.state["slots"]]
    assert len(shared) == len(pairs)
    assert any(a.guest is b.guest for a, b in pairs)
    assert any(a.guest is not b.guest for a, b in pairs)


def test_a_played_scenario_has_the_moments_of_its_recording():
    played, recorded = timeline_of(scenario_of("b-unsync")), recorded_timeline(recording("b-unsync"))
    assert not played.recorded
    for got, expected in zip(played.moments, recorded.moments, strict=True):
        assert got.state == expected.state
        assert got.guest == expected.guest
        assert got.registers == expected.registers


def test_a_delta_that_does_not_fit_is_an_error_with_the_file(tmp_path):
    with pytest.raises(DeltaError):
        changed({"sps": {}}, {"set": {"sps:S1:unsync": 1}})
    text = (RECORDINGS / "b-unsync.jsonl").read_text().replace("sps:S1:sptes:", "sps:S99:sptes:")
    path = tmp_path / "broken.jsonl"
    path.write_text(text)
    with pytest.raises(RecordingError, match=r"broken.jsonl: .* record it again"):
        recorded_timeline(Recording.read(path))


def test_moments_are_found_by_the_number_of_their_op():
    timeline = recorded_timeline(recording("b-unsync"))
    assert timeline.at(-1).text == "start"
    assert timeline.at(3).op == 3
    with pytest.raises(IndexError, match="the op must be -1 to 24, not 99"):
        timeline.at(99)


def test_a_recording_is_told_from_a_scenario():
    assert is_recording(RECORDINGS / "b-unsync.jsonl")
    assert not is_recording(SCENARIOS / "b-unsync.txt")


@pytest.mark.parametrize("name", SCENARIOS_THAT_CHANGE_REGISTERS)
def test_registers_and_walks_are_those_of_the_model(name):
    scenario = scenario_of(name)
    timeline = timeline_of(scenario)
    player = Player(resolve(scenario), EventLog(), lambda _: {})
    for played in player.play(scenario.ops):
        moment = timeline.at(played.op)
        for cpu in player.cpus:
            vcpu = cpu.vcpu
            if vcpu.guest_mode or player.oops:
                continue
            registers = moment.registers[vcpu.id]
            assert registers.levels == levels_of(vcpu), (played.op, played.text)
            if registers.levels:
                assert registers.root() == root_of(vcpu, registers.levels), (played.op, played.text)
        if played.op % 8 == 0:
            compare_walks(timeline, played.op, player)


def levels_of(vcpu) -> int:
    if not vcpu.cr0 & 1 << 31:
        return 0
    if vcpu.efer & 1 << 8:
        return 5 if vcpu.cr4 & 1 << 12 else 4
    return 3 if vcpu.cr4 & 1 << 5 else 2


def root_of(vcpu, levels: int) -> int:
    return vcpu.cr3 & {2: 0xFFFFF000, 3: 0xFFFFFFE0}.get(levels, 0xFFFFFFFFFF000)


def compare_walks(timeline: Timeline, op: int, player: Player) -> None:
    """Walks of addresses that are mapped, and of some that are not, lead where the model's walk leads."""
    rng = random.Random(op)
    moment = timeline.at(op)
    for cpu in player.cpus:
        vcpu = cpu.vcpu
        if vcpu.guest_mode or moment.registers[vcpu.id].levels in (0, 3):  # PDPTEs are those loaded with CR3
            continue
        for _ in range(20):
            gva = rng.choice((0x400000, 0x48000000, 0x10000000, 0)) + rng.randrange(16) * 0x1000
            found = guest_walk(timeline, moment, vcpu.id, gva)
            if found.steps and found.steps[-1].decoded is None:
                continue
            tracing, player.kvm.tracing = player.kvm.tracing, False
            expected = gva_to_gpa(vcpu, gva, 0)
            player.kvm.tracing = tracing
            assert found.gpa == (None if expected == (1 << 64) - 1 else expected), (op, hex(gva), found.end)


def test_a_translation_shows_both_ways_entry_by_entry():
    timeline = recorded_timeline(recording("b-unsync"))
    both = translate(timeline, timeline.at(1), 0, 0x400000)
    assert [(step.table, step.index, step.value) for step in both.guest.steps] == [
        ("gpa 1000", 0, "2027"),
        ("gpa 2000", 0, "3027"),
        ("gpa 3000", 2, "4027"),
        ("gpa 4000", 0, "800067"),
    ]
    assert both.guest.gpa == 0x800000
    assert both.shadow.steps[-1].value.startswith("gpa:800000|")
    assert both.shadow.end.startswith("mapped by S")


def test_with_nested_paging_the_second_walk_is_of_the_guest_physical_address():
    timeline = recorded_timeline(recording("tdp1-a-map4"))
    both = translate(timeline, timeline.at(1), 0, 0x400000)
    assert both.guest.gpa is not None
    assert both.shadow.steps[-1].value.startswith(f"gpa:{both.guest.gpa:x}|")


def test_an_address_of_l2_is_walked_through_the_tables_that_l1_made_for_it():
    timeline = recorded_timeline(recording("n7-ncr3"))
    moment = next(m for m in reversed(timeline.moments) if m.state["vcpus"]["0"]["in_l2"])
    both = translate(timeline, moment, 0, 0xF010D000, l2=True)
    assert both.guest.gpa == 0xF010D000
    assert both.shadow.steps[-1].value.startswith("gpa:f010d000|")


def test_a_32_bit_guest_is_shadowed_below_a_pae_root():
    timeline = recorded_timeline(recording("e-nonpae"))
    both = translate(timeline, timeline.at(1), 0, 0x400000)
    assert [step.table for step in both.guest.steps] == ["gpa 1000", "gpa 2000"]
    assert both.shadow.steps[0].table == "pae_root"
    assert both.shadow.steps[-1].value.startswith("gpa:800000|")


def test_what_was_not_recorded_is_said():
    timeline = recorded_timeline(recording("b-unsync"))
    moment = timeline.at(-1)
    walk = guest_walk(timeline, moment, 0, 0x999999000)
    assert walk.end.startswith("the entry of level 3 is not present")
    assert translate(timeline, moment, 0, 0x400000).shadow.end.startswith("the vCPU has no root")
