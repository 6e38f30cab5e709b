"""What `shadowmmu run` shows people: stale values, ops in the middle of others, runs of entries, names."""

import pytest

from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.show.text.report import Report, outcome_spans
from shadowmmu.show.text.runs import address_runs, entry_runs
from shadowmmu.show.text.spans import Span, fitting, plain

FORGETS = """\
mode long4
slot 0 0x0 16M
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 0x800000 0x67 n=8
map 0x1000 0x600000 0x4000 0x67
poke 0x801000 0xbad
poke 0x802000 0x600d
start cr3=0x1000
read 0x401000
write 0x600008 0x802067
read 0x401000
write 0x600008 0x0
read 0x401000
invlpg 0x401000
read 0x401000
read 0x402000
"""
MEANWHILE = """\
mode long4
slot 0 0x0 64M
slot 1 0x10000000 4M dirty
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 0x10000000 0x67 n=8
start cr3=0x1000
write 0x400000 1
meanwhile 1 read 0x401000
meanwhile 900 read 0x402000
delslot 1
"""


@pytest.fixture
def shown(invoke, tmp_path):
    def run(text, *options):
        path = tmp_path / "s.txt"
        path.write_text(text)
        return invoke("run", *options, path).output

    return run


def test_a_stale_value_is_marked(shown):
    lines = shown(FORGETS, "--tlb").splitlines()
    marks = {
        lines[at - 1].strip().split("  ")[0]: line.strip()
        for at, line in enumerate(lines)
        if "stale:" in line
    }
    assert marks == {
        "2 read 0x401000": "stale: the guest's tables lead to gpa 0x802000 by now, which has 0x600d",
        "4 read 0x401000": "stale: the guest's tables map nothing there by now",
    }


def test_nothing_is_stale_where_every_table_is_fresh(invoke, fixtures):
    for name in ("m-access", "tdp1-a-map4"):
        output = invoke("run", fixtures.scenarios / f"{name}.txt").output
        assert "ops (" in output
        assert "stale: the guest's tables lead" not in output


def test_ops_in_the_middle_of_another_are_shown(shown):
    lines = [line.strip() for line in shown(MEANWHILE).splitlines()]
    told = [line for line in lines if line.startswith("meanwhile")]
    assert told[-1] == "meanwhile read 0x402000  not played: the op does not let others run so often"
    assert len(told) == 2


def test_a_result_in_the_middle_is_shown():
    scenario = parse_scenario(MEANWHILE)
    report = Report(scenario)
    row = {"op": 1, "do": "delslot 1", "stats": {}, "gptes": [], "events": []}
    row["result"] = {"outcome": "ok", "meanwhile": [{"do": "read 0x401000", "outcome": "ok", "value": "0x7"}]}
    assert "meanwhile read 0x401000  ok 0x7" in [plain(each).strip() for each in report.lines(row)]


def test_a_frame_that_backed_a_page_only_for_a_moment_has_its_name():
    report = Report(parse_scenario(MEANWHILE))
    event = {"e": "kvm_mmu_spte_requested", "gfn": "801", "pfn": "pfn?400801", "level": 1}
    report._state = {"sps": {}}
    row = {"op": 0, "do": "nop", "result": {"outcome": "ok"}, "stats": {}, "gptes": [], "events": [event]}
    report.count(row)
    assert "wants gpa:801000 at gfn 801" in plain(report.lines(row)[1])


def test_runs_of_entries():
    steps = [(i, f"gpa:{0x40000000 + (i << 21):x}|ee7") for i in range(1, 512)]
    assert entry_runs([(0, "S5|827"), *steps]) == ["[0]=S5|827", "[1..511] = gpa:40200000.. +2M |ee7"]
    assert entry_runs([(3, "none"), (4, "none"), (5, "none")]) == ["[3]=none", "[4]=none", "[5]=none"]
    assert entry_runs([(i, "none") for i in range(9)]) == ["[0..8] = none"]
    assert entry_runs([(2 * i, "none") for i in range(5)])[1] == "[2]=none"
    assert entry_runs([]) == []


def test_runs_of_addresses():
    assert address_runs([hex(n << 12) for n in (1, 2, 3, 4, 9)]) == ["0x1000..0x4000", "0x9000"]
    assert plain(outcome_spans({"outcome": "ok", "dirty": []})) == "ok dirty nothing"


def test_no_line_is_wider_than_200():
    line = "      S1 " + " ".join(f"[{2 * n}]=gpa:{n:x}000|ee7" for n in range(200))
    parts = list(map(plain, fitting((Span(line),), 6)))
    assert all(len(part) <= 200 for part in parts)
    assert " ".join(part.strip() for part in parts) == line.strip()


def test_a_huge_mapping_is_short(shown):
    huge = """\
param kvm_amd npt=1
mode long4
slot 0 0x0 16M
slot 1 0x40000000 1G thp
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 0x40000000 0x67 n=512 stride=0x200000 gstride=0x200000
start cr3=0x1000
prefault 0x40000000 0x40000000
dirtylog on 1
"""
    output = shown(huge)
    assert "ops (" in output
    assert max(map(len, output.splitlines())) <= 200
