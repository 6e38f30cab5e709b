"""Recorder, reader and delta: what real KVM did can be recorded again, byte for byte."""

import copy
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.kvm.tracepoints.exits import Entry
from shadowmmu.trace.delta import apply_delta, difference
from shadowmmu.trace.recorded_events import RECORDED
from shadowmmu.trace.recorder import Recorder, json_line
from shadowmmu.trace.recording import Recording, RecordingError, replay


def test_recorded_again_byte_for_byte(recording_path, machine_of):
    recording = Recording.read(recording_path)
    machine = machine_of(recording)
    recorder = Recorder(rebuild_scenario(recording), machine.areas)
    lines = recording_path.read_text().splitlines(keepends=True)
    header = recorder.header()
    assert frozenset(header.pop("events")) == recording.events == RECORDED
    assert json_line(header) == lines[0]
    for (played, line), (_, state) in zip(
        zip(machine.played(), lines[1:], strict=True), replay(recording), strict=True
    ):
        assert json_line(recorder.row(played)) == line
        assert recorder.state == state


def test_without_dump_the_state_is_left_out(fixture_path, machine_of):
    recording = Recording.read(fixture_path)
    machine = machine_of(recording)
    recorder = Recorder(rebuild_scenario(recording), machine.areas)
    for number, played in enumerate(machine.played()):
        if number == 3:
            played.state = None
            assert "delta" not in recorder.row(played)
            break
        recorder.row(played)


def test_zeros_and_timing_are_no_statistics(fixture_path, machine_of):
    recording = Recording.read(fixture_path)
    machine = machine_of(recording)
    recorder = Recorder(rebuild_scenario(recording), machine.areas)
    played = list(machine.played())
    recorder.row(played[0])
    played[1].stats = {"vm": {"pages_4k": 0, "mmu_unsync": 1}, "vcpu0": {"exits": 7, "io_exits": 1}}
    assert recorder.row(played[1])["stats"] == {"vm": {"mmu_unsync": 1}, "vcpu0": {}}


nested = st.recursive(
    st.integers(0, 3) | st.lists(st.integers(0, 2), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)
states = st.dictionaries(st.sampled_from("abc"), nested, max_size=3)


@given(states, states)
def test_difference_leads_from_one_state_to_the_next(before, after):
    delta = difference(before, after)
    state = copy.deepcopy(before)
    apply_delta(state, delta)
    assert state == after
    assert difference(after, after) == {"set": {}}


def broken(path: Path, tmp_path: Path, change) -> Path:
    lines = path.read_bytes().split(b"\n")[:-1]
    target = tmp_path / "broken.jsonl"
    target.write_bytes(b"".join(line + b"\n" for line in change(lines)))
    return target


def changed_row(number: int, **fields):
    def change(lines):
        row = json.loads(lines[number])
        row.update(fields)
        for key in [key for key, value in row.items() if value is ...]:
            del row[key]
        lines[number] = json.dumps(row, default=str).encode()
        return lines

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lines: [], "1: the file is empty"),
        (lambda lines: lines[:1], "1: there is nothing after the header"),
        (lambda lines: lines[1:], "1: this is not the header of a recording"),
        (lambda lines: [b"once upon a time"], "1: this is not JSON"),
        (lambda lines: [b"\xff\xfe"], "1: this is not JSON"),
        (lambda lines: [b"[]", *lines], "1: this is not the header of a recording"),
        (lambda lines: [*lines[:5], lines[5][:40]], "6: the last line is cut off"),
        (lambda lines: [*lines[:5], lines[5][:40], *lines[6:]], "6: this is not JSON"),
        (lambda lines: [*lines[:4], *lines[5:]], "5: this is op 3, but op 2 is due"),
        (lambda lines: [*lines[:4], b"7", *lines[5:]], "5: this line must be a JSON object"),
        (changed_row(4, events=...), "5: `events` is missing"),
        (changed_row(4, events=[1]), "5: an event has no name"),
        (changed_row(4, stats={"vm": 1}), "5: `stats` has no counters"),
        (changed_row(4, delta={}), "5: `delta` has no `set`"),
        (changed_row(4, delta={"set": {}, "del": [1]}), "5: `delta` has a `del`"),
        (changed_row(4, do=7), "5: `do` is missing or of the wrong type"),
    ],
)
def test_broken_recordings_name_the_line(fixture_path, tmp_path, change, expected):
    target = broken(fixture_path, tmp_path, change)
    with pytest.raises(RecordingError) as caught:
        Recording.read(target)
    assert str(caught.value).startswith(f"{target}:{expected}")
    assert re.search(r"; \w", str(caught.value))


@pytest.mark.parametrize("events", [["kvm_exit", 1], "kvm_exit", {}])
def test_the_events_of_a_header_are_names(fixture_path, tmp_path, events):
    target = broken(fixture_path, tmp_path, changed_row(0, events=events))
    with pytest.raises(RecordingError, match=":1: `events` must be a list of names; record it again"):
        Recording.read(target)


def test_the_header_says_which_events_the_recording_can_hold(fixture_path, tmp_path):
    target = broken(fixture_path, tmp_path, changed_row(0, events=["kvm_exit", "kvm_new"]))
    assert Recording.read(target).events == {"kvm_exit", "kvm_new"}


def test_what_the_lab_leaves_out_is_not_recorded(fixture_path, machine_of):
    recording = Recording.read(fixture_path)
    machine = machine_of(recording)
    recorder = Recorder(rebuild_scenario(recording), machine.areas)
    start, first, *_ = machine.played()
    recorder.row(start)
    names = [entry["e"] for entry in recorder.row(first)["events"]]
    first.events = [Entry(0, 0, 0), *first.events]
    assert [entry["e"] for entry in recorder.row(first)["events"]] == names
    assert Entry.name not in RECORDED


@pytest.mark.parametrize("delta", [{"set": {"sps:S999:gfn": 1}}, {"set": {}, "del": ["nothing:here"]}])
def test_a_delta_that_does_not_fit(fixture_path, tmp_path, delta):
    target = broken(fixture_path, tmp_path, changed_row(4, delta=delta))
    with pytest.raises(RecordingError, match=":5: `delta` does not fit"):
        list(replay(Recording.read(target)))
