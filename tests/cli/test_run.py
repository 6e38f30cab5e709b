"""`shadowmmu run` and its files."""

import json
import re
from importlib.resources import as_file, files

import pytest

from shadowmmu.guest.scenario.parser import load_scenario, parse_scenario
from shadowmmu.trace.recorder import json_line
from shadowmmu.trace.recording import Recording


def test_tells_every_op_and_a_summary(invoke, fixtures):
    path = fixtures.scenarios / "e-nonpae.txt"
    result = invoke("run", path)
    assert result.exit_code == 0
    scenario = load_scenario(path)
    lines = result.output.splitlines()
    assert lines[0] == f"e-nonpae: {scenario.title} (mode 32)"
    for number, op in enumerate(scenario.recorded_ops):
        assert any(line.startswith(f"{number:5} {op.text.strip()}  ") for line in lines)
    for expected in (
        "   23 read 0x900000  exception #14 error_code 0x0 cr2 0x900000",
        "        page fault at 500004 (W)",
        "        walk 500004 pferr 2: 2027 2067",
        "        unsync_page gfn 2 level 1 wux quadrant 1",
        "        S6[256] = gpa:2000|e67 (rwxu) level 1, gfn 2",
        "      guest entry at 0x2004: 0x801067 -> 0x805067",
        "      S7 unsync",
        "      S6 [256]=gpa:2000|e67 [257]=gpa:1000|a05",
        "      S12 new: level 2, of guest table 1, gfn 1, wux",
        "      S4 removed",
        "e-nonpae: 24 ops (1 exception, 23 ok)",
        "  shadow pages left                   11  (4 of level 2, 7 of level 1)",
    ):
        assert expected in lines
    recording = Recording.read(fixtures.recordings / "e-nonpae.jsonl")
    faults = sum(row["stats"]["vcpu0"].get("pf_taken", 0) for row in recording.rows[1:])
    assert re.search(rf"^  page faults +{faults}$", result.output, re.M)
    assert "\x1b" not in result.output


def test_records(invoke, fixtures, tmp_path):
    target = tmp_path / "out.jsonl"
    assert invoke("run", fixtures.scenarios / "m-access.txt", "--record", target).exit_code == 0
    made, real = Recording.read(target), Recording.read(fixtures.recordings / "m-access.jsonl")
    assert made.rows == real.rows
    assert made.header["setup"] == real.header["setup"]
    assert made.header["kernel"].startswith("6.12.111")
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_the_kernel_can_be_chosen(invoke, fixtures, tmp_path):
    target = tmp_path / "out.jsonl"
    scenario = fixtures.scenarios / "b-unsync.txt"
    assert invoke("run", "--kernel", "6.1", scenario, "--record", target).exit_code == 0
    made = Recording.read(target)
    real = Recording.read(fixtures.recordings / "k6.1" / "b-unsync.jsonl")
    assert made.header["kernel"] == "6.1.176 (shadowmmu)"
    assert [row.get("delta") for row in made.rows] == [row.get("delta") for row in real.rows]
    assert invoke("compare", target).exit_code == 0
    refused = invoke("run", "--kernel", "2.6.37", scenario)
    assert refused.exit_code != 0
    assert refused.output == "Error: kernel 2.6.37 has no profile; there are 6.12.111, 6.1.176, 7.3.4\n"


@pytest.mark.parametrize(
    "name",
    ["n1-basic-tdp0", "n10-mmio", "n14-l1-32-tdp0", "n14-l1-pae-tdp0", "n17-long5", "tdp1-a-map4", "x-svme"],
)
def test_records_hypervisors_and_nested_paging(invoke, fixtures, tmp_path, name):
    target = tmp_path / "out.jsonl"
    assert invoke("run", fixtures.scenarios / f"{name}.txt", "--record", target).exit_code == 0
    made, real = Recording.read(target), Recording.read(fixtures.recordings / f"{name}.jsonl")
    assert [row["op"] for row in made.rows] == [row["op"] for row in real.rows]
    for one, two in zip(made.rows, real.rows, strict=True):
        assert json_line(one) == json_line(two)
    for key in ("scenario", "title", "params", "tramp_gva", "setup"):
        assert made.header[key] == real.header[key]


EPT = """\
vendor intel
param kvm_intel ept=1
mode long4
slot 0 0x0 16M
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 0x900000 0x67
start cr3=0x1000
prefault 0x900000 0x1000
read 0x400000
"""


def test_parameters_can_be_set(invoke, tmp_path):
    scenario, target = tmp_path / "s.txt", tmp_path / "out.jsonl"
    scenario.write_text(EPT)
    assert " (r---) " not in invoke("run", scenario).output
    tracked = invoke("run", scenario, "--param", "kvm_intel.eptad=0", "--record", target)
    assert tracked.exit_code == 0
    assert "[256] = gpa:900000|8750000000000870 (r---) level 1, gfn 900\n" in tracked.output
    params = Recording.read(target).header["params"]
    assert (params["kvm_intel.ept"], params["kvm_intel.eptad"], params["kvm.tdp_mmu"]) == ("Y", "N", "Y")
    assert invoke("compare", target).exit_code == 0


@pytest.mark.parametrize(
    ("given", "set_to"),
    [
        (["kvm_intel.ept=off"], {"kvm_intel.ept": "N", "kvm.tdp_mmu": "N"}),
        (["kvm.tdp_mmu=n", "kvm.tdp_mmu=y"], {}),
        (["kvm.nx_huge_pages=force", "kvm.tdp_mmu=0"], {"kvm.nx_huge_pages": "Y", "kvm.tdp_mmu": "N"}),
        (["kvm.nx_huge_pages=never"], {"kvm.nx_huge_pages": "never"}),
    ],
)
def test_a_parameter_is_shown_as_the_kernel_shows_it(invoke, tmp_path, given, set_to):
    scenario = tmp_path / "s.txt"
    scenario.write_text(EPT)
    words = [word for setting in given for word in ("--param", setting)]
    header = json.loads(invoke("run", scenario, "--json", *words).output.splitlines()[0])
    assert header["params"] == {**parse_scenario(EPT).params, **set_to}


def test_they_are_set_after_vendor_and_nested_paging_brings_the_tdp_mmu(invoke, tmp_path):
    scenario = tmp_path / "s.txt"
    scenario.write_text(EPT.replace("vendor intel\nparam kvm_intel ept=1\n", ""))
    words = ("run", scenario, "--json", "--vendor", "intel", "--param", "kvm_intel.ept=1")
    for more, tdp_mmu in ((), "Y"), (("--param", "kvm.tdp_mmu=0"), "N"):
        header = json.loads(invoke(*words, *more).output.splitlines()[0])
        assert (header["params"]["kvm_intel.ept"], header["params"]["kvm.tdp_mmu"]) == ("Y", tdp_mmu)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("kvm_intel.pml", "'kvm_intel.pml' is not a setting; write KEY=VALUE"),
        ("kvm_intel.pml=2", "s.txt: '2' is not a value of kvm_intel.pml; use Y or N"),
        ("kvm_intel.pml=", "s.txt: '' is not a value of kvm_intel.pml; use Y or N"),
        ("kvm_intel.pml=force", "s.txt: 'force' is not a value of kvm_intel.pml; use Y or N"),
        ("kvm_amd.npt=1", "s.txt: there is no parameter 'kvm_amd.npt'; there are kvm_intel.ept,"),
        ("thp=Y", "s.txt: there is no parameter 'thp'; there are kvm_intel.ept,"),
        ("=1", "s.txt: there is no parameter ''; there are kvm_intel.ept,"),
    ],
)
def test_what_is_no_parameter(invoke, tmp_path, setting, complaint):
    scenario = tmp_path / "s.txt"
    scenario.write_text(EPT)
    refused = invoke("run", scenario, "--param", setting)
    assert refused.exit_code != 0
    assert complaint in refused.output
    assert "Traceback" not in refused.output


def test_a_hypervisor_keeps_nested_paging(invoke):
    with as_file(files("shadowmmu.guest.scenario") / "examples" / "nested.txt") as nested:
        refused = invoke("run", nested, "--param", "kvm_amd.npt=0")
    assert refused.exit_code != 0
    assert refused.output.endswith("nested.txt: a guest that is a hypervisor needs kvm_amd.npt\n")


def test_records_several_into_a_folder(invoke, fixtures, tmp_path):
    paths = [fixtures.scenarios / f"{name}.txt" for name in ("m-access", "f-pae")]
    result = invoke("run", *paths, "--record", tmp_path / "new" / "folder")
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "f-pae.jsonl",
        "m-access.jsonl",
    ]
    assert "all 2 scenarios: " in result.output
    again = invoke("run", paths[0], paths[0], "--record", tmp_path)
    assert again.exit_code == 2
    assert "two scenarios are named m-access" in again.output


def test_json(invoke, fixtures):
    result = invoke("run", fixtures.scenarios / "f-pae.txt", "--json")
    *lines, totals = result.output.splitlines(keepends=True)
    real = Recording.read(fixtures.recordings / "f-pae.jsonl")
    assert lines[1:] == [json_line(row) for row in real.rows]
    assert json.loads(totals)["totals"]["ops"] == len(real.rows) - 1


def test_events(invoke, fixtures, tmp_path):
    target = tmp_path / "trace.txt"
    invoke("run", fixtures.scenarios / "f-pae.txt", "--events", target)
    text = target.read_text()
    real = Recording.read(fixtures.recordings / "f-pae.jsonl")
    assert text.count(": kvm_mmu_set_spte: gfn ") == sum(
        event["e"] == "kvm_mmu_set_spte" for row in real.rows[1:] for event in row["events"]
    )
    assert "tracing_mark_write: op 0: nop" in text


def test_tlb_is_off_unless_asked_for(invoke, fixtures, player, monkeypatch):
    seen = []
    original = player.__init__

    def watched(self, *args, tlb=False):
        seen.append(tlb)
        original(self, *args, tlb=tlb)

    monkeypatch.setattr(player, "__init__", watched)
    invoke("run", fixtures.scenarios / "f-pae.txt")
    invoke("run", fixtures.scenarios / "f-pae.txt", "--tlb")
    assert seen == [False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "mode long4\nslot 0 0x0 1M\nstart\nread\n",
            ":4: `read` lacks an argument; write `read GVA [size=N]`",
        ),
        (
            "mode long4\nnested\n",
            ":2: a guest that is a hypervisor needs nested paging; put `param kvm_amd npt=1` first",
        ),
    ],
)
def test_bad_scenarios_are_one_line(command, tmp_path, text, message):
    path = tmp_path / "x.txt"
    path.write_text(text)
    done = command("run", path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "not compiled" not in line]
    assert line.startswith(f"shadowmmu: {path}{message}")


HYPERVISOR = """\
param kvm_amd npt=1
mode long4
nested
slot 0 0x0 16M
alloc 0x2000
tramp 0x1000
ntramp 0x8000
start cr3=0x1000 ncr3=0x8000
nop
l2nop
"""


@pytest.mark.parametrize("line", ["nop", "read 0x0", "ncr3 0x8000"])
def test_an_op_of_l1_while_l2_runs_is_one_line(command, fixtures, tmp_path, line):
    """What was played before stays: the text of the ops, recordings of other scenarios, old recordings."""
    first, second = fixtures.scenarios / "t-nopaging.txt", tmp_path / "x.txt"
    second.write_text(HYPERVISOR + line + "\nnop\n")
    (tmp_path / "x.jsonl").write_text("old")
    done = command("run", first, second, "--record", tmp_path)
    assert done.returncode == 2
    (error,) = [text for text in done.stderr.splitlines() if "not compiled" not in text]
    assert error == f"shadowmmu: {second}:11: vCPU 0 is in L2; put `l2exit` before `{line}`"
    lines = done.stdout.splitlines()
    assert "    0 nop  ok" in lines
    assert "    1 l2nop  ok" in lines
    assert not any(text.startswith("    2 ") for text in lines[lines.index("    1 l2nop  ok") :])
    assert Recording.read(tmp_path / "t-nopaging.jsonl").rows
    assert (tmp_path / "x.jsonl").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t-nopaging.jsonl", "x.jsonl", "x.txt"]


def test_no_file(command, tmp_path):
    done = command("run", tmp_path / "none.txt")
    assert done.returncode == 2
    assert f"shadowmmu: {tmp_path}/none.txt: No such file or directory" in done.stderr.splitlines()


def test_a_full_disk_is_one_line_and_leaves_no_file(invoke, fixtures, tmp_path):
    result = invoke("run", fixtures.scenarios / "f-pae.txt", "--record", "/dev/full")
    assert isinstance(result.exception, OSError)
    missing = tmp_path / "none" / "out.jsonl"
    result = invoke("run", fixtures.scenarios / "f-pae.txt", "--record", missing)
    assert isinstance(result.exception, FileNotFoundError)
    assert result.exception.filename == str(missing)


def test_failing_half_way_leaves_the_old_recording(invoke, fixtures, player, tmp_path):
    target = tmp_path / "out.jsonl"
    target.write_text("old")

    def fail(played):
        if played.op == 5:
            raise KeyboardInterrupt

    player.spoil = fail
    assert invoke("run", fixtures.scenarios / "f-pae.txt", "--record", target).exit_code != 0
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_perfetto_writes_a_timeline_of_all_scenarios(invoke, fixtures, tmp_path):
    target = tmp_path / "timeline.json"
    scenarios = [fixtures.scenarios / f"{name}.txt" for name in ("f-pae", "e-nonpae")]
    result = invoke("run", "--quiet", "--perfetto", target, *scenarios)
    assert result.exit_code == 0
    trace = json.loads(target.read_text())
    assert "simulated" in trace["otherData"]["clock"]
    processes = [row["args"]["name"] for row in trace["traceEvents"] if row["name"] == "process_name"]
    assert processes == [f"{name}: {what}" for name in ("f-pae", "e-nonpae") for what in ("vCPUs", "KVM")]


def test_perfetto_leaves_the_recording_as_it_is(invoke, fixtures, tmp_path):
    with_it, without = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    invoke("run", "--record", with_it, "--perfetto", tmp_path / "c.json", fixtures.scenarios / "f-pae.txt")
    invoke("run", "--record", without, fixtures.scenarios / "f-pae.txt")
    assert with_it.read_text() == without.read_text()
