"""The scenario language: what is understood, what is refused, and what it comes to."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from shadowmmu.guest import scenario as s
from shadowmmu.guest.scenario import Scenario, ScenarioError, resolve
from shadowmmu.trace.recording import Recorder, Recording

LAB = Path("/work/shared/lab")
CONFORMANCE = Path(__file__).parents[1] / "conformance"
EMBEDDED = Path(s.__file__).parent / "scenarios"

SETUP = """\
title test
mode {mode}
vcpus 2
slot 0 0x0 16M
slot 1 0x10000000 4M huge2m
alloc 0x2000
"""


def parse(*lines: str, mode: str = "long4", start: str = "start cr3=0x1000") -> Scenario:
    """A scenario whose line 8 is the first of `lines`."""
    return Scenario.parse("\n".join([SETUP.format(mode=mode) + start, *lines]), path="x.txt")


def op(line: str, mode: str = "long4") -> s.Op:
    return parse(line, mode=mode).ops[0]


def setup(*lines: str, mode: str = "long4") -> Scenario:
    """A scenario whose line 7 is the first of `lines`."""
    return Scenario.parse(SETUP.format(mode=mode) + "\n".join([*lines, "start cr3=0x1000"]), path="x.txt")


def lab_scenarios() -> list[Path]:
    found = sorted((LAB / "scenarios").rglob("*.txt"))
    return [path for path in found if "\nnested\n" not in path.read_text()]


# ----------------------------------------------------------------------------------- against real recordings


def pairs() -> list[tuple[Path, Path]]:
    found = []
    for top in (CONFORMANCE, LAB):
        for recording in sorted((top / "recordings").rglob("*.jsonl")):
            text = top / "scenarios" / recording.relative_to(top / "recordings").with_suffix(".txt")
            header = Recording.read(recording).header
            if header["params"]["kvm_amd.npt"] == "N" and text.exists():
                found.append((recording, text))
    return found


@pytest.mark.parametrize(("recording_path", "text_path"), pairs(), ids=lambda path: path.stem)
def test_resolves_to_what_was_recorded(recording_path, text_path):
    recording, text = Recording.read(recording_path), Scenario.load(text_path)
    header = Recorder(text, {}).header()
    for key in ("scenario", "title", "params", "tramp_gva", "setup"):
        assert header[key] == recording.header[key]
    assert [op.text for op in text.recorded_ops] == [row["do"] for row in recording.rows[1:]]
    assert [op.vcpu for op in text.recorded_ops] == [row["vcpu"] for row in recording.rows[1:]]
    alone = Scenario.from_recording(recording)
    assert resolve(alone).actions == resolve(text).actions
    fields = [[(type(op), op.text) for op in source.recorded_ops] for source in (alone, text)]
    assert fields[0] == fields[1]
    together = Scenario.from_recording(recording, text=text)
    assert together.ops == text.ops
    assert together.kernel == recording.header["kernel"]


@pytest.mark.parametrize("path", lab_scenarios(), ids=lambda path: path.stem)
def test_lab_scenarios(path):
    resolve(Scenario.load(path))


@pytest.mark.parametrize("mode", ["long4", "pae", "32"])
def test_everything_the_lab_fuzzer_writes(mode):
    if not (LAB / "fuzz.py").exists():
        pytest.skip("the lab is not here")
    spec = importlib.util.spec_from_file_location("lab_fuzz", LAB / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for seed in range(40):
        resolve(Scenario.parse(module.Gen(mode, str(seed), 120).make()))


@pytest.mark.parametrize("path", sorted(EMBEDDED.glob("*.txt")), ids=lambda path: path.stem)
def test_embedded_scenarios(path):
    assert resolve(Scenario.load(path)).nvcpus
    assert Scenario.load(path).title


# ------------------------------------------------------------------------------------------- from recordings


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
    text = Scenario.load(CONFORMANCE / "scenarios" / "m-access.txt")
    kinds = {type(op) for op in Scenario.from_recording(recorded()).ops}
    assert s.SetAc not in kinds
    with_text = Scenario.from_recording(recorded(), text=text)
    assert [op.on for op in with_text.ops if isinstance(op, s.SetAc)] == [True, False]


def test_dump_off_is_seen_in_the_rows(recorded):
    def without_states(rows):
        for row in rows[4:7]:
            del row["delta"]
        return rows

    scenario = Scenario.from_recording(recorded(without_states))
    dumps = [
        (scenario.ops[n + 1].text, op.on) for n, op in enumerate(scenario.ops) if isinstance(op, s.SetDump)
    ]
    assert dumps == [("uwrite 0x400000 1", False), ("exec 0x404000", True)]


def test_a_page_is_watched_from_the_op_that_reports_it(recorded):
    def report(rows):
        rows[5]["gptes"] = [["0x900008", "0x0", "0x1"], ["0x4000", "0x1", "0x2"]]
        rows[7]["gptes"] = [["0x900010", "0x0", "0x1"]]
        return rows

    ops = Scenario.from_recording(recorded(report)).ops
    watches = [(n, op.gpa) for n, op in enumerate(ops) if isinstance(op, s.WatchPage)]
    assert watches == [(3, 0x900000)]


def test_a_shorter_recording_takes_a_part_of_the_text(recorded):
    text = Scenario.load(CONFORMANCE / "scenarios" / "m-access.txt")
    recording = recorded(lambda rows: rows[:10])
    assert len(Scenario.from_recording(recording, text=text).recorded_ops) == 8


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
    text = Scenario.parse(source.replace(old, new), path="x.txt")
    if message is None:
        assert Scenario.from_recording(recorded(), text=text)
        return
    with pytest.raises(ScenarioError) as caught:
        Scenario.from_recording(recorded(), text=text)
    assert str(caught.value).startswith(message)
    assert "--scenarios" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, rows: header["setup"].append({"setup": "new"}), "1: unknown setup entry `new`"),
        (lambda header, rows: header["setup"].append({"setup": "pt"}), "1: the setup entry {'setup': 'pt'}"),
        (lambda header, rows: header["setup"].append({"setup": "vmcb"}), "1: nested scenarios"),
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
        Scenario.from_recording(recording)
    assert str(caught.value).startswith(f"{recording.path}:{message}")


# ------------------------------------------------------------------------------------------------ operations


@pytest.mark.parametrize(
    ("line", "kind", "fields"),
    [
        ("read 0x400000", s.Access, {"kind": "read", "user": False, "gva": 0x400000, "size": 8}),
        ("@1 uread 4M size=2", s.Access, {"vcpu": 1, "user": True, "gva": 4 << 20, "size": 2}),
        ("write 0x10 0x1234 size=1", s.Access, {"kind": "write", "value": 0x34, "size": 1}),
        ("uwrite 0x10", s.Access, {"kind": "write", "value": 0}),
        ("xchg 0x10 017", s.Access, {"kind": "xchg", "value": 15}),
        ("add 0x10 1K size=4", s.Access, {"kind": "add", "value": 1024, "size": 4}),
        ("cmpxchg 0x10 1 2", s.Access, {"kind": "cmpxchg", "value": 1, "expected": 2}),
        ("stos 0x10 0x123456789 n=3", s.Access, {"kind": "stos", "value": 0x23456789, "size": 4, "count": 3}),
        ("  nop", s.Nop, {"user": False, "text": "  nop"}),
        ("unop   # comment", s.Nop, {"user": True, "text": "unop"}),
        ("uexec 0x1", s.Exec, {"user": True, "gva": 1}),
        ("invlpg 0x1", s.Invlpg, {"gva": 1}),
        ("cr4 0x20", s.WriteCr, {"cr": 4, "value": 0x20}),
        ("efer 0xd00", s.WriteMsr, {"index": 0xC0000080, "value": 0xD00}),
        ("wrmsr 0x10 1", s.WriteMsr, {"index": 0x10, "value": 1}),
        ("@1 ac on", s.SetAc, {"vcpu": 1, "on": True}),
        ("dump off", s.SetDump, {"on": False}),
        ("watch 0x800000", s.WatchPage, {"gpa": 0x800000}),
        ("slot 2 1G 64K dirty keep skew=0x1000", s.SetSlot,
         {"slot": s.SlotSetup(2, 1 << 30, 1 << 16, 1, "dirty keep skew=0x1000", skew=4096), "keep": True}),
        ("delslot 5", s.DeleteSlot, {"slot": 5}),
        ("movslot 1 0x30000000", s.MoveSlot, {"slot": 1, "gpa": 0x30000000}),
        ("dirtylog on 1", s.SetSlotFlag, {"slot": 1, "flag": 1, "on": True}),
        ("roflag off 0", s.SetSlotFlag, {"slot": 0, "flag": 2, "on": False}),
        ("getdirty 1", s.GetDirty, {"slot": 1}),
        ("cleardirty 1 64 128", s.ClearDirty, {"slot": 1, "first": 64, "pages": 128}),
        ("cap 168 3", s.EnableCap, {"cap": 168, "arg": 3}),
        ("nrmmu 64", s.SetMmuPages, {"pages": 64}),
        ("madvise_dontneed 0x800000 4K", s.Madvise, {"gpa": 0x800000, "length": 4096, "advice": 4}),
        ("madvise 0x800000 8K 14", s.Madvise, {"length": 8192, "advice": 14}),
        ("mprotect 0x800000 4K none", s.Mprotect, {"protection": "none"}),
        ("remap 0x800000 4K", s.Remap, {"gpa": 0x800000}),
        ("hosttouch 0x800000 4K", s.HostTouch, {"length": 4096}),
        ("hostread 0x800004 size=4", s.HostRead, {"gpa": 0x800004, "size": 4}),
        ("hostwrite 0x800000 7", s.HostWrite, {"gpa": 0x800000, "value": 7, "size": 8}),
        ("pt 0x4000 511 0x67", s.SetGpte, {"gpa": 0x4FF8, "size": 8, "value": 0x67}),
        ("modparam kvm nx_huge_pages off", s.ModParam, {"name": "nx_huge_pages", "value": "off"}),
        ("sysfs /sys/x 1", s.Sysfs, {"path": "/sys/x", "value": "1"}),
        ("sleep_ms 10", s.Sleep, {"milliseconds": 10}),
        ("@1 hostsregs cr3=0x10000", s.HostSregs, {"vcpu": 1, "cr0": None, "cr3": 0x10000, "efer": None}),
        ("translate 0x400000", s.Translate, {"gva": 0x400000}),
        ("prefault 0x800000 4K", s.Prefault, {"gpa": 0x800000, "length": 4096}),
    ],
)  # fmt: skip
def test_op(line, kind, fields):
    parsed = op(line)
    assert type(parsed) is kind
    assert parsed.line == 8
    assert {name: getattr(parsed, name) for name in fields} == fields


def test_default_size_is_the_mode_s():
    assert op("read 0x1", "pae").size == 4
    assert op("cmpxchg 0x1 1 2 size=8", "pae").size == 8
    assert op("hostread 0x800000", "32").size == 4
    assert op("pt 0x1000 1023 1", "32").gpa == 0x1FFC


def test_end_ends_the_scenario_but_parameters_are_read_everywhere():
    scenario = parse("nop", "end", "nonsense", "param kvm_amd npt=1", "param kvm tdp_mmu=1")
    assert len(scenario.ops) == 1
    assert scenario.params["kvm_amd.npt"] == "Y"
    assert scenario.params["kvm.tdp_mmu"] == "Y"
    assert parse("nop").params["kvm.tdp_mmu"] == "N"


def test_nodump():
    assert isinstance(setup("nodump").ops[0], s.SetDump)


def test_slots_are_followed():
    parse("delslot 1", "slot 1 0x20000000 1M", "getdirty 1", "hosttouch 0x20000000 4K")
    parse("movslot 1 0x30000000", "hostread 0x30000000")
    with pytest.raises(ScenarioError, match="no slot has guest address 0x10000000"):
        parse("movslot 1 0x30000000", "hostread 0x10000000")


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("jump 0x1", "unknown word `jump`"),
        ("raed 0x1", "unknown word `raed`; did you mean `read`?"),
        ("uinvlpg 0x1", "unknown word `uinvlpg`"),
        ("map 1 2 3 4", "`map` is not an operation; put it before `start`"),
        ("l2read 0x1", "nested scenarios are not supported yet"),
        ("@2 nop", "there is no vCPU 2"),
        ("@ nop", "`@ nop` selects no vCPU"),
        ("@1", "`@1` selects no vCPU"),
        pytest.param("@" + "1" * 5000 + " nop", "selects no vCPU", id="long vCPU"),
        pytest.param("read " + "1" * 5000, "is out of range", id="long number"),
        ("@-1 nop", "`@-1 nop` selects no vCPU"),
        ("@1 dump on", "`dump` belongs to no vCPU"),
        ("read", "`read` lacks an argument; write `read GVA [size=N]`"),
        ("read 0x1 2", "`2` is not understood after `read`"),
        ("read 0x1 size=3", "`read` has no 3-byte form in mode long4; use size=1|2|4|8"),
        ("read 0x1 size=8K", "size= `8K` is not a number"),
        ("read 0x1 len=8", "`read` has no option `len=`"),
        ("read 0x1 size=1 size=1", "`size=` is given twice"),
        ("read size=1 0x1", "`0x1` is not understood after `read`"),
        ("read 0xg", "address `0xg` is not a number"),
        ("read 08", "address `08` is not a number"),
        ("read -1", "address `-1` is not a number"),
        ("read 1T", "address `1T` is not a number"),
        ("read 0x10000000000000000", "address 0x10000000000000000 is out of range"),
        ("read 0xffffffffffffffffK", "out of range"),
        ("xchg 0x1 1 size=1", "`xchg` has no 1-byte form"),
        ("stos 0x1 1 size=4", "`stos` has no option `size=`"),
        ("stos 0x1 1 n=0x200000", "n= 0x200000 is out of range"),
        ("cmpxchg 0x1 1", "`cmpxchg` lacks an argument"),
        ("nop 1", "`1` is not understood after `nop`"),
        ("wrmsr 0x100000000 1", "MSR 0x100000000 is out of range"),
        ("ac maybe", "`maybe` is not one of on, off"),
        ("getdirty 2", "there is no slot 2 at this point; use one of: 0, 1, 63"),
        ("dirtylog on 2", "there is no slot 2"),
        ("movslot 2 0x0", "there is no slot 2"),
        ("delslot 63", "slot 63 holds the guest's own code"),
        ("delslot 64", "slot 64 is out of range"),
        ("slot 63 0x0 4K", "slot 63 holds the guest's own code"),
        ("slot 2 0x0 1000", "size 1000 is not a multiple of 4K"),
        ("slot 2 0x800 4K", "address 0x800 is not a multiple of 4K"),
        ("slot 2 0x0 0", "size 0 is out of range"),
        ("slot 2 0xffffffffff000 8K", "guest addresses end at 0x10000000000000"),
        ("slot 2 0x0 4K huge2m", "do not fit huge2m pages"),
        ("slot 2 0x0 2M thp huge2m", "`thp` and `huge2m` exclude each other"),
        ("slot 2 0x0 4K skew=1", "skew=1 is not a multiple of 4K"),
        ("slot 2 0x0 4K big", "`big` is not understood after `slot`"),
        ("madvise 0x800000 100 4", "length 100 is not a multiple of 4K"),
        ("remap 0xfff000 8K", "0xfff000 + 0x2000 is beyond the slot; it ends at 0x1000000"),
        ("hostread 0x50000000", "no slot has guest address 0x50000000 at this point"),
        ("hostread 0x800000 size=2", "`hostread` has no 2-byte form"),
        ("hostwrite 0x800000 0x100000000 size=4", "value 0x100000000 is out of range"),
        ("pt 0x1000 512 0", "index 512 is out of range"),
        ("mprotect 0x800000 4K rx", "`rx` is not one of ro, rw, none"),
        ("modparam e1000 a b", "`e1000` is not one of kvm, kvm_amd"),
        ("hostsregs cr2=1", "`hostsregs` has no option `cr2=`"),
        ('sysfs /sys/x "1"', "a quote or backslash"),
    ],
)
def test_refused_ops_name_file_line_and_mend(line, message):
    with pytest.raises(ScenarioError) as caught:
        parse(line)
    text = str(caught.value)
    assert text.startswith("x.txt:8: ")
    assert message in text
    assert "; " in text


@pytest.mark.parametrize(
    ("line", "mode", "message"),
    [
        ("read 0x1 size=8", "pae", "`read` has no 8-byte form in mode pae; use size=1|2|4"),
        ("read 0x100000000", "32", "address 0x100000000 is out of range"),
        ("cr3 0x100000000", "pae", "value 0x100000000 is out of range"),
        ("pt 0x1000 0 0x100000000", "32", "entry 0x100000000 is out of range"),
        ("pt 0x1000 1024 0", "32", "index 1024 is out of range"),
    ],
)
def test_refused_in_a_mode(line, mode, message):
    with pytest.raises(ScenarioError, match=r"x.txt:8: ") as caught:
        op(line, mode)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("read 0x1", "`read` is an operation; put it after `start`"),
        ("@1 read 0x1", "`@1` is an operation"),
        ("mapp 1 2 3 4", "unknown word `mapp`; did you mean `map`?"),
        ("nested", "nested scenarios are not supported yet"),
        ("npt map 1 2 3 4", "nested scenarios are not supported yet"),
        ("mode pae", "`mode` is given twice"),
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
        ("param kvm_amd npt=maybe", "`maybe` is no value of kvm_amd.npt"),
        ("param kvm", "`param` lacks an argument"),
        ("start cr3@2=0x1000", "`start` has no option `cr3@2=`"),
        ("start ncr3=0x1000", "nested scenarios are not supported yet"),
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
        Scenario.parse(text, path="t")
    assert str(caught.value).startswith(message)


def test_not_text(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"mode long4\n\xff\n")
    with pytest.raises(ScenarioError, match=r"x\.txt:2: this is not UTF-8 text; "):
        Scenario.load(path)


WORDS = "mode|long4|slot|0|0x0|1M|start|map|tramp|alloc|read|write|@1|#|title|param|=|size=|K|\n"


@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS.split("|")), max_size=40).map(" ".join))
def test_nothing_but_scenario_errors(text):
    try:
        resolve(Scenario.parse(text))
    except ScenarioError as error:
        assert str(error).startswith("<text>:")


# ------------------------------------------------------------------------------------------------- resolving


def entries(scenario: Scenario) -> list[tuple[int, int]]:
    actions = resolve(scenario).actions
    return [(a.gpa, a.value) for a in actions if isinstance(a, s.Pt) and a.gpa < s.TRAMP_GPA]


def test_map_extends_the_tables():
    scenario = setup("map 0x1000 0x400000 0x800000 0x67 n=2", "map 0x1000 0x800000 0x10000000 0x65 level=2")
    assert entries(scenario) == [
        (0x1000, 0x2027),
        (0x2000, 0x3027),
        (0x3010, 0x4027),
        (0x4000, 0x800067),
        (0x4008, 0x801067),
        (0x3020, 0x100000E5),
    ]


def test_map_options():
    scenario = setup("nonleaf 0x7", "map 0x1000 0 0x800000 0x67 n=2 stride=0x200000 gstride=0", mode="pae")
    assert entries(scenario) == [
        (0x1000, 0x2001),
        (0x2000, 0x3007),
        (0x3000, 0x800067),
        (0x2008, 0x4007),
        (0x4000, 0x800067),
    ]


def test_map_sees_what_was_poked():
    scenario = setup("poke 0x1000 0x9027", "map 0x1000 0 0x800000 0x67")
    assert entries(scenario)[0] == (0x9000, 0x2027)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["poke 0x2000 1", "map 0x1000 0 0 0x67"], "x.txt:8: `map` would take page 0x2000"),
        (["alloc 0xfff000", "map 0x1000 0 0 0x67"], "x.txt:8: no slot has guest address 0x1000000"),
        (["poke 0x1000 0x50000027", "map 0x1000 0 0 0x67"], "x.txt:8: no slot has guest address 0x50000000"),
    ],
)
def test_map_that_cannot_be(lines, message):
    scenario = setup(*lines)
    with pytest.raises(ScenarioError) as caught:
        resolve(scenario)
    assert str(caught.value).startswith(message)


def test_map_without_alloc():
    text = "mode long4\nslot 0 0x0 1M\nmap 0x1000 0 0 0x67\nstart"
    with pytest.raises(
        ScenarioError, match=r"<text>:3: `map` needs a page for a page table; put `alloc GPA`"
    ):
        resolve(Scenario.parse(text))


def test_an_entry_too_wide_for_the_mode():
    scenario = setup("map 0x1000 0 0x100000000 0x67", mode="32")
    with pytest.raises(ScenarioError, match=r"x.txt:7: the entry 0x100000067 does not fit in 4 bytes"):
        resolve(scenario)


def test_vcpus():
    scenario = parse(start="start cr3=0x1000 cr3@1=0x5000 cr4=0x30", mode="long5")
    setup = resolve(scenario)
    assert setup.nvcpus == 2
    assert [(v.id, v.cr3, v.cr4, v.cr0, v.efer) for v in setup.vcpus] == [
        (0, 0x1000, 0x1030, 0x80010033, 0xD00),
        (1, 0x5000, 0x1030, 0x80010033, 0xD00),
    ]
    assert setup.params["kernel"].startswith("6.12.")
    assert setup.maxphyaddr == 40


def test_watched_pages_are_in_order_of_appearance():
    scenario = setup("watch 0x800000", "pt 0x9000 0 1", "watch 0x9008", "tramp 0x1000")
    assert resolve(scenario).watched_pages == (0x800000, 0x9000, 0x1000, 0xF0004000, 0xF0003000, 0xF0002000)


def test_the_slot_of_the_guest_code_comes_with_the_first_tramp_or_last():
    first = [a for a in resolve(setup("tramp 0x1000", "poke 0x0 1")).actions if not isinstance(a, s.Pt)]
    last = [a for a in resolve(setup("poke 0x0 1")).actions if not isinstance(a, s.Pt)]
    assert [type(a).__name__ for a in first[2:]] == ["SlotSetup", "Poke", "Vcpu", "Vcpu"]
    assert [type(a).__name__ for a in last[2:]] == ["Poke", "SlotSetup", "Vcpu", "Vcpu"]


def test_scenarios_are_values():
    scenario = parse("nop")
    with pytest.raises(AttributeError):
        scenario.mode = "pae"
    with pytest.raises(AttributeError):
        scenario.ops[0].vcpu = 1
    assert sys.getsizeof(scenario.ops[0]) < 100
