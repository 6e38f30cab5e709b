import json
from pathlib import Path

from shadowmmu.check.museum.results import EXHIBITS

ROOT = Path(__file__).parents[2]


def test_all_are_listed(invoke):
    output = invoke("museum").output.splitlines()
    assert [line.split()[0] for line in output] == [exhibit.name for exhibit in EXHIBITS]


def test_one_is_told_with_how_to_see_it(invoke):
    output = invoke("museum", "flush_from_table").output
    assert output.startswith("flush_from_table: the flush for a replaced huge SPTE begins at the wrong gfn\n")
    for text in (
        "KVM: x86/mmu: Fix wrong start gfn of tlb flushing with range",
        "ranged_flush_start=table",
        "shadowmmu check scenarios/museum/flush_from_table.txt",
        "shadowmmu check --design ranged_flush_start=entry scenarios/museum/flush_from_table.txt",
    ):
        assert text in " ".join(output.split())


def test_as_json(invoke):
    found = json.loads(invoke("museum", "--json", "cr3_unsynced").output)
    assert found["cr3_unsynced"]["switches"] == {"defect": "cr3_unsynced"}
    assert found["cr3_unsynced"]["result"]["name"] == "cr3_unsynced"


def test_a_search_writes_a_scenario_and_tells_of_it(invoke, tmp_path):
    result = invoke("museum", "--run", "--json", "--out", str(tmp_path), "parent_left")
    assert result.exit_code == 0
    (found,) = json.loads(result.output)
    assert found["found"]
    assert found["lines"] == len((tmp_path / "parent_left.txt").read_text().splitlines())
    assert invoke("check", str(tmp_path / "parent_left.txt")).exit_code == 1
    assert invoke("check", "--design", "defect=none", str(tmp_path / "parent_left.txt")).exit_code == 0


def test_what_is_not_found_is_status_1(invoke, tmp_path):
    result = invoke("museum", "--run", "--seconds", "0.001", "--out", str(tmp_path), "tdp_protection")
    assert result.exit_code == 1
    assert result.output.startswith("tdp_protection: not found in ")
    assert not list(tmp_path.iterdir())


def test_unknown_names_are_refused(invoke):
    refused = invoke("museum", "pcid_root")
    assert refused.exit_code != 0
    assert refused.output.endswith("no defect 'pcid_root'; did you mean 'pcid_roots_kept'?\n")


def test_its_scenario_on_every_kernel(invoke, monkeypatch):
    monkeypatch.chdir(ROOT)
    output = invoke("museum", "--kernels", "child_by_gfn").output
    heads, row = (line.split() for line in output.splitlines()[:2])
    assert dict(zip(heads, row[1:], strict=True)) == {
        "6.12.111": "returns",
        "6.1.176": "stands",
        "7.3.4": "returns",
    }
    assert "stands    the kernel has the defect: its own design shows it" in output
    found = json.loads(invoke("museum", "--kernels", "--json", "child_by_gfn").output)
    assert found["child_by_gfn"]["6.1.176"] == {
        "verdict": "stands",
        "predicate": "tlb-as-tables",
        "refused": None,
    }


def test_the_kernels_need_the_scenarios(invoke, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = invoke("museum", "--kernels", "child_by_gfn")
    assert result.exit_code != 0
    assert "scenarios/museum/child_by_gfn.txt: No such file or directory; run this in" in result.output
    assert "choose one" in invoke("museum", "--kernels", "--run").output
