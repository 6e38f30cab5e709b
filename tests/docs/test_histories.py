"""The pages of recordings in the documentation: each place that it points to shows what it says."""

import sys
from importlib import import_module

import pytest
from docs.examples import ROOT

from shadowmmu.show.history.timeline import recorded_timeline
from shadowmmu.trace.recording import Recording


@pytest.fixture
def extension(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    yield import_module
    for name in [name for name, module in sys.modules.items() if "docs/_ext" in str(module)]:
        del sys.modules[name]


def test_each_place_shows_what_it_says(extension):
    histories = extension("histories").HISTORIES
    assert len(histories) == 3
    for history in histories:
        timeline = recorded_timeline(Recording.read(history.recording))
        assert timeline.recorded
        for place in history.places:
            moment = timeline.at(place.op)
            events = {event["e"] for event in moment.events}
            statistics = {name for counters in moment.stats.values() for name in counters}
            assert place.shows in events | statistics | {moment.result["outcome"]}, (history.name, place.op)


def test_one_is_of_32_bits_one_nested_one_with_eager_splits(extension):
    timelines = [
        recorded_timeline(Recording.read(history.recording)) for history in extension("histories").HISTORIES
    ]
    assert [set(timeline.modes) == {"32"} for timeline in timelines] == [True, False, False]
    nested = ["guest_mmu" in timeline.moments[0].state["vcpus"]["0"] for timeline in timelines]
    assert nested == [False, True, False]
    assert timelines[2].params["kvm.eager_page_split"] == "Y"
