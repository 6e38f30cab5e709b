"""Every case both ways, schedules as files, diagrams."""

from pathlib import Path

import pytest

import shadowmmu
from shadowmmu.check.race.case import Case, CaseError
from shadowmmu.check.race.catalogue import cases, find
from shadowmmu.check.race.diagram import diagram
from shadowmmu.check.race.explore import Plan, explore, read_schedule, replay

ALL = [case for name, case in cases().items() if not (shadowmmu.native and name[-1] in "mn")]
TAKEN = [(case, name) for case in ALL for name in case.protections]
NUMBERS = {f"R{n}" for n in range(1, 49)} | {f"R-c{n}" for n in range(1, 4)}


def test_every_case_of_the_protocol_is_there() -> None:
    without_letters = {name.rstrip("abmn") if name.startswith("R") else name for name in cases()}
    assert without_letters >= NUMBERS
    assert len({case.title for case in ALL}) == len(ALL)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_with_all_protections_nothing_bad_happens(case: type[Case]) -> None:
    result = explore(case)
    assert result.bad is None
    assert result.complete
    assert bool(result.witness) or not case.reachable


@pytest.mark.parametrize(("case", "taken"), TAKEN, ids=[f"{case.name}-{name}" for case, name in TAKEN])
def test_without_a_protection_the_bad_outcome_is_found_and_replays(
    case: type[Case], taken: str, tmp_path: Path
) -> None:
    result = explore(case, (taken,))
    assert result.bad is not None
    file = tmp_path / "schedule"
    file.write_text(result.bad.text())
    again = replay(read_schedule(file))
    assert again.bad == result.bad
    assert again.schedules == 1


@pytest.mark.parametrize("case", [case for case in ALL if case.needs_tso], ids=lambda case: case.name)
def test_barriers_matter_with_store_buffers_only(case: type[Case]) -> None:
    for name in case.needs_tso:
        assert explore(case, (name,), Plan(tso=False)).bad is None


@pytest.mark.parametrize("sample", ["random", "pct"])
def test_sampling_finds_a_lost_write(sample: str) -> None:
    (case,) = find(["R5"])[:1]
    result = explore(case, ("mark_after_cmpxchg",), Plan(sample=sample, runs=1000, seed=2))
    assert result.bad is not None
    assert not result.complete


def test_the_diagrams_of_mail_002() -> None:
    harmless, harmful = find(["r37a", "R37B"])
    question = explore(harmless).witness
    assert question is not None
    assert diagram(question).splitlines() == [
        "CPU 1: __get_spte_lockless  CPU 2: __update_clear_spte_slow",
        "-----------------------------------------------------------",
        "                            xchg low, 0 (was 0x11110001)",
        "read count: 0",
        "read low: 0",
        "read high: 0xa",
        "read low: 0",
        "read count: 0",
        "returns 0xa00000000",
        "                            high = 0",
        "                            read count: 0",
        "                            count = 1",
    ]
    answer = explore(harmful, ("clear_spte_count",)).bad
    assert answer is not None
    assert diagram(answer).splitlines()[2:] == [
        "read count: 0",
        "read low: 0x11110001",
        "                            low = 0",
        "                            high = 0",
        "                            read count: 0",
        "                            count = 1",
        "read high: 0",
        "                            high = 0xb",
        "                            low = 0x11110001",
        "read low: 0x11110001",
        "returns 0x11110001",
    ]


def test_a_narrow_diagram_wraps_in_its_columns() -> None:
    (case,) = find(["R3"])
    found = explore(case, ("flush_on_mmu_writable",)).bad
    assert found is not None
    lines = diagram(found, 70).splitlines()
    assert max(map(len, lines)) <= 70
    assert lines[0].split("  ")[0] == "CPU 1: dirty log"


def test_names() -> None:
    assert [case.name for case in find(["R37a", "r37a"])] == ["R37a"]
    assert {case.name for case in find(["R18"])} >= {"R18a", "R18b"}
    assert [case.name for case in find(["r-C2"])] == ["R-c2"]
    for wrong in ("R1x", "R99", "", "T"):
        with pytest.raises(CaseError, match="no race case"):
            find([wrong])
    with pytest.raises(CaseError, match="no protection 'nothing'; it has direct_only"):
        explore(find(["R1"])[0], ("nothing",))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("# shadowmmu race: a schedule", "# something else", "not a schedule"),
        ("case: R1", "case: R99", "no race case"),
        ("case: R1", "", "no line 'case"),
        ("without: direct_only", "without: luck", "no protection"),
        ("fast_page_fault: read spte", "somebody: read spte", "no thread 'somebody'"),
        ("fast_page_fault: read spte", "fast_page_fault: read maps", "is 'read maps', but now 'read spte'"),
        ("steps:", "stop: nonsense(\nsteps:", "must be a location"),
        ("  fast_page_fault: read spte", "  nonsense", "no colon"),
    ],
)
def test_a_schedule_that_is_none(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    bad = explore(find(["R1"])[0], ("direct_only",)).bad
    assert bad is not None
    file = tmp_path / "schedule"
    file.write_text(bad.text().replace(old, new))
    with pytest.raises(CaseError, match=complaint):
        replay(read_schedule(file))


def test_the_model_is_as_it_was_after_a_case() -> None:
    from shadowmmu.kvm.fault import fast_fault, page_fault
    from shadowmmu.kvm.spte import atomic
    from shadowmmu.kvm.tdp import spte_changed

    if shadowmmu.native:
        pytest.skip("the model's own code runs in cases only if interpreted")
    before = (fast_fault.cmpxchg64, page_fault.is_page_fault_stale, spte_changed.xchg64)
    explore(find(["R5m"])[0], ("mark_after_cmpxchg",))
    assert (fast_fault.cmpxchg64, page_fault.is_page_fault_stale, spte_changed.xchg64) == before
    assert before[0] is atomic.cmpxchg64
