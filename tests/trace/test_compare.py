"""The yardstick: it agrees with the lab's, and each part counts."""

import copy
import importlib.util
import json
import random
from pathlib import Path

import pytest

from shadowmmu.trace.compare import PARTS, comparable, compare
from shadowmmu.trace.recording import Recording

LAB_COMPARE = Path(__file__).parents[3] / "shared" / "lab" / "compare.py"
STORED = {"state": "delta"}


def test_events_that_the_recording_cannot_hold_do_not_count():
    held, other = {"e": "kvm_exit", "reason": "npf"}, {"e": "kvm_new"}
    rows, more = [{"op": 0, "events": [held]}], [{"op": 0, "events": [other, held, other]}]
    assert compare(rows, more, events={"kvm_exit"}).whole
    assert not compare(rows, more).whole
    assert not compare(more, rows, events={"kvm_exit"}).whole, "those that it holds all the same do"


def test_a_recording_equals_itself(fixture_path):
    rows = Recording.read(fixture_path).rows
    comparison = compare(rows, rows)
    assert comparison.whole
    assert comparison.parts == dict.fromkeys(PARTS, len(rows))
    assert comparison.first is None


@pytest.mark.parametrize(
    ("part", "field", "a", "b"),
    [
        ("result", "result", {"value": "0x1", "rip": "0x400"}, {"value": "0x01", "rip": "0x0"}),
        ("result", "result", {"cr2": "0xffffffff80000401"}, {"cr2": "0xffffffff80000fff"}),
        ("stats", "stats", {"vm": {"a": 0}}, {"vm": {}, "vcpu0": {}}),
        ("stats", "stats", None, {}),
        ("events", "events", [{"e": "x", "tramp": True}], []),
        ("events", "events", [{"e": "kvm_emulate_insn", "t": "0:1:90"}], [{"e": "kvm_emulate_insn"}]),
        ("events", "events", [{"e": "x", "t": "cpu rip 0x1f at 0x0010"}], [{"e": "x", "t": "cpu at 0x10"}]),
        ("events", "events", [{"e": "x", "info2": "c0000123"}], [{"e": "x", "info2": "c0000456"}]),
        ("events", "events", [{"e": "kvm_exit", "rip": "0x1"}], [{"e": "kvm_exit", "rip": "0x2"}]),
        ("events", "events", [{"e": "x", "at": "?10263f008"}], [{"e": "x", "at": "?25008"}]),
    ],
)  # fmt: skip
def test_what_does_not_count(part, field, a, b):
    assert comparable({field: a}, part) == comparable({field: b}, part)


@pytest.mark.parametrize(
    ("part", "field", "a", "b"),
    [
        ("result", "result", {"cr2": "0xffffffff80000401"}, {"cr2": "0xffffffff80001401"}),
        ("result", "result", {"value": "0x1"}, {"value": "0x2"}),
        ("stats", "stats", {"vm": {"a": 1}}, {"vm": {"a": -1}}),
        ("gptes", "gptes", [["0x1000", "0x1", "0x2"]], []),
        ("events", "events", [{"e": "a"}, {"e": "b"}], [{"e": "b"}, {"e": "a"}]),
        ("events", "events", [{"e": "kvm_exit", "info2": "401000"}], [{"e": "kvm_exit", "info2": "401008"}]),
        ("events", "events", [{"e": "kvm_mmu_pagetable_walk", "addr": "400000"}],
         [{"e": "kvm_mmu_pagetable_walk", "addr": "400000", "tramp": True}]),
        ("events", "events", [{"e": "x", "at": "?10263f008"}], [{"e": "x", "at": "?25010"}]),
        ("events", "events", [{"e": "x", "at": "S1[1]"}], [{"e": "x", "at": "?25008"}]),
        ("state", "delta", {"set": {"a": ["S1[0]", "S2[0]"]}}, {"set": {"a": ["S2[0]", "S1[0]"]}}),
        ("state", "delta", {"set": {}}, None),
        ("state", "delta", {"set": {}, "del": ["a", "b"]}, {"set": {}, "del": ["b", "a"]}),
    ],
)  # fmt: skip
def test_what_counts(part, field, a, b):
    assert comparable({field: a}, part) != comparable({field: b}, part)


def test_a_missing_op_differs_in_every_part():
    rows = [
        {"op": -1, "do": "start", "delta": {"set": {}}},
        {"op": 0, "do": "nop", "result": {"outcome": "ok"}},
    ]
    comparison = compare(rows, rows[:1])
    assert (comparison.ops, comparison.equal) == (2, 1)
    assert comparison.first is not None
    assert comparison.first.index == 1
    assert set(comparison.first.parts) == set(PARTS)


def mutate(value, rng: random.Random):
    """One small change somewhere in a JSON value."""
    match value:
        case dict() if value:
            key = rng.choice(list(value))
            kind = rng.randrange(10)
            if kind == 0:
                del value[key]
            elif kind == 1:
                value["new"] = 1
            else:
                value[key] = mutate(value[key], rng)
        case list() if value:
            index = rng.randrange(len(value))
            kind = rng.randrange(6)
            if kind == 0:
                del value[index]
            elif kind == 1:
                value.insert(index, copy.deepcopy(rng.choice(value)))
            elif kind == 2:
                rng.shuffle(value)
            else:
                value[index] = mutate(value[index], rng)
        case bool():
            return not value
        case int():
            return value + rng.choice([-1, 1])
        case str() if value:
            place = rng.randrange(len(value))
            return value[:place] + rng.choice("0123456789abcdef") + value[place + 1 :]
    return value


@pytest.fixture(scope="module")
def lab():
    if not LAB_COMPARE.exists():
        pytest.skip("the lab is not here")
    spec = importlib.util.spec_from_file_location("lab_compare", LAB_COMPARE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_verdicts_agree_with_the_lab(fixture_path, tmp_path, lab):
    recording = Recording.read(fixture_path)
    rng = random.Random(fixture_path.stem)
    target = tmp_path / "mutated.jsonl"
    for _ in range(60):
        rows = copy.deepcopy(list(recording.rows))
        for _ in range(rng.choice([1, 1, 3])):
            row = rng.choice(rows)
            part = rng.choice([key for key in ("result", "stats", "gptes", "events", "delta") if key in row])
            row[part] = mutate(row[part], rng)
        for row in rows:
            row["events"] = [event for event in row.get("events", []) if event.get("e")]
        if rng.random() < 0.1:
            rows = rows[: rng.randrange(len(rows))]
        target.write_text("".join(json.dumps(row) + "\n" for row in [recording.header, *rows]))
        expected = list(recording.rows)
        try:
            ops, equal, parts, first = lab.compare(fixture_path, target)
        except (ValueError, AttributeError):  # the lab stops at addresses and counters that are none
            continue
        ours = compare(expected, rows)
        assert (ours.ops, ours.equal) == (ops, equal)
        assert {STORED.get(part, part): n for part, n in ours.parts.items()} == parts
        if first is None:
            assert ours.first is None
        else:
            op, _, part, x, y = first
            assert recording.rows[ours.first.index]["op"] == op
            name = next(iter(ours.first.parts))
            assert STORED.get(name, name) == part
            assert ours.first.parts[name] == (x, y)


def test_events_that_have_lost_their_strings_count_by_name() -> None:
    """6.1: texts without strings, a second injection, exits by host interrupts and addresses of the host."""
    full = [
        {"e": "kvm_exit", "reason": "PF excp", "rip": "0x1", "info1": "3", "info2": "400000"},
        {"e": "kvm_mmu_get_page", "gfn": "5", "level": 1},
        {"e": "kvm_mmu_set_spte", "gfn": "5", "spte": "pfn?7|e67", "perm": "rwxu", "level": 1, "at": "?5010"},
        {"e": "kvm_inj_exception", "t": "#PF (0x2)"},
    ]
    lost = [
        {"e": "kvm_exit", "reason": "", "rip": "0x2", "info1": "0", "info2": "0"},
        {"e": "kvm_exit", "reason": "", "rip": "0x1", "info1": "3", "info2": "400000"},
        {"e": "kvm_mmu_get_page", "t": ""},
        {"e": "kvm_mmu_set_spte", "gfn": "5", "spte": "pfn?9|e67", "perm": "wx", "level": 1, "at": "?9010"},
        *[{"e": "kvm_inj_exception", "t": ""}] * 2,
    ]
    assert compare([{"op": 0, "events": lost}], [{"op": 0, "events": full}], strings=False).whole
    assert not compare([{"op": 0, "events": lost}], [{"op": 0, "events": full}]).whole
    for n, field, other in ((0, "info1", "7"), (2, "gfn", "6"), (2, "spte", "pfn?7|e65")):
        spoiled = [dict(event) for event in full]
        spoiled[n][field] = other
        assert not compare([{"op": 0, "events": lost}], [{"op": 0, "events": spoiled}], strings=False).whole
