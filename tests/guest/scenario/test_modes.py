"""vCPUs of one VM in different paging modes over the same memory."""

import pytest
from guest.language import parse
from kvm.world import World

from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.guest.scenario.modes import MODES, TRAMP_GPA, trampolines_of
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.setup import Pt, ScenarioError, resolve
from shadowmmu.kvm.tracepoints.tracer import EventLog
from shadowmmu.trace.recorder import Recorder, json_line
from shadowmmu.trace.recording import Recording
from shadowmmu.trace.snapshot import snapshot

TWO_MODES = """\
mode {first}
vcpus 2
mode@1 {second}
slot 0 0x0 16M
alloc 0x20000
tramp 0x1000
tramp@1 0x2000
map 0x1000 0x400000 0x800000 0x67 n=2
map@1 0x2000 0x400000 0x800000 0x67 n=2
start cr3=0x1000 cr3@1=0x2000
"""
PAGING = ("long4", "long5", "pae", "32")


@pytest.mark.parametrize("first", PAGING)
@pytest.mark.parametrize("second", [*PAGING, "nopaging"])
def test_each_vcpu_walks_its_own_kind_of_tables(first, second):
    text = TWO_MODES.format(first=first, second=second)
    if second == "nopaging":
        text = "\n".join(line for line in text.split("\n") if not line.startswith("map@1"))
    world = World.of(text)
    world.ok("nop", "@1 nop", "write 0x400008 0x1234 size=4")
    gva = 0x800008 if second == "nopaging" else 0x400008
    assert world.do(f"@1 read {gva:#x} size=4").result == {"outcome": "ok", "value": "0x1234"}
    world.ok(f"@1 write {gva:#x} 0x4321 size=4")
    assert world.do("read 0x400008 size=4").result["value"] == "0x4321"
    missing = world.do("read 0x600000")
    assert missing.result["vector"] == 14
    world.check()


def test_setup_words_with_a_vcpu_are_about_its_mode():
    scenario = parse_scenario(TWO_MODES.format(first="long4", second="32"))
    sizes = {
        action.gpa & -4096: action.size for action in resolve(scenario).actions if isinstance(action, Pt)
    }
    assert (sizes[0x1000], sizes[0x2000]) == (8, 4)
    assert scenario.modes == ("long4", "32")
    assert [(vcpu.cr4, vcpu.efer) for vcpu in scenario.vcpus] == [(0x20, 0xD00), (0x10, 0)]


def test_operations_have_the_sizes_of_their_vcpu_s_mode():
    text = TWO_MODES.format(first="long4", second="32")
    ops = parse_scenario(text + "read 0x400000\n@1 read 0x400000\n@1 pt 0x2000 1023 0\npt 0x1000 511 0\n").ops
    assert [op.size for op in ops] == [8, 4, 4, 8]
    with pytest.raises(ScenarioError, match="`read` has no 8-byte form in mode 32"):
        parse_scenario(text + "@1 read 0x400000 size=8\n")


def test_registers_can_be_given_per_vcpu():
    vcpus = parse(start="start cr3=0x1000 efer@1=0x500 cr4=0xa0").vcpus
    assert [(vcpu.cr4, vcpu.efer) for vcpu in vcpus] == [(0xA0, 0xD00), (0xA0, 0x500)]
    text = TWO_MODES.format(first="long4", second="pae").replace(
        "start", "start cr4=0x100020 cr0@1=0x80000011"
    )
    vcpus = parse_scenario(text).vcpus
    assert [(vcpu.cr0, vcpu.cr4) for vcpu in vcpus] == [(0x80010033, 0x100020), (0x80000011, 0x20)]


def test_every_mode_has_its_own_code_slot():
    found = trampolines_of(["long4", "pae", "long4", "nopaging"])
    assert [(name, t.slot, t.gpa, t.gva) for name, t in found.items()] == [
        ("long4", 63, TRAMP_GPA, MODES["long4"].tramp_gva),
        ("pae", 61, TRAMP_GPA + 0x10000, MODES["pae"].tramp_gva),
        ("nopaging", 60, TRAMP_GPA + 0x20000, TRAMP_GPA + 0x20000),
    ]
    text = TWO_MODES.format(first="long4", second="pae")
    for line, message in (
        ("slot 61 0x2000000 4K", "slot 61 holds the guest's own code; use 0 to 60"),
        ("slot 1 0xf0010000 4K", "slot 1 overlaps the guest code at 0xf0010000"),
    ):
        with pytest.raises(ScenarioError, match=message):
            parse_scenario(text.replace("alloc", f"{line}\nalloc"))


def test_mode_for_a_vcpu_comes_once_and_after_the_number_of_vcpus():
    for old, new, message in (
        ("vcpus 2\nmode@1 pae", "mode@1 pae\nvcpus 2", "there is no vCPU 1 at this point"),
        (
            "mode long4\nvcpus 2\nmode@1 pae",
            "vcpus 2\nmode@1 pae\nmode long4",
            "`mode@N` comes before `mode`",
        ),
        ("mode@1 pae", "mode@1 pae\nmode@1 32", "the mode of vCPU 1 is given twice"),
        ("vcpus 2\nmode@1 pae", "vcpus 2\nmode@0 pae", "`mode` is given twice"),
    ):
        text = TWO_MODES.format(first="long4", second="pae")
        with pytest.raises(ScenarioError, match=message):
            parse_scenario(text.replace(old, new))


@pytest.mark.parametrize("second", ["long4", "pae", "32"])
def test_two_vcpus_of_l1_run_l2_on_one_memory_in_their_own_formats(second):
    text = f"""\
param kvm_amd npt=1
mode long4
vcpus 2
mode@1 {second}
slot 0 0x0 16M
nested
alloc 0x20000
tramp 0x1000
tramp@1 0x2000
ntramp 0x10000
ntramp@1 0x11000
npt map 0x10000 0x400000 0x800000 0x67
npt@1 map 0x11000 0x400000 0x800000 0x67
start cr3=0x1000 cr3@1=0x2000 ncr3=0x10000 ncr3@1=0x11000
"""
    world = World.of(text)
    world.ok("nop", "@1 nop", "l2write 0x400000 0x55", "@1 l2write 0x400004 0x66")
    assert world.do("l2read 0x400004").result["value"] == "0x66"
    assert world.do("@1 l2read 0x400000").result["value"] == "0x55"
    world.check()


def test_a_recording_keeps_the_modes(tmp_path):
    scenario = parse_scenario(
        TWO_MODES.format(first="long4", second="32") + "nop\n@1 nop\n@1 write 0x400000 1\n"
    )
    player = Player(resolve(scenario), EventLog(), snapshot)
    recorder = Recorder(scenario, player.areas)
    rows = [recorder.header(), recorder.row(player.start()), *map(recorder.row, player.play(scenario.ops))]
    path = tmp_path / "two.jsonl"
    path.write_text("".join(map(json_line, rows)))
    rebuilt = rebuild_scenario(Recording.read(path))
    assert rebuilt.modes == ("long4", "32")
    assert resolve(rebuilt).actions == resolve(scenario).actions
    again = Player(resolve(rebuilt), EventLog(), snapshot)
    recorder = Recorder(rebuilt, again.areas)
    assert [recorder.row(again.start()), *map(recorder.row, again.play(rebuilt.ops))] == rows[1:]
