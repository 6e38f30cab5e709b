"""Options of all commands: what has no effect is refused, and what names something must name it."""

import json
from importlib.resources import as_file, files

import pytest
from guest.pc.programs import elf32

BAD = "mode long4\nstart\nread\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--kernel", ""], "has no profile"),
        (["check", "--kernel", ""], "has no profile"),
        (["fuzz", "--kernel", ""], "has no profile"),
        (["run", "--design", "nothing=1"], "no switch 'nothing'"),
        (["compare", "--design", "unsync=perhaps", "x"], "no value 'perhaps'"),
        (["run", "--design", "defect=child_by_gnf"], "did you mean 'child_by_gfn'?"),
        (["run", "--design", "unsync"], "write KEY=VALUE"),
        (["check", "--list", "--tlb"], "No such option"),
        (["check", "--list", "--audit", "off"], "--audit: --list only lists"),
        (["check", "--list", "x.txt"], "--list plays nothing"),
        (["check", "--every", "3"], "--every: only programs have this"),
        (["museum", "--seconds", "3"], "--seconds: only a search (--run) has this"),
        (["museum", "--seed", "3", "--out", "x"], "--seed, --out: only a search"),
        (["museum", "--run", "--seconds", "nan"], "is not a time"),
        (["museum", "--run", "--seconds", "0"], "is not a time"),
        (["museum", "--run", "--out", "-"], "standard output"),
    ],
)
def test_refused(invoke, words, says):
    refused = invoke(*words)
    assert refused.exit_code != 0
    assert says in refused.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--root", "."], "--root: only a Linux program"),
        (["check", "--root", "."], "--root: only a Linux program"),
        (["check", "--no-tlb"], "--no-tlb: only scenarios have this"),
        (["check", "--audit", "off"], "--audit: only scenarios have this"),
        (["run", "--kernel", ""], "has no profile"),
    ],
)
def test_refused_for_multiboot_programs(invoke, tmp_path, words, says):
    path = tmp_path / "prog.elf"
    path.write_bytes(elf32(b"\xf4"))
    refused = invoke(*words, path)
    assert refused.exit_code != 0
    assert says in refused.output


def test_a_defect_of_the_museum_can_be_named(invoke):
    with as_file(files("shadowmmu.guest.scenario") / "examples" / "default.txt") as scenario:
        header = json.loads(
            invoke("run", "--json", "--design", "defect=child_by_gfn", scenario).output.splitlines()[0]
        )
    assert header["design"] == {"child_lookup_compares_role": "no"}


def test_compare_has_designs(invoke, fixtures):
    recording = fixtures.recordings / "b-unsync.jsonl"
    assert invoke("compare", recording).exit_code == 0
    assert invoke("compare", "--design", "unsync=never", recording).exit_code == 1


def test_one_bad_scenario_does_not_stop_the_others(invoke, fixtures, tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_text(BAD)
    good = fixtures.scenarios / "m-access.txt"
    (tmp_path / "empty").mkdir()
    result = invoke("check", bad, tmp_path / "missing.txt", tmp_path / "empty", good)
    assert result.exit_code == 2
    assert "bad.txt:3: `read` lacks an argument" in result.output
    assert "missing.txt: No such file" in result.output
    assert "empty: no scenario (*.txt) is in this folder" in result.output
    assert "m-access: " in result.output
    lines = invoke("check", "--json", bad, good).output.splitlines()
    errors = [json.loads(line).get("error") for line in lines if line.startswith("{")]
    assert [error is None for error in errors] == [False, True]


def test_one_bad_recording_does_not_stop_the_others(invoke, fixtures, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    good = fixtures.recordings / "m-access.jsonl"
    result = invoke("compare", bad, good)
    assert result.exit_code == 2
    assert "bad.jsonl:1: this is not the header of a recording" in result.output
    assert "ops equal, 1/1 recordings whole" in result.output
    told = json.loads(invoke("compare", "--json", "-j", "1", good, bad).output.splitlines()[-1])
    assert told["total"]["failed"] == [str(bad)]


def test_a_pipe_is_a_scenario(process, fixtures):
    """Of a pipe nothing is taken to see what it is."""
    with (fixtures.scenarios / "m-access.txt").open() as file:
        done = process("run", "/dev/fd/0", input=file.read())
    assert done.returncode == 0
    assert "ops (" in done.stdout
