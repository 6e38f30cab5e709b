"""Questions about a program: where it is, who causes what, why an entry is as it is, tables at a point."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from guest.pc.programs import HELLO, program

from shadowmmu import native

MISSING = [name for name in ("unicorn", "iced_x86") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)} (shadowmmu[guest])")
GUEST = Path(__file__).parents[1] / "guest"
STORM = GUEST / "linux" / "guests" / "storm.elf"
FEATURES = GUEST / "pc" / "guests" / "features.flat"
PLACE = "0x10000000"


@pytest.mark.parametrize(
    ("point", "where"),
    [
        ("touch", "at touch (rip"),
        ("touch+0x2", "at touch+0x2 (rip"),
        ("syscall:munmap#3", "in munmap"),
        ("exit:50", "after 50 exits"),
        ("event:kvm_mmu_sync_page", "stopped at event:kvm_mmu_sync_page"),
        (f"gva:{PLACE}", "at touch+0x2 (rip"),
    ],
)
def test_a_program_stops_at_a_point(command, point, where):
    ran = command("run", "--deterministic", "--stop-at", point, STORM)
    assert ran.returncode == 0, ran.stderr
    assert f"stopped at {point}, after" in ran.stderr
    assert where in ran.stderr
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) <= 24, "one screen"


@pytest.mark.parametrize("npt", ["--npt", "--no-npt"])
def test_the_screen_as_an_object(command, npt):
    ran = command("run", npt, "--json", "--stop-at", f"gva:{PLACE}", STORM)
    said = json.loads(ran.stderr)
    assert said["process"] == "mapper"
    assert said["at"] == "touch+0x2"
    assert said["rip"] == said["registers"]["rip"]
    assert said["cr3"] == said["registers"]["cr3"]
    assert said["last_exits"]


def test_an_instruction_is_about_to_be_executed_at_its_stop(command):
    ran = command("run", "--json", "--stop-at", "storm", STORM)
    assert json.loads(ran.stderr)["at"] == "storm"


def test_a_bare_machine_stops_at_an_address(command, tmp_path):
    file = tmp_path / "hello.elf"
    file.write_bytes(program(HELLO))
    first = command("run", "--json", "--stop-at", "exit:1", file)
    rip = json.loads(first.stderr)["rip"]
    again = command("run", "--json", "--stop-at", hex(rip), file)
    assert json.loads(again.stderr)["rip"] == rip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "--stop-at", "toch", STORM), "no such symbol; do you mean touch?"),
        (("run", "--stop-at", "main", FEATURES), "it is stripped"),
        (("run", "--stop-at", "syscall:mmap", FEATURES), "only Linux programs"),
        (("run", "--stop-at", "12", STORM), "must be a point"),
        (("run", "--stop-at", "exit:1000000", STORM), "was not reached: it ended with status 0"),
        (("run", "--stop-at", "main", "--top", "3", STORM), "leave --events, --perfetto and --top out"),
        (("run", "--top", "3", "scenarios/mails/002-unsync.txt"), "are for programs"),
        (("why", STORM), "give --gva X"),
        (("why", "--flushes", STORM), "of a program give --gva X"),
        (("why", "--at", "nowhere", "--gva", "0", STORM), "no such symbol"),
        (("why", "--npt", "--gva", "0", "scenarios/mails/002-unsync.txt"), "only programs"),
        (("show", "--at", "exit:1", "scenarios/mails/002-unsync.txt"), "only a program"),
    ],
)
def test_what_cannot_be_asked_gets_one_line(command, words, says):
    ran = command(*words)
    assert ran.returncode == 2
    assert says in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr


def test_one_command_says_which_process_causes_the_sync_storm(command):
    ran = command("run", "--deterministic", "--top", "3", STORM)
    lines = ran.stderr.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("process "))
    assert lines[head].split() == ["process", "CR3", "exits", "faults", "syncs", "unsync", "zaps"]
    name, _, cr3, _, _, syncs, unsync, _ = lines[head + 1].split()
    assert name == "mapper"
    assert int(syncs) >= 12
    assert int(unsync) >= 12
    assert f"CR3 {cr3}, loaded once" in next(line for line in lines if "mapper 103" in line)
    assert any(line.endswith("mapper 103, write_cr3 for munmap") for line in lines)
    assert any(line.endswith("mapper 103, touch+0x2") for line in lines)


def test_the_counts_as_an_object(command):
    ran = command("run", "--json", "--top", "2", STORM)
    said = json.loads(ran.stderr)
    assert [who["name"] for who in said["processes"]] == ["storm.elf", "calculator", "reader", "mapper"]
    assert said["top"]["processes"][0]["name"] == "mapper"
    assert all(len(table) <= 2 for table in said["top"].values())


@pytest.mark.parametrize(
    "words",
    [
        (STORM,),
        ("--npt", STORM),
        pytest.param((FEATURES,), marks=pytest.mark.skipif(not native, reason="takes minutes interpreted")),
    ],
)
def test_two_runs_of_a_virtual_clock_are_equal(command, words):
    first, second = (command("run", "--deterministic", "--top", "20", *words) for _ in range(2))
    assert first.stderr == second.stderr
    assert first.stdout == second.stdout
    assert "of virtual time" in first.stderr


def test_a_virtual_clock_passes_while_a_program_sleeps(command):
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox")
    ran = command("run", "--deterministic", busybox, "--", "sh", "-c", "sleep 1000; date +%s")
    assert ran.returncode == 0, ran.stderr
    assert 1_767_225_600 + 1000 <= int(ran.stdout) <= 1_767_225_600 + 1001


def test_why_walks_side_by_side_and_has_the_history_of_each_entry(command):
    ran = command("why", "--deterministic", "--at", "syscall:munmap#5", "--gva", PLACE, STORM)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[1].startswith("mapper (process 103), CR3 ")
    assert lines[3].split() == ["level", "the", "guest's", "tables", "KVM's", "tables"]
    assert [line.split()[0] for line in lines[4:8]] == ["4", "3", "2", "1"]
    leaf = next(number for number, line in enumerate(lines) if line.startswith("KVM's level 1"))
    assert any("mapped gpa:" in line for line in lines[leaf + 1 : leaf + 6])
    assert any("PF excp at touch+0x2 of mapper 103" in line for line in lines[leaf + 1 : leaf + 6])
    assert any(line.endswith(": kvm_mmu_set_spte") for line in lines)
    assert "recorded from the start of the program" in ran.stdout


def test_the_answer_is_on_stdout_and_what_the_program_prints_on_stderr(command):
    ran = command("why", "--json", "--at", "syscall:exit#4", "--gva", PLACE, STORM)
    assert json.loads(ran.stdout)["where"]["process"] == "storm.elf"
    assert ran.stderr == "done\n"


def test_a_page_of_a_program_at_a_point(command, tmp_path):
    page = tmp_path / "storm.html"
    ran = command("show", "--at", "syscall:munmap#2", "-o", page, STORM)
    assert ran.returncode == 0, ran.stderr
    text = page.read_text()
    assert "mapper (process 103)" in text
    assert '"sptes"' in text
