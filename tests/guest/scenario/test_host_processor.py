"""The word `host`: how processors of Intel differ, in scenarios, recordings and for `compare`."""

from pathlib import Path

import pytest

from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.guest.scenario.host_processor import HostProcessor
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.setup import ScenarioError, resolve
from shadowmmu.kvm.tracepoints.exits import Exit
from shadowmmu.kvm.tracepoints.tracer import EventLog
from shadowmmu.trace.recorder import Recorder, json_line
from shadowmmu.trace.recording import Recording
from shadowmmu.trace.snapshot import snapshot
from shadowmmu.x86.vmx import EXIT_REASON_EPT_VIOLATION as EPT_VIOLATION

MACHINE = "mode long4\nslot 0 0x0 16M\nalloc 0x2000\ntramp 0x1000\nmap 0x1000 0x400000 0x800000 0x67\n"
BROADWELL = f"host l1tf=44 exitinfo=no\n{MACHINE}start cr3=0x1000\nnop\nwrite 0x400000 1\n"


def qualifications(text: str) -> list[int]:
    scenario = parse_scenario(f"vendor intel\nparam kvm_intel ept=1\n{text}")
    player = Player(resolve(scenario), EventLog(), snapshot)
    events = [event for played in player.play(scenario.ops) for event in played.events]
    return [event.info1 for event in events if isinstance(event, Exit) and event.exit_reason == EPT_VIOLATION]


def test_a_host_without_words_about_it_is_not_vulnerable() -> None:
    assert parse_scenario(f"{MACHINE}start cr3=0x1000\n").host == HostProcessor(40, False, 0, True)


def test_the_lines_about_the_host_come_in_any_order() -> None:
    text = f"host l1tf=46\nhostbits 45\nhost exitinfo=no\n{MACHINE}start cr3=0x1000\nvendor intel\n"
    assert parse_scenario(text).host == HostProcessor(45, False, 46, False)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("host", "`host` lacks an argument; write `host [l1tf=BITS] [exitinfo=yes|no]"),
        ("host l1tf", "`l1tf` is not a setting; write `host [l1tf"),
        ("host l1tf=0x2c", "'0x2c' is not a number of bits; write l1tf=44"),
        ("host l1tf=444", "'444' is not a number of bits; write l1tf=44"),
        ("host exitinfo=1", "'1' is not a value of exitinfo; write exitinfo=yes or exitinfo=no"),
        ("host bits=40", "a host has no setting 'bits'; there are l1tf, exitinfo"),
        ("host l1tf=39", "l1tf=39 does not fit a host with 40 physical address bits; its L1 cache"),
        ("host l1tf=47", "l1tf=47 does not fit a host with 40 physical address bits; its L1 cache"),
        ("hostbits 47\nhost l1tf=46", "at most 46 bits (`hostbits`)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(line: str, says: str) -> None:
    with pytest.raises(ScenarioError) as error:
        parse_scenario(f"vendor intel\n{line}\n{MACHINE}start cr3=0x1000\n")
    assert says in str(error.value)
    assert str(error.value).startswith(f"<text>:{2 + line.count(chr(10))}: ")


@pytest.mark.parametrize("setting", ["l1tf=44", "exitinfo=no"])
def test_amd_s_processors_have_neither(setting: str) -> None:
    with pytest.raises(ScenarioError, match=r"<text>:1: .* is about Intel's processors; say `vendor intel`"):
        parse_scenario(f"host {setting}\n{MACHINE}start cr3=0x1000\n")
    scenario = parse_scenario(f"vendor intel\nhost {setting}\n{MACHINE}start cr3=0x1000\n")
    with pytest.raises(ScenarioError, match="is about Intel's processors"):
        scenario.with_vendor("amd")


def test_without_advanced_exit_information_qualifications_say_nothing_of_the_linear_address() -> None:
    rights = 7 << 9
    with_it, without = (qualifications(text) for text in (BROADWELL.replace("no\n", "yes\n", 1), BROADWELL))
    assert [word & ~rights for word in with_it] == without
    assert any(word & rights for word in with_it)


def test_a_recording_says_what_it_was_made_on(tmp_path: Path) -> None:
    scenario = parse_scenario(f"vendor intel\n{BROADWELL}")
    player = Player(resolve(scenario), EventLog(), snapshot)
    recorder = Recorder(scenario, player.areas)
    path = tmp_path / "broadwell.jsonl"
    path.write_text(json_line(recorder.header()) + json_line(recorder.row(player.start())))
    assert rebuild_scenario(Recording.read(path)).host == HostProcessor(l1tf=44, exit_info=False)
    text = path.read_text()
    assert '"l1tf":44,"exit_info":0' in text
    for wrong in ('"l1tf":47', '"l1tf":"44"', '"l1tf":39', '"l1tf":44,"exit_info":2'):
        path.write_text(text.replace('"l1tf":44,"exit_info":0', wrong))
        with pytest.raises(ScenarioError, match="make the recording anew"):
            rebuild_scenario(Recording.read(path))
