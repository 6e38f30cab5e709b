"""Whole scenarios: from files, from recordings, and what is refused."""

import json
import sys
from pathlib import Path

import pytest
from guest.language import parse, setup
from hypothesis import given, strategies as st

from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario import scenario as module
from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.guest.scenario.module_params import MORE_PARAMS
from shadowmmu.guest.scenario.ops import SetAc, SetDump, WatchPage
from shadowmmu.guest.scenario.parser import load_scenario, parse_scenario
from shadowmmu.guest.scenario.setup import ScenarioError, resolve
from shadowmmu.kvm.tracepoints.tracer import EventLog
from shadowmmu.trace.recorder import Recorder, json_line
from shadowmmu.trace.recording import Recording

CONFORMANCE = Path(__file__).parents[2] / "conformance"
EMBEDDED = Path(module.__file__).parent / "examples"


# -- against real recordings -----------------------------------------------------------------------------


def pairs() -> list[tuple[Path, Path]]:
    recordings = sorted((CONFORMANCE / "recordings").glob("*.jsonl"))
    return [(path, CONFORMANCE / "scenarios" / f"{path.stem}.txt") for path in recordings]


@pytest.mark.parametrize(("recording_path", "text_path"), pairs(), ids=lambda path: path.stem)
def test_resolves_to_what_was_recorded(recording_path, text_path):
    recording, text = Recording.read(recording_path), load_scenario(text_path)
    header = Recorder(text, {}).header()
    header["params"] = {name: value for name, value in header["params"].items() if name not in MORE_PARAMS}
    for key in ("scenario", "title", "params", "tramp_gva", "setup"):
        assert header[key] == recording.header[key]
    assert [op.text for op in text.recorded_ops] == [row["do"] for row in recording.rows[1:]]
    assert [op.vcpu for op in text.recorded_ops] == [row["vcpu"] for row in recording.rows[1:]]
    alone = rebuild_scenario(recording)
    assert resolve(alone).actions == resolve(text).actions
    fields = [[(type(op), op.text) for op in source.recorded_ops] for source in (alone, text)]
    assert fields[0] == fields[1]
    together = rebuild_scenario(recording, text=text)
    assert together.ops == text.ops
    assert together.kernel == recording.header["kernel"]


@pytest.mark.parametrize("path", sorted(EMBEDDED.glob("*.txt")), ids=lambda path: path.stem)
def test_embedded_scenarios(path):
    assert resolve(load_scenario(path)).nvcpus
    assert load_scenario(path).title


# -- from recordings -------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path):
    """The m-access fixture, the only one with `ac` lines; changed by a function of its JSON lines."""

    def make(change=lambda rows: rows) -> Recording:
        source = (CONFORMANCE / "recordings" / "m-access.jsonl").read_text().splitlines()
        rows = change([json.loads(line) for line in source])
        target = tmp_path / "m-access.jsonl"
        target.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Recording.read(target)

    return make


def test_ac_comes_from_the_text(recorded):
    text = load_scenario(CONFORMANCE / "scenarios" / "m-access.txt")
    kinds = {type(op) for op in rebuild_scenario(recorded()).ops}
    assert SetAc not in kinds
    with_text = rebuild_scenario(recorded(), text=text)
    assert [op.on for op in with_text.ops if isinstance(op, SetAc)] == [True, False]


def test_dump_off_is_seen_in_the_rows(recorded):
    def without_states(rows):
        for row in rows[4:7]:
            del row["delta"]
        return rows

    scenario = rebuild_scenario(recorded(without_states))
    dumps = [
        (scenario.ops[n + 1].text, op.on) for n, op in enumerate(scenario.ops) if isinstance(op, SetDump)
    ]
    assert dumps == [("uwrite 0x400000 1", False), ("exec 0x404000", True)]


def test_a_page_is_watched_from_the_op_that_reports_it(recorded):
    def report(rows):
        rows[5]["gptes"] = [["0x900008", "0x0", "0x1"], ["0x4000", "0x1", "0x2"]]
        rows[7]["gptes"] = [["0x900010", "0x0", "0x1"]]
        return rows

    ops = rebuild_scenario(recorded(report)).ops
    watches = [(n, op.gpa) for n, op in enumerate(ops) if isinstance(op, WatchPage)]
    assert watches == [(3, 0x900000)]


def test_a_shorter_recording_takes_a_part_of_the_text(recorded):
    text = load_scenario(CONFORMANCE / "scenarios" / "m-access.txt")
    recording = recorded(lambda rows: rows[:10])
    assert len(rebuild_scenario(recording, text=text).recorded_ops) == 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("uread 0x401000", "uread 0x401008", "x.txt:22: `uread 0x401008`, recorded `uread 0x401000`"),
        ("poke", "poke", None),
        ("code 0x800000", "code 0x800800", "x.txt:1: the setup is not the recorded one"),
        ("start cr3=0x1000", "start cr3=0x1000 cr4=0x30", "x.txt:1: the vCPUs' registers"),
        ("mode long4", "mode long5", "x.txt:1: mode long5, recorded long4"),
        ("efer 0xd00\nread 0x404000", "efer 0xd00", "x.txt:56: the scenario ends before `read 0x404000`"),
    ],
)
def test_the_text_must_be_the_recorded_scenario(recorded, old, new, message):
    source = (CONFORMANCE / "scenarios" / "m-access.txt").read_text()
    text = parse_scenario(source.replace(old, new), path="x.txt")
    if message is None:
        assert rebuild_scenario(recorded(), text=text)
        return
    with pytest.raises(ScenarioError) as caught:
        rebuild_scenario(recorded(), text=text)
    assert str(caught.value).startswith(message)
    assert "--scenarios" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, rows: header["setup"].append({"setup": "new"}), "1: unknown setup entry `new`"),
        (lambda header, rows: header["setup"].append({"setup": "pt"}), "1: the setup entry {'setup': 'pt'}"),
        (lambda header, rows: header["setup"].append({"setup": "vmcb"}), "1: the setup entry {'setup': 'vm"),
        (lambda header, rows: header["setup"].clear(), "1: the setup has no vCPU"),
        (lambda header, rows: rows[3].update(do="jump 0x1"), "5: unknown word `jump`"),
        (lambda header, rows: rows[3].update(do=" "), "5: the op has no text"),
        (lambda header, rows: rows[3].update(gptes=[["0x1", "0x2"]]), "5: `gptes` is malformed"),
        (lambda header, rows: rows[3].update(gptes=[["?", "0x2", "0x3"]]), "5: `gptes` is malformed"),
    ],
)  # fmt: skip
def test_broken_recordings(recorded, change, message):
    def changed(lines):
        change(lines[0], lines[1:])
        return lines

    recording = recorded(changed)
    with pytest.raises(ScenarioError) as caught:
        rebuild_scenario(recording)
    assert str(caught.value).startswith(f"{recording.path}:{message}")


# -- files -----------------------------------------------------------------------------------------------


def test_end_ends_the_scenario_but_parameters_are_read_everywhere():
    scenario = parse("nop", "end", "nonsense", "param kvm_amd npt=1", "param kvm tdp_mmu=1")
    assert len(scenario.ops) == 1
    assert scenario.params["kvm_amd.npt"] == "Y"
    assert scenario.params["kvm.tdp_mmu"] == "Y"
    assert parse("nop").params["kvm.tdp_mmu"] == "N"


def test_nodump():
    assert isinstance(setup("nodump").ops[0], SetDump)


def test_scenarios_are_values():
    scenario = parse("nop")
    with pytest.raises(AttributeError):
        scenario.modes = ("pae",)
    with pytest.raises(AttributeError):
        scenario.ops[0].vcpu = 1
    assert sys.getsizeof(scenario.ops[0]) < 100


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("read 0x1", "`read` is an operation; put it after `start`"),
        ("@1 read 0x1", "`@1` is an operation"),
        ("mapp 1 2 3 4", "unknown word `mapp`; did you mean `map`?"),
        ("nested", "a guest that is a hypervisor needs nested paging; put `param kvm_amd npt=1` first"),
        ("npt map 1 2 3 4", "`npt` needs a guest that is a hypervisor; put `nested` before it"),
        ("mode pae", "`mode` is given twice"),
        ("mode@1 pae", "`mode@N` comes after the setup has begun; put it right after `mode` and `vcpus`"),
        ("mode@2 pae", "there is no vCPU 2 at this point; put a `vcpus` line with more vCPUs first"),
        ("map@2 0x1000 0 0 7", "there is no vCPU 2 at this point"),
        ("alloc@1 0x2000", "`alloc@1` belongs to no vCPU; write `alloc`; with @N there are mode, tramp, map"),
        ("map@x 0x1000 0 0 7", "vCPU `x` is not a number"),
        ("vcpus 3", "`vcpus` is given twice"),
        ("physbits 53", "MAXPHYADDR 53 is out of range; use 32 to 52"),
        ("slot 0 0x20000000 4K", "slot 0 exists already"),
        ("slot 2 0xfff000 8K", "slot 2 overlaps slot 0"),
        ("slot 2 0xf0000000 4K", "slot 2 overlaps the guest code"),
        ("slot 2 0x20000000 4K keep", "`keep` is not understood after `slot`"),
        ("pt 0x20000000 0 1", "no slot has guest address 0x20000000"),
        ("poke 0xfffffc 1", "0xfffffc + 0x8 is beyond the slot"),
        ("code 0x20000000", "no slot has guest address"),
        ("alloc 0x20000000", "no slot has guest address"),
        ("alloc 0x0", "address 0x0 is out of range"),
        ("alloc 0x1800", "is not a multiple of 4K"),
        ("map 0x1000 0x0 0x0", "`map` lacks an argument"),
        ("map 0x1000 0x0 0x0 0x67 level=5", "level= 5 is out of range"),
        ("map 0x1000 0x0 0x0 0x67 n=0", "n= 0 is out of range"),
        ("tramp 0x20000000", "no slot has guest address"),
        ("param kvm nonsense=1", "there is no parameter `kvm nonsense`"),
        ("param kvm_amd npt=maybe", "`maybe` is not a value of kvm_amd.npt"),
        ("param kvm", "`param` lacks an argument"),
        ("start cr3@2=0x1000", "`start` has no option `cr3@2=`"),
        ("start ncr3=0x1000", "`start` has no option `ncr3=`"),
    ],
)
def test_refused_setup(line, message):
    with pytest.raises(ScenarioError) as caught:
        setup(line)
    assert str(caught.value).startswith("x.txt:7: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t:1: no `start`"),
        ("mode long4\nslot 0 0x0 1M\n", "t:3: no `start`"),
        ("slot 0 0x0 1M\nmode long4", "t:1: `slot` comes before `mode`"),
        ("mode long6", "t:1: `long6` is not one of long4, long5, pae, 32, nopaging"),
        ("mode long4\nvcpus 9", "t:2: number of vCPUs 9 is out of range; use 1 to 8"),
        ("mode nopaging\nslot 0 0x0 1M\nalloc 0x1000\nmap 0 0 0 0", "t:4: there are no page tables"),
    ],
)
def test_refused_scenarios(text, message):
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, path="t")
    assert str(caught.value).startswith(message)


def test_not_text(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"mode long4\n\xff\n")
    with pytest.raises(ScenarioError, match=r"x\.txt:2: this is not UTF-8 text; "):
        load_scenario(path)


WORDS = "mode|long4|slot|0|0x0|1M|start|map|tramp|alloc|read|write|@1|#|title|param|=|size=|K|\n"


@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS.split("|")), max_size=40).map(" ".join))
def test_nothing_but_scenario_errors(text):
    try:
        resolve(parse_scenario(text))
    except ScenarioError as error:
        assert str(error).startswith("<text>:")


def test_what_kvm_refused_in_a_recorded_setup_it_may_refuse_again(tmp_path):
    """The machine of a recording answers as it did: user space went on without the slot."""
    text = "param kvm_amd npt=1\nmode long4\nslot 0 0x0 16M\nslot 1 1024G 1M\nstart cr3=0x1000\n"
    scenario = parse_scenario(text.replace("mode", "hostbits 46\nmode"))
    recorder = Recorder(scenario, {})
    header = recorder.header()
    for entry in header["setup"]:
        if entry.get("id") == 1 and entry["setup"] == "slot":
            entry["result"] = -22
        entry.pop("host", None)
    path = tmp_path / "refused.jsonl"
    path.write_text(json_line(header) + json_line({"op": -1, "do": "start"}))
    for written in (None, parse_scenario(text)):
        rebuilt = rebuild_scenario(Recording.read(path), text=written)
        player = Player(resolve(rebuilt), EventLog(), lambda machine: {})
        assert [slot.id for slot in player.kvm.memslots] == [0, 63]
    with pytest.raises(ScenarioError, match="<text>:4: KVM refuses slot 1: EINVAL"):
        Player(resolve(parse_scenario(text)), EventLog(), lambda machine: {})
