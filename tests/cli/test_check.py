"""`shadowmmu check`: what it prints, and its exit status."""

import json
import re
from pathlib import Path

import pytest

from shadowmmu.check.audit.audit import PREDICATES, Audit

SOUND = """\
mode long4
slot 0 0x0 16M
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 0x800000 0x67 n=4
start cr3=0x1000
write 0x400000 1
dump off
read 0x401000
"""

WRONG_FLUSH = """\
param kvm nx_huge_pages=Y
mode long4
vcpus 2
slot 0 0x0 16M
slot 1 0x10000000 4M huge2m
alloc 0x2000
tramp 0x1000
map 0x1000 0x40000000 0x10000000 0xe7 level=2 n=2
code 0x10201000
start cr3=0x1000
@1 write 0x40200000 1
exec 0x40201000
@1 nop
"""
DESIGN = ("ranged_flush=yes", "split_flush=always", "ranged_flush_start=table")
"""The flush of mail 001 that misses the huge page."""


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.txt"
    path.write_text(SOUND)
    return path


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.txt"
    path.write_text(WRONG_FLUSH)
    return path


def test_nothing_found(invoke, sound):
    result = invoke("check", sound)
    assert result.exit_code == 0
    assert re.fullmatch(r"sound: 2 ops, \d+ checks, nothing found\n", result.output)


def test_steps_are_more_checks(invoke, sound):
    counts = []
    for level in ("off", "op", "step"):
        result = invoke("check", "--audit", level, sound)
        assert result.exit_code == 0
        counts.append(int(re.search(r"(\d+) checks", result.output)[1]))
    assert counts[1] == counts[0] + 3
    assert counts[2] > counts[1] + 2


def test_without_arguments_the_program_s_own_scenarios(invoke):
    result = invoke("check")
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.output.splitlines()] == ["default", "quadrants", "nested"]


def test_a_violation_is_status_1_and_shown(invoke, wrong):
    result = invoke("check", wrong, *(word for value in DESIGN for word in ("--design", value)))
    assert result.exit_code == 1
    head, predicate, broken, way, *_ = result.output.splitlines()
    assert re.fullmatch(r"wrong: 3 ops, \d+ checks, 1 found", head)
    assert predicate.startswith("  tlb-as-tables: vCPU 1 has a translation of 0x40200000 in its TLB ")
    assert broken == "    broken by op 1: exec 0x40201000"
    assert way.startswith("      root S1 -> S1[0] = ")


def test_the_same_guest_by_default(invoke, wrong):
    assert invoke("check", wrong).exit_code == 0


def test_what_only_a_tlb_shows(invoke, wrong):
    settings = [word for value in DESIGN for word in ("--design", value)]
    assert invoke("check", "--no-tlb", wrong, *settings).exit_code == 0
    assert invoke("check", "--audit", "off", wrong, *settings).exit_code == 0


def test_folders_and_json(invoke, sound, wrong):
    settings = [word for value in DESIGN for word in ("--design", value)]
    result = invoke("check", "--json", sound.parent, *settings)
    assert result.exit_code == 1
    one, two = (json.loads(line) for line in result.output.splitlines())
    assert one.pop("checks") > 0
    assert one == {"scenario": "sound", "ops": 2, "violations": [], "interrupted": False, "known": None}
    (violation,) = two["violations"]
    assert (violation["predicate"], violation["op"]) == ("tlb-as-tables", 1)
    assert violation["shows"]


def test_many_violations_are_counted(invoke, sound, monkeypatch):
    real = Audit.after_op

    def after_op(self, op, played):
        slot = self.player.kvm.memslots[0]
        for gfn in range(0x900, 0x910):
            slot.set_rmap_head(gfn, 1, 8)
        self.sweep_every = 1
        return real(self, op, played)

    monkeypatch.setattr(Audit, "after_op", after_op)
    result = invoke("check", sound)
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "  and 6 more"


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("missing.txt", "No such file"),
        ("", "no scenario (*.txt) is in this folder"),
        ("bad.txt", "unknown word `bogus`"),
    ],
)
def test_bad_input_is_status_2_and_one_line(command, tmp_path, argument, text):
    (tmp_path / "bad.txt").write_text("bogus\n")
    (tmp_path / "empty").mkdir()
    result = command("check", tmp_path / (argument or "empty"))
    assert result.returncode == 2
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unknown_switch(invoke, sound):
    assert invoke("check", sound, "--design", "nonsense=1").exit_code != 0
    assert invoke("check", sound, "--design", "nonsense").exit_code == 2


def test_an_interruption_ends_with_what_is_known(invoke, sound, monkeypatch):
    def after_op(self, op, played):
        raise KeyboardInterrupt

    monkeypatch.setattr(Audit, "after_op", after_op)
    result = invoke("check", sound)
    assert result.exit_code != 0
    assert re.search(r"sound: 0 ops, \d checks, nothing found before the interruption", result.output)


def test_the_list(invoke):
    output = invoke("check", "--list").output
    for name, predicate in PREDICATES.items():
        assert f"\n{name}\n" in f"\n{output}"
        assert predicate.symbols[0] in output
    rows = json.loads(invoke("check", "--list", "--json").output)
    assert list(rows) == list(PREDICATES)
    assert rows["page-hashed"]["symbols"] == list(PREDICATES["page-hashed"].symbols)
