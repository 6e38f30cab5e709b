"""`shadowmmu compare`."""

import json
import multiprocessing
import shutil

import pytest

from shadowmmu.cli.compare import _lines


def test_all_equal(invoke, fixtures):
    """Of a folder; that all others are equal too is for tests/conformance to say."""
    folder = fixtures.recordings / "k6.1"
    count = len(list(folder.glob("*.jsonl")))
    result = invoke("compare", folder, "-j", 1)
    assert result.exit_code == 0
    assert f"{count}/{count} recordings whole" in result.output
    assert f"{folder / 'm-access.jsonl'}: 38/38 ops equal" in result.output


def spoil(played):
    """Op 5 loses an event, gets another, counts another page and forgets a change."""
    if played.op == 5:
        played.events = [event for event in played.events if getattr(event, "pte", 0) != 0x4027]
        played.stats["vm"]["pages_4k"] = 9
        played.state["used"] += 1


def test_the_first_difference_side_by_side(invoke, fixtures, player, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    player.spoil = spoil
    result = invoke("compare", fixtures.recordings / "e-nonpae.jsonl")
    assert result.exit_code == 1
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert lines[0].endswith(
        "e-nonpae.jsonl: 23/25 ops equal (result 25 stats 24 gptes 25 events 24 state 23)"
    )
    assert lines[1:5] == [
        "2 write 0x401000 1 ok",
        "3 read 0x600000 ok 0x0",
        "4 read 0x80000000 ok 0x0",
        "> 5 read 0x7fc00000 differs first (line 8)",
    ]
    assert "vm:pages_4k 1 | 9" in lines
    assert "#3 kvm_mmu_paging_element pte=4027 level=2 | -" in lines
    assert "kvm:used 9 | 10" in lines
    assert sum(line.startswith("#") for line in lines) == 1


@pytest.mark.parametrize(
    ("got", "shown"),
    [
        ({"set": {"a": {"b": 2}}, "del": ["x"]}, [("y", "deleted", "-"), ("a:b", "1", "2")]),
        (None, [("x", "deleted", "-"), ("y", "deleted", "-"), ("a:b", "1", "-")]),
    ],
)
def test_changes_of_state_by_path(got, shown):
    assert list(_lines("state", {"set": {"a": {"b": 1}}, "del": ["x", "y"]}, got)) == shown


def test_a_difference_in_order_alone():
    one, two = {"set": {}, "del": ["x", "y"]}, {"set": {}, "del": ["y", "x"]}
    assert list(_lines("state", one, two)) == [("as recorded", json.dumps(one), json.dumps(two))]


def test_a_model_that_fails_is_a_difference(invoke, fixtures, player):
    def fail(played):
        if played.op == 7:
            raise KeyError("frame")

    player.spoil = fail
    result = invoke(
        "compare", fixtures.recordings / "e-nonpae.jsonl", fixtures.recordings / "f-pae.jsonl", "-j", 1
    )
    assert result.exit_code == 1
    assert "> 7 read 0x10200000  differs first (line 10)" in result.output
    assert "the model failed: KeyError: 'frame' (" in result.output
    assert result.output.count("the model failed") == 2


def test_json(invoke, fixtures, player):
    player.spoil = spoil
    result = invoke("compare", fixtures.recordings / "e-nonpae.jsonl", "--json")
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert told["total"] == {
        "ops": 25,
        "equal": 23,
        "recordings": 1,
        "whole": 0,
        "parts": {"result": 25, "stats": 24, "gptes": 25, "events": 24, "state": 23},
        "failed": [],
        "not_covered": {},
    }
    first = told["recordings"][0]["first"]
    assert (first["op"], first["do"], first["line"]) == (5, "read 0x7fc00000", 8)
    assert first["parts"]["stats"] == [["vm:pages_4k", "1", "9"]]


def change_header(source, target, **fields):
    first, rest = source.read_text().split("\n", 1)
    target.write_text(json.dumps(json.loads(first) | fields) + "\n" + rest)


def test_what_is_not_covered_is_named(invoke, fixtures, tmp_path):
    source = fixtures.recordings / "f-pae.jsonl"
    change_header(source, tmp_path / "old.jsonl", kernel="5.10.0-50 x")
    shutil.copy(source, tmp_path)
    result = invoke("compare", tmp_path, "-j", 1)
    assert result.exit_code == 0
    assert (
        "old.jsonl: not covered (kernel 5.10.0-50 has no profile; there are 6.12.111, 6.1.176, 7.3.4)"
        in result.output
    )
    assert "not covered: 1 (old)" in result.output
    alone = invoke("compare", tmp_path / "old.jsonl")
    assert alone.exit_code != 0
    assert "the recordings must be of kernel" in alone.output


def test_a_recording_is_replayed_on_its_kernel(invoke, fixtures, tmp_path):
    """The same scenario recorded on two kernels; neither recording is equal on the other's."""
    for folder, other in (("", "6.1.176"), ("k6.1", "6.12.111")):
        source = fixtures.recordings / folder / "b-unsync.jsonl"
        assert invoke("compare", source).exit_code == 0
        change_header(source, tmp_path / "b-unsync.jsonl", kernel=other)
        assert invoke("compare", tmp_path / "b-unsync.jsonl").exit_code == 1


def test_where_a_header_does_not_say_the_host_s_processor_an_option_does(invoke, fixtures, tmp_path):
    source = fixtures.recordings / "intel/broadwell/g-mmio.jsonl"
    assert invoke("compare", source).exit_code == 0
    header, _, rows = source.read_text().partition("\n")
    entries = json.loads(header)
    (cpuid,) = (entry for entry in entries["setup"] if entry["setup"] == "cpuid")
    assert (cpuid.pop("l1tf"), cpuid.pop("exit_info")) == (44, 0)
    silent = tmp_path / "g-mmio.jsonl"
    silent.write_text(f"{json.dumps(entries)}\n{rows}")
    assert invoke("compare", silent).exit_code == 1
    assert invoke("compare", silent, "--host", "exitinfo=no").exit_code == 1
    assert invoke("compare", silent, "--host", "l1tf=44").exit_code == 0
    refused = invoke("compare", silent, "--host", "l1tf=50")
    assert refused.exit_code == 2
    assert "l1tf=50 does not fit a host with 40 physical address bits" in refused.output


def test_recordings_of_another_kernel_find_their_scenarios(invoke, fixtures, texts_used, tmp_path):
    source = fixtures.recordings / "k6.1" / "m-access.jsonl"
    assert invoke("compare", source).exit_code == 0
    shutil.copy(source, tmp_path / "m-access.k6.1.jsonl")
    assert (
        invoke("compare", "--scenarios", fixtures.scenarios, tmp_path / "m-access.k6.1.jsonl").exit_code == 0
    )
    assert [path.name for path in texts_used] == ["m-access.txt"] * 2


@pytest.fixture
def texts_used(monkeypatch):
    """Paths of the scenarios that were looked up."""
    from shadowmmu.guest.scenario import parser

    used = []
    original = parser.load_scenario

    def load(path):
        used.append(path)
        return original(path)

    monkeypatch.setattr(parser, "load_scenario", load)
    return used


@pytest.mark.parametrize("inside", [".", "fuzz", "a/b"])
def test_scenarios_of_the_lab_s_layout_are_found(invoke, fixtures, tmp_path, texts_used, inside):
    recordings, scenarios = tmp_path / "recordings" / inside, tmp_path / "scenarios" / inside
    recordings.mkdir(parents=True)
    scenarios.mkdir(parents=True)
    shutil.copy(fixtures.recordings / "f-pae.jsonl", recordings)
    assert invoke("compare", tmp_path / "recordings").exit_code == 0
    assert texts_used == []
    shutil.copy(fixtures.scenarios / "f-pae.txt", scenarios)
    assert invoke("compare", tmp_path / "recordings").exit_code == 0
    assert [path.resolve() for path in texts_used] == [(scenarios / "f-pae.txt").resolve()]


def test_scenarios_from_a_folder(invoke, fixtures, tmp_path, texts_used):
    recording = shutil.copy(fixtures.recordings / "m-access.jsonl", tmp_path)
    assert invoke("compare", recording, "--scenarios", fixtures.scenarios).exit_code == 0
    assert texts_used == [fixtures.scenarios / "m-access.txt"]


def test_another_scenario_of_the_same_name_is_refused(invoke, fixtures, tmp_path):
    recording = shutil.copy(fixtures.recordings / "m-access.jsonl", tmp_path)
    shutil.copy(fixtures.scenarios / "f-pae.txt", tmp_path / "m-access.txt")
    result = invoke("compare", recording, "--scenarios", tmp_path)
    assert result.exit_code != 0
    assert "was recorded from another scenario" in result.output


@pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="the spoiled player is in this process only"
)
def test_processes(invoke, fixtures, player):
    player.spoil = spoil
    some = sorted(fixtures.recordings.rglob("*.jsonl"))[::8]
    one, two = (invoke("compare", *some, "--json", "-j", jobs) for jobs in (1, 2))
    assert one.exit_code == two.exit_code == 1
    assert one.output == two.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ":1: the file is empty; give a recording"),
        ("mode long4\n", ":1: this is not JSON; give a recording: JSON, one object per line"),
    ],
)
def test_bad_recordings_are_one_line(command, tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    done = command("compare", path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "not compiled" not in line]
    assert line == f"shadowmmu: {path}{message}"


def test_an_error_is_one_line_for_each_recording(command, fixtures, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    done = command("compare", tmp_path, "-j", 2)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "not compiled" not in line]
    for name, line in zip("ab", lines, strict=True):
        assert line.startswith(f"shadowmmu: {tmp_path}/{name}.jsonl:1: this is not the header of a recording")


def test_an_empty_folder(command, tmp_path):
    done = command("compare", tmp_path)
    assert done.returncode == 2
    assert f"shadowmmu: {tmp_path}: no recording (*.jsonl) in this folder" in done.stderr
