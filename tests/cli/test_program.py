"""`shadowmmu run PROGRAM` and `check PROGRAM`: statuses, reports, and what is refused."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise

import pytest
from guest.pc.programs import COMMAND_LINE, EXIT_3, HELLO, elf32, program

from shadowmmu.cli import program as module, run as run_module
from shadowmmu.guest.svm import EXTRA

MISSING = [name for name in ("unicorn", "iced_x86") if importlib.util.find_spec(name) is None]
needs_extra = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)} (shadowmmu[guest])")
LOOP = "again: cpuid\n jmp again"


@pytest.fixture
def file(tmp_path):
    """Writes a program file."""

    def write(data, name="prog.elf"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else program(data))
        return path

    return write


@needs_extra
def test_output_on_stdout_and_report_on_stderr(command, file):
    ran = command("run", file(HELLO))
    assert ran.returncode == 7
    assert ran.stdout == "hello\n"
    assert " exits" in ran.stderr
    assert "pf_taken" in ran.stderr
    assert "\r" not in ran.stderr, "progress is for terminals"
    assert "Traceback" not in ran.stderr


@needs_extra
def test_arguments(command, file):
    ran = command("run", file(COMMAND_LINE, "a b.elf"), "--npt", "--", "-v", "x y", "--limit")
    assert ran.returncode == 1
    assert ran.stdout == "a_b.elf -v x y --limit"


@needs_extra
def test_json_report(command, file):
    ran = command("run", "--json", file(HELLO), "--param", "kvm_amd.npt=1")
    assert ran.stdout == "hello\n"
    report = json.loads(ran.stderr)
    assert (report["ending"], report["status"]) == ("exit", 7)
    assert report["exits"]["npf"] >= 1
    assert report["statistics"]["pf_taken"] >= 1
    assert report["tdp_pages"] > 0


@needs_extra
def test_perfetto(command, file, tmp_path):
    target = tmp_path / "timeline.json"
    ran = command("run", file(HELLO), "--perfetto", target)
    assert ran.returncode == 7
    rows = json.loads(target.read_text())["traceEvents"]
    exits = [row for row in rows if row["ph"] == "X" and row["name"].startswith("exit ")]
    assert exits
    assert all(one["ts"] + one["dur"] <= two["ts"] for one, two in pairwise(exits))
    arrows = Counter(row["ph"] for row in rows if row["ph"] in "sf")
    assert arrows["s"] == arrows["f"]


@needs_extra
def test_events(command, file, tmp_path):
    events = tmp_path / "trace.txt"
    ran = command("run", file(HELLO), "--events", events)
    assert ran.returncode == 7
    text = events.read_text()
    assert text.startswith("# tracer: nop")
    assert " kvm_exit: " in text
    assert " kvm_page_fault: " in text
    assert "tracing_mark_write" not in text


@needs_extra
@pytest.mark.parametrize(
    ("limit", "says"),
    [("0.3s", "as long as"), ("100exits", "as many exits"), ("5kinstructions", "as many instructions")],
)
def test_limits(command, file, limit, says):
    ran = command("run", file(LOOP), "--limit", limit)
    assert ran.returncode == 2
    assert "prog.elf: stopped: it " in ran.stderr
    assert says in ran.stderr
    assert "rip 0000" in ran.stderr


@needs_extra
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ud2", "triple fault"),
        ("self: jmp self", "loops for ever"),
        ("mov eax, 0xe0000000\n jmp eax", "triple"),
    ],
)
def test_a_program_that_goes_wrong(command, file, text, says):
    ran = command("run", file(text))
    assert ran.returncode == 2
    assert f"prog.elf: {'it ' if says.startswith('loops') else ''}{says}" in ran.stderr
    assert "last exits:" in ran.stderr
    assert "Traceback" not in ran.stderr


@needs_extra
def test_a_program_that_halts(command, file):
    ran = command("run", file("cli\n hlt"))
    assert ran.returncode == 0
    assert ran.stderr.endswith("prog.elf: halted with interrupts disabled\n")


@needs_extra
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_control_c_ends_with_the_report(file, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "from shadowmmu.cli.main import main; main()"
    path = file("mov al, 0x78\n mov edx, 0x3f8\n out dx, al\n mov al, 10\n out dx, al\n" + LOOP)
    words = [sys.executable, "-c", code, "run", str(path)]
    process = subprocess.Popen(
        words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "x\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, report = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "cpuid" in report
    assert report.endswith("shadowmmu: interrupted\n")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (elf32(b"\xf4" * 16)[:-3], "3 bytes of a segment are missing"),
        (elf32(b"\xf4", machine=40), "it is a program for ARM, not for x86"),
        (elf32(b"\xf4", interp=True), "dynamically linked"),
        (elf32(b"\xf4", kind=1), "object file"),
        (b"\0" * 100, "neither a scenario (text) nor a program for x86"),
        (b"\x7fELF", "truncated"),
    ],
)
def test_bad_files(invoke, file, data, says):
    for name in ("run", "check"):
        refused = invoke(name, file(data))
        assert refused.exit_code != 0
        assert says in refused.output
        assert refused.output.count("\n") == 1


@needs_extra
def test_memory(invoke, file):
    big = file(elf32(b"\xf4", memory=64 << 20))
    refused = invoke("run", big, "--memory", "32M")
    assert refused.exit_code != 0
    assert "the machine has 32 MiB (--memory gives it more)" in refused.output
    assert invoke("run", big, "--memory", "1G").exit_code == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--memory", "12"], "must be a size such as"),
        (["--memory", "1000G"], "is not between"),
        (["--limit", "60"], "must be a limit such as"),
        (["--limit", "0s"], "lets nothing run"),
        (["--param", "kvm.tdp_mnu=1"], "unknown parameter 'kvm.tdp_mnu'; it must be one of"),
        (["--param", "kvm.tdp_mmu=maybe"], "is not a value of kvm.tdp_mmu"),
        (["--npt", "--param", "kvm_amd.npt=0"], "contradict each other"),
        (["--vendor", "intel"], "AMD"),
        (["--record", "x.jsonl"], "--record and --tlb are for scenarios"),
        (["--kernel", "2.6.37"], "2.6.37"),
    ],
)
def test_bad_options(invoke, file, options, says):
    refused = invoke("run", file(elf32(b"\xf4")), *options)
    assert refused.exit_code != 0
    assert says in refused.output
    assert "Traceback" not in refused.output


def test_options_of_programs_are_refused_for_scenarios(invoke, fixtures):
    for name in ("run", "check"):
        refused = invoke(name, fixtures.scenarios / "m-access.txt", "--memory", "64M", "--limit", "3s")
        assert refused.exit_code != 0
        assert "--memory, --limit: only programs have such a machine" in refused.output


def test_without_the_extra(invoke, file, monkeypatch):
    """The default is what it was, and a program is refused in one line."""
    monkeypatch.setitem(sys.modules, "unicorn", None)
    from shadowmmu.guest.svm import layout

    for name in dir(layout):
        if hasattr(getattr(layout, name), "cache_clear"):
            getattr(layout, name).cache_clear()
    refused = invoke("run", file(elf32(b"\xf4")))
    assert refused.exit_code != 0
    assert refused.output == f"Error: {EXTRA}\n"
    monkeypatch.setattr(run_module, "has_extra", lambda: False)
    assert "all 3 scenarios" in invoke("run").output


@needs_extra
def test_the_default_is_the_tour(invoke):
    ran = invoke("run", "--npt", "--cpu", "amd")
    assert ran.exit_code == 0
    assert "checks, all as they should be" in ran.output
    assert module.EMBEDDED == "tour.elf"


@needs_extra
def test_check(invoke, file):
    ran = invoke("check", file(EXIT_3), "--every", "1")
    assert ran.exit_code == 0
    assert "nothing found (exit, status 7)" in ran.output
    as_json = json.loads(invoke("check", file(EXIT_3), "--json").output)
    assert as_json["violations"] == []
    assert as_json["status"] == 7
    wrong = invoke("check", file("ud2"))
    assert wrong.exit_code != 0
    assert "triple fault" in wrong.output
