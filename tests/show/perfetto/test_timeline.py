"""Timelines: files of the trace-event format, and that they show what happened."""

import json
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from show.recorded import SCENARIOS

from shadowmmu.guest.scenario.parser import load_scenario
from shadowmmu.kvm.tracepoints.tracer import TRACEPOINTS
from shadowmmu.show.history.played import played_rows
from shadowmmu.show.perfetto.phases import PHASES
from shadowmmu.show.perfetto.played import ScenarioTimelines
from shadowmmu.show.perfetto.trace_file import TraceFile

REQUIRED = {
    "M": {"name": str, "pid": int, "tid": int, "args": dict},
    "X": {"name": str, "cat": str, "pid": int, "tid": int, "ts": int, "dur": int, "args": dict},
    "i": {"name": str, "cat": str, "pid": int, "tid": int, "ts": int, "s": str},
    "C": {"name": str, "cat": str, "pid": int, "tid": int, "ts": int, "args": dict},
    "s": {"name": str, "cat": str, "pid": int, "tid": int, "ts": int, "id": int},
    "f": {"name": str, "cat": str, "pid": int, "tid": int, "ts": int, "id": int, "bp": str},
}
"""The keys of each phase in "Trace Event Format", all of them and no others."""

MAILS = SCENARIOS.parents[2] / "scenarios" / "mails"
SPLIT = load_scenario(MAILS / "001-split-harm.txt").with_design({"eager_split": "all"})
"""A split of huge pages drops mmu_lock; five ops of two vCPUs wait for it."""


class Kept:
    """An output that keeps its text."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


def timeline(*scenarios):
    """The file of scenarios, checked, and what each op was."""
    kept = Kept()
    file = TraceFile(kept)
    timelines = ScenarioTimelines(file)
    done = [op for scenario in scenarios for op, *_ in played_rows(scenario, play=timelines.play) if op]
    file.close()
    trace = json.loads(kept.text)
    check(trace)
    return trace["traceEvents"], done


def check(trace):
    """Hold a file against the format."""
    assert trace["otherData"]["clock"].startswith("simulated")
    rows = trace["traceEvents"]
    named = set()
    for row in rows:
        required = REQUIRED[row["ph"]]
        assert row.keys() - {"ph"} == required.keys(), row
        assert all(isinstance(row[key], kind) for key, kind in required.items()), row
        if row["name"] == "thread_name":
            named.add((row["pid"], row["tid"]))
        if row["ph"] == "C":
            assert row["args"] and all(isinstance(value, int) for value in row["args"].values())
        elif row["ph"] != "M":
            assert (row["pid"], row["tid"]) in named, row
    timed = [row["ts"] for row in rows if "ts" in row]
    assert timed == sorted(timed)
    check_nesting(rows)
    check_arrows(rows)


def check_nesting(rows):
    """The slices of a track lie beside or within each other."""
    open_until = defaultdict(list)
    for row in rows:
        if row["ph"] != "X":
            continue
        assert row["dur"] > 0
        stack = open_until[row["pid"], row["tid"]]
        while stack and stack[-1] <= row["ts"]:
            stack.pop()
        assert not stack or row["ts"] + row["dur"] <= stack[-1], row
        stack.append(row["ts"] + row["dur"])


def check_arrows(rows):
    """Each arrow has one beginning and one end, later, both at slices."""
    ends = defaultdict(dict)
    slices = [row for row in rows if row["ph"] == "X"]
    for row in rows:
        if row["ph"] in "sf":
            assert row["ph"] not in ends[row["id"]]
            ends[row["id"]][row["ph"]] = row
            place = row["pid"], row["tid"]
            assert any(
                (each["pid"], each["tid"]) == place and each["ts"] <= row["ts"] < each["ts"] + each["dur"]
                for each in slices
            ), row
    for both in ends.values():
        assert both.keys() == {"s", "f"}
        assert both["s"]["ts"] < both["f"]["ts"]
        assert both["s"]["name"] == both["f"]["name"]


def named(rows, name):
    return [row for row in rows if row["ph"] == "X" and row["name"] == name]


def tracks(rows):
    return {
        row["args"]["name"]: (row["pid"], row["tid"])
        for row in rows
        if row["ph"] == "M" and row["name"] == "thread_name"
    }


def on(rows, track):
    place = tracks(rows)[track]
    return [row for row in rows if row["ph"] in "Xi" and (row["pid"], row["tid"]) == place]


def test_every_tracepoint_has_a_phase():
    assert PHASES.keys() == TRACEPOINTS.keys()


@pytest.mark.parametrize("name", ["b-unsync", "n7-ncr3", "e-nonpae", "l-smp", "tdp1-a-map4", "x-npt-self"])
def test_every_op_and_every_tracepoint_is_in_the_file_once(name):
    (path,) = SCENARIOS.rglob(f"{name}.txt")
    rows, done = timeline(load_scenario(path))
    fired = Counter(event.name for op in done for event in op.events)
    shown = Counter(row["name"] for row in rows if row["ph"] == "X" and "text" in row["args"])
    for tracepoint, number in fired.items():
        if tracepoint not in ("kvm_entry", "kvm_exit"):
            assert shown[tracepoint] == number
    assert shown["guest"] == fired["kvm_entry"]
    assert sum(number for shown, number in shown.items() if shown.startswith("exit ")) == fired["kvm_exit"]
    for op in done[1:]:
        assert any(
            row["args"].get("result") == op.result["outcome"]
            for row in named(rows, " ".join(op.text.split()))
        )


def test_flush_requests_lead_to_the_flushes_that_serve_them():
    (path,) = SCENARIOS.rglob("l-smp.txt")
    rows, done = timeline(load_scenario(path))
    requested = sum(op.stats.get("vm", {}).get("remote_tlb_flush_requests", 0) for op in done)
    assert (
        len([row for row in named(rows, "flush request") if row["args"]["text"] == "of all vCPUs"])
        == requested
    )
    served = sum(row["args"]["requests"] for row in named(rows, "TLB flush"))
    left = [row for row in rows if row["ph"] == "f"]
    assert served <= len(left)
    assert len(left) == len([row for row in rows if row["ph"] == "s"])


def test_the_counters_end_as_the_statistics_do():
    (path,) = SCENARIOS.rglob("b-unsync.txt")
    rows, done = timeline(load_scenario(path))
    sums = Counter()
    for op in done:
        sums.update(op.stats.get("vm", {}))
    last = {row["name"]: row["args"] for row in rows if row["ph"] == "C"}
    assert last["mapped pages"] == {"4k": sums["pages_4k"], "2m": sums["pages_2m"], "1g": sums["pages_1g"]}
    assert last["unsync pages"] == {"unsync": sums["mmu_unsync"]}
    assert last["shadow pages"]["used"] == len(done[-1].state["sps"])


def test_who_waits_for_mmu_lock_gets_it_where_its_holder_drops_it():
    rows, _ = timeline(SPLIT)
    dropped = [row for row in rows if row["name"] == "mmu_lock dropped"]
    waited = on(rows, "mmu_lock: waiters")
    assert len(dropped) == len(waited) == 5
    assert all(row["args"] == {"for": "cleardirty 1 0 1024"} for row in waited)
    assert {row["ts"] + 1 for row in dropped} == {row["ts"] + row["dur"] for row in waited}
    holds = [row for row in on(rows, "mmu_lock: holder") if row["ph"] == "X"]
    assert all(one["ts"] + one["dur"] <= two["ts"] for one, two in pairwise(holds))
    assert {row["args"]["holder"] for row in holds} == {"vCPU 0", "vCPU 1", "user space"}


def test_the_work_of_kvm_has_tracks_of_its_own():
    rows, _ = timeline(SPLIT)
    assert named(on(rows, "eager split"), "cleardirty 1 0 1024")
    assert named(on(rows, "eager split"), "kvm_mmu_split_huge_page")


def test_two_scenarios_are_two_pairs_of_processes_one_after_the_other():
    rows, _ = timeline(SPLIT, SPLIT)
    spans = defaultdict(list)
    for row in rows:
        if row["ph"] == "X":
            spans[(row["pid"] - 1) // 2] += [row["ts"], row["ts"] + row["dur"]]
    assert max(spans[0]) <= min(spans[1])
