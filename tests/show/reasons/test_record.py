"""Reasons of played scenarios: every change has a cause, in the words of one table."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import shadowmmu
from shadowmmu.guest.scenario.parser import load_scenario
from shadowmmu.show.history.timeline import timeline_of
from shadowmmu.show.reasons.history import Reasons, reasons_of
from shadowmmu.show.reasons.record import NotPlayed
from shadowmmu.show.reasons.sentences import SENTENCES, sentence

KVM = Path(shadowmmu.__file__).parent / "kvm"
SCENARIOS = Path(__file__).parents[2] / "conformance" / "scenarios"
PLAYED = ("b-unsync", "c-flood", "g-mmio", "h-huge-thp", "i-dirty-tdp1-eagerN", "k-notifier", "n-delslot")


@cache
def reasons(name: str) -> Reasons:
    return reasons_of(load_scenario(SCENARIOS / f"{name}.txt"))


def test_every_function_with_words_is_one_of_the_model():
    text = "\n".join(path.read_text() for path in KVM.rglob("*.py"))
    assert [name for name in SENTENCES if f"def {name}(" not in text] == []


def test_a_sentence_without_its_variables_is_the_short_one():
    assert sentence("account_shadowed", {}) == "a guest frame became a shadowed page table"
    assert sentence("no_such_function", {}) is None


@pytest.mark.parametrize("name", PLAYED)
def test_every_change_but_the_processors_has_words(name):
    without = {c.mechanism.function for c in reasons(name).changes if c.causes and c.mechanism.says is None}
    assert without == set()


@pytest.mark.parametrize("name", PLAYED)
def test_the_play_with_reasons_is_the_play_without(name):
    plain = timeline_of(load_scenario(SCENARIOS / f"{name}.txt"))
    assert [m.state for m in reasons(name).timeline.moments] == [m.state for m in plain.moments]


@pytest.mark.parametrize("name", PLAYED)
def test_the_last_noted_value_of_an_entry_is_that_of_the_state(name):
    state = reasons(name).timeline.moments[-1].state
    for page, held in state["sps"].items():
        for index, value in held["sptes"].items():
            newest = reasons(name).of_entry(page, int(index))
            assert newest and newest[0].new == value, f"{page}[{index}]"


@pytest.mark.parametrize("name", PLAYED)
def test_remote_flush_requests_are_as_many_as_the_statistic_counts(name):
    noted = sum(c.subject == "all vCPUs" for c in reasons(name).flushes() if c.op >= 0)
    counted = sum(
        m.stats.get("vm", {}).get("remote_tlb_flush_requests", 0) for m in reasons(name).timeline.moments
    )
    assert noted == counted


def test_a_table_that_gets_shadowed_makes_what_maps_it_read_only():
    found = [c for c in reasons("c-flood").changes if c.mechanism.function == "account_shadowed"]
    entries = [c for c in found if c.kind == "spte"]
    assert all("made read-only" in change.effect for change in entries)
    assert entries


def test_what_cannot_be_played_is_said():
    scenario = replace(load_scenario(SCENARIOS / "b-unsync.txt"), design={"unsync": "perhaps"})
    with pytest.raises(NotPlayed, match="perhaps"):
        reasons_of(scenario)


def test_the_flush_of_a_read_dirty_log_is_needed_and_others_may_not_be():
    example = Path(shadowmmu.__file__).parent / "guest" / "scenario" / "examples" / "default.txt"
    found = reasons_of(load_scenario(example), tlb=True, judged=True)
    remote = [change for change in found.changes if change.subject == "all vCPUs"]
    assert len(remote) == len(found.needed)
    needed = {c.mechanism.function for c, is_needed in zip(remote, found.needed, strict=True) if is_needed}
    assert "kvm_vm_ioctl_get_dirty_log" in needed
    assert not all(found.needed)
