"""Static Linux programs give on the model what they give natively, with and without nested paging."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from guest.linux.running import MODES, model, native, shadowmmu

Compiled = Callable[[str], Path]
PROGRAMS = {"hello": 7, "memory": 3, "processes": 4, "locks": 0, "signals": 0, "contents": 0, "events": 0}
"""And what they give to exit()."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_c_program(compiled: Compiled, name: str, mode: str, tmp_path: Path) -> None:
    program = compiled(name)
    expected = native(program, "first", folder=tmp_path / "native")
    found = model(program, "first", options=(mode,), folder=tmp_path / "model")
    assert found.output.decode().splitlines() == expected.output.decode().splitlines()
    assert found.visible == expected.visible
    assert found.status == PROGRAMS[name]


def test_death_by_a_signal_is_told(compiled: Compiled, tmp_path: Path) -> None:
    found = model(compiled("hello"), "first", "second", folder=tmp_path)
    assert found.visible == native(compiled("hello"), "first", "second", folder=tmp_path).visible
    assert found.status == 139
    assert "killed by SIGSEGV at address 0x8; rip 0x" in found.told


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x7fELF", "truncated"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00" + bytes(44), "another processor"),
        (b"\x7fELF\x01\x01\x01" + bytes(9) + b"\x02\x00\x03\x00" + bytes(44), "32-bit"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00" + bytes(44), "program headers"),
    ],
)
def test_bad_programs_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(data)
    found = model(program, folder=tmp_path)
    assert (found.output, found.status) == (b"", 2)
    assert message in found.told
    assert "Traceback" not in found.told


def test_dynamic_programs_are_refused(tmp_path: Path) -> None:
    if b"/ld-linux" not in Path(sys.executable).resolve().read_bytes()[:4096]:
        pytest.skip("Python is not a dynamic program here")
    found = model(Path(sys.executable), folder=tmp_path)
    assert found.status == 2
    assert "dynamically linked" in found.told


@pytest.mark.parametrize(
    ("way", "status", "message"),
    [
        ("handled", 2, "endless faults: 0x"),
        ("overflow", 139, "killed by SIGSEGV at address 0x7ff"),
        ("memory", 137, "the guest is out of memory (64 MiB); killed"),
        ("no-stack", 139, "killed by SIGSEGV; rip"),
        ("wild", 139, "killed by SIGSEGV; rip 0x4000000000000000"),
        ("stopped", 2, "no progress: all processes are stopped (bad)"),
        ("spin", 2, "stopped: it ran as long as --limit says"),
    ],
)
def test_bad_ends_are_told(compiled: Compiled, way: str, status: int, message: str, tmp_path: Path) -> None:
    options = ("--memory", "64M", "--limit", "1s" if way == "spin" else "60s")
    found = model(compiled("bad"), way, options=options, folder=tmp_path)
    assert (found.output, found.status) == (b"", status)
    assert message in found.told
    assert "Traceback" not in found.told


def test_hostile_system_calls_do_no_harm(compiled: Compiled, tmp_path: Path) -> None:
    found = model(compiled("hostile"), "0", "60", options=("--limit", "60s"), folder=tmp_path)
    assert (found.output, found.status) == (b"done\n", 0), found.told
    assert "Traceback" not in found.told


def test_programs_that_others_start_may_be_dynamic(busybox: Path, tmp_path: Path) -> None:
    program = Path(sys.executable)
    if b"/ld-linux" not in program.resolve().read_bytes()[:4096]:
        pytest.skip("Python is not a dynamic program here")
    code = "import sys; print(sum(range(100)), sys.argv[1:]); sys.exit(9)"
    found = model(busybox, "env", str(program), "-I", "-S", "-c", code, "x", folder=tmp_path)
    assert (found.output, found.status) == (b"4950 ['x']\n", 9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["hello", "memory"])
def test_checks_find_nothing(compiled: Compiled, name: str, mode: str, tmp_path: Path) -> None:
    done = shadowmmu("check", mode, str(compiled(name)), "--", "first", folder=tmp_path)
    verdict = f"nothing found (exit, status {PROGRAMS[name]})"
    assert (done.status, verdict in done.output.decode()) == (0, True), done


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("pi", "futex operation LOCK_PI is not supported (ENOSYS)"),
        ("splice", "system call splice is not supported (ENOSYS)"),
        ("inotify", "system call inotify_init1 is not supported (ENOSYS)"),
        ("shm", "system call shmget is not supported (ENOSYS)"),
        ("timer", "system call timer_create is not supported (ENOSYS)"),
    ],
)
def test_a_call_that_is_not_supported_is_one_line_and_the_program_continues(
    compiled: Compiled, way: str, said: str, tmp_path: Path
) -> None:
    found = model(compiled("missing"), way, folder=tmp_path)
    assert (found.output, found.status) == (b"-1 Function not implemented\n", 3)
    assert found.told.splitlines()[0] == f"shadowmmu: missing: {said}"
    assert found.told.count("shadowmmu:") == 1


def test_a_32_bit_system_call_ends_the_program(compiled: Compiled, tmp_path: Path) -> None:
    found = model(compiled("missing"), "int80", folder=tmp_path)
    assert (found.output, found.status) == (b"", 139)
    lines = [line for line in found.told.splitlines() if line.startswith("shadowmmu:")]
    assert lines[0] == "shadowmmu: missing: 32-bit system calls (int 0x80) are not supported"
    assert lines[1].startswith("shadowmmu: missing: killed by SIGSEGV; rip ")
    assert len(lines) == 2
