"""The file of a page: one piece, harmless whatever a recording says, small."""

import dataclasses
import json
import re
import resource
import time

from show.recorded import RECORDINGS, recording

from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.show.browser.assemble import page
from shadowmmu.show.browser.data import page_data
from shadowmmu.show.history.timeline import recorded_timeline, timeline_of
from shadowmmu.show.reasons.history import reasons_of
from shadowmmu.show.reasons.report import reason_text
from shadowmmu.trace.recording import Recording

MOST_BYTES = 5_000_000
MOST_SECONDS = 2.0
"""Of the processor, for the page of a scenario or a recording."""


def test_a_page_names_nothing_outside_of_itself():
    text = page(recorded_timeline(recording("b-unsync")))
    assert not re.findall(r"(?:src|href)=\"(?!#)", text)
    assert "://" not in text
    assert "default-src 'none'" in text


def test_what_a_recording_says_cannot_become_markup():
    timeline = recorded_timeline(recording("b-unsync"))
    hostile = dataclasses.replace(timeline, title="</script><script>alert(1)</script><!--STYLE--><!--DATA-->")
    text = page(hostile)
    assert text.count("<script") == page(timeline).count("<script")
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["title"] == hostile.title


def test_the_largest_recordings_are_small_pages():
    largest = sorted(RECORDINGS.rglob("*.jsonl"), key=lambda path: path.stat().st_size)[-3:]
    for path in largest:
        assert len(page(recorded_timeline(Recording.read(path)))) < MOST_BYTES


def test_played_and_recorded_the_page_has_the_same_ops():
    played = page_data(timeline_of(rebuild_scenario(recording("b-unsync"))))
    recorded = page_data(recorded_timeline(recording("b-unsync")))
    assert played["recorded"] != recorded["recorded"]
    assert played["decoded"] == recorded["decoded"]
    assert [op["text"] for op in played["ops"]] == [op["text"] for op in recorded["ops"]]


def long_scenario():
    """More than 300 ops of a random guest."""
    scenario = rebuild_scenario(recording("fuzz-pae-4"))
    return dataclasses.replace(scenario, ops=[*scenario.ops, *scenario.ops, *scenario.ops, *scenario.ops])


def test_the_page_of_300_ops_with_reasons_is_small_and_soon_made():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.process_time()
    reasons = reasons_of(long_scenario())
    text = page(reasons.timeline, reasons.changes)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    others = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert len(reasons.timeline.moments) > 300
    assert len(text) < MOST_BYTES
    assert time.process_time() - started + others < MOST_SECONDS


def test_the_page_has_every_change_once_with_its_reason():
    reasons = reasons_of(rebuild_scenario(recording("b-unsync")))
    data = page_data(reasons.timeline, reasons.changes)
    shown = [
        (op["op"], text, data["reasons"][reason])
        for op in data["ops"]
        for texts, reason, _ in op.get("why", ())
        for text in texts
    ]
    assert [(op, reason) for op, _, reason in shown] == [
        (change.op, reason_text(change)) for change in reasons.changes
    ]
    assert all(change.effect in text for change, (_, text, _) in zip(reasons.changes, shown, strict=True))
    assert len(set(data["reasons"])) == len(data["reasons"])
