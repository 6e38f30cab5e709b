"""Two histories of one scenario: what differs, what it adds up to, and the sentence about it."""

import io

import pytest
from rich.console import Console
from show.recorded import recording

from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.show.diff.difference import CounterPair, Difference, OpPair, as_json, compare_timelines
from shadowmmu.show.diff.render import print_difference
from shadowmmu.show.diff.verdict import verdict
from shadowmmu.show.history.timeline import recorded_timeline, timeline_of

SCENARIO = """\
mode long4
slot 0 0x0 16M
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 0x800000 0x67 n=16
start cr3=0x1000
nop
read 0x400000
nop
read 0x408000
"""
NAMES = ("as it is", "prefetch_window=off")


@pytest.fixture(scope="module")
def without_prefetch() -> Difference:
    scenario = parse_scenario(SCENARIO)
    other = scenario.with_design({"prefetch_window": "off"})
    return compare_timelines(timeline_of(scenario), timeline_of(other), NAMES)


def printed(difference: Difference, width: int = 80, *, show_equal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None)
    print_difference(console, difference, verdict(difference), show_equal=show_equal)
    return file.getvalue()


def test_a_history_does_not_differ_from_itself():
    timeline = recorded_timeline(recording("b-unsync"))
    same = compare_timelines(timeline, timeline, ("one", "other"))
    assert not same.differing
    assert verdict(same) == "No difference: one and other do the same in all 25 ops."
    assert "ops 0..24 equal" in printed(same)


@pytest.mark.parametrize("name", ["b-unsync", "e-nonpae", "n7-ncr3", "c-flood"])
def test_a_recording_is_what_the_model_does(name):
    played = timeline_of(rebuild_scenario(recording(name)))
    found = compare_timelines(played, recorded_timeline(recording(name)), ("model", "KVM"))
    for pair in found.differing:
        for left, right in pair.rows:
            assert left == right or {left.split()[0], right.split()[0]} == {"emulate_insn"}, pair


def test_ops_that_are_equal_are_folded(without_prefetch):
    assert [pair.op for pair in without_prefetch.differing] == [0, 1, 3]
    assert [pair.op for pair in without_prefetch.ops] == [0, 1, 2, 3]
    text = printed(without_prefetch)
    assert "op 2 equal" in text
    assert "S7[1] = gpa:801000|e47 (rwxu) level 1," in text
    assert "op 2 equal" not in printed(without_prefetch, show_equal=True)


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_line_is_wider_than_the_terminal(without_prefetch, width):
    assert max(map(len, printed(without_prefetch, width).splitlines())) <= width


def test_the_verdict_names_counters_of_both_sides(without_prefetch):
    assert without_prefetch.counter("kvm_mmu_set_spte").right == 3
    sentence = verdict(without_prefetch)
    assert sentence.startswith("prefetch_window=off differs in 3 of 4 ops: ")
    assert "3 SPTEs installed instead of" in sentence
    assert verdict(without_prefetch, ["x=y"]).endswith("x=y is known to be unsafe.")


def test_ratios_are_of_the_right_by_the_left():
    assert CounterPair("a", "a", 4, 1).ratio == 0.25
    assert CounterPair("a", "a", 0, 1).ratio is None


def test_the_sentence_is_only_about_what_differs():
    pair = OpPair(0, "nop", (("ok", "ok"), ("a", "")))
    equal = (CounterPair("pf_taken", "page faults", 3, 3),)
    assert verdict(Difference("l", "r", (pair,), equal)) == "r differs in 1 of 1 op; all counters are equal."
    more = (CounterPair("pf_taken", "page faults", 0, 3), CounterPair("made", "shadow pages made", 3, 0))
    sentence = verdict(Difference("l", "r", (pair,), more))
    assert (
        sentence == "r differs in 1 of 1 op: 3 page faults instead of none, no shadow page made instead of 3."
    )
    rare = (CounterPair("rare", "rare", 1, 2),)
    assert verdict(Difference("l", "r", (pair,), rare)).endswith("differs in 1 of 1 op: rare 2 instead of 1.")


def test_what_only_designs_count_is_not_compared_with_none():
    pair = OpPair(0, "nop", (("ok", "ok"),))
    counted = (CounterPair("prefetch_gptes", "gptes read", 0, 48),)
    assert verdict(Difference("l", "r", (pair,), counted)) == "r differs in none of 1 op."
    both = (CounterPair("prefetch_gptes", "gptes read", 24, 1),)
    assert "1 gpte read for prefetching instead of 24 (-96 %)" in verdict(Difference("l", "r", (pair,), both))


def test_as_data_it_has_all_rows_and_counters(without_prefetch):
    data = as_json(without_prefetch, "said")
    assert [op["equal"] for op in data["ops"]] == [False, False, True, False]
    assert data["counters"]["kvm_mmu_set_spte"]["right"] == 3
    assert data["verdict"] == "said"


def test_every_kernel_and_vendor_can_be_compared():
    scenario = rebuild_scenario(recording("fuzz-long4-5"))
    left = timeline_of(scenario)
    for other in (scenario.with_kernel("6.1.176"), scenario.with_vendor("intel")):
        found = compare_timelines(left, timeline_of(other), ("one", "other"))
        assert found.differing
        assert len(found.ops) == len(left.moments) - 1


def test_histories_of_different_lengths_are_compared_to_the_end():
    short, long = (recorded_timeline(recording(name)) for name in ("b-unsync", "c-flood"))
    found = compare_timelines(short, long, ("one", "other"))
    assert len(found.ops) == max(len(short.moments), len(long.moments)) - 1
