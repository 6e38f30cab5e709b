"""Static Linux programs give on the model what they give natively, with and without nested paging."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("unicorn", reason="machine code needs unicorn: pip install 'shadowmmu[guest]'")
pytest.importorskip("iced_x86", reason="machine code needs iced-x86: pip install 'shadowmmu[guest]'")

RUN = "import sys; from shadowmmu.cli.main import main; sys.argv[0] = 'shadowmmu'; main()"
MODES = ("--no-npt", "--npt")
HELLO = """
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **arguments)
{
    int shared = 1, status;
    char *memory = malloc(3 << 20);
    memory[2 << 20] = 5;
    printf("%s %d %s\\n", arguments[0], count, arguments[1]);
    fflush(stdout);
    if (!fork()) {
        shared = 2;
        memory[2 << 20] = 6;
        _exit(shared + memory[2 << 20]);
    }
    wait(&status);
    printf("%d %d %d\\n", shared, memory[2 << 20], WEXITSTATUS(status));
    if (count > 2)
        *(volatile int *)8 = 1;
    return 7;
}
"""
SCRIPTS = (
    "echo one; echo two | sort -r; for i in 1 2 3; do (echo sub $i | cat); done; exit 4",
    "seq 1 300 | sort -r | gzip -c | gzip -dc | sha256sum; ls -a / | head -5",
    "awk 'BEGIN { for (i = 0; i < 100; i++) s += i * i; print s }'; trap 'echo caught' USR1; kill -USR1 $$",
    "mkdir d; cd d; echo x > f; mv f g; cat g; ln -s g h; readlink h; rm h; ls; sleep 0.01 & wait; (exit 3)",
    "nothing; echo $?; cat < /missing; echo $?; kill -SEGV $$",
)


def model(program: Path, *arguments: str, options: tuple[str, ...] = (), cwd: Path) -> tuple[bytes, int, str]:
    """Output, status and what was told of a program on the model."""
    command = [sys.executable, "-c", RUN, "run", *options, str(program), "--", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "80"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=120, check=False)
    return done.stdout, done.returncode, done.stderr.decode()


def native(program: Path, *arguments: str, cwd: Path) -> tuple[bytes, int]:
    done = subprocess.run([program, *arguments], cwd=cwd, capture_output=True, timeout=60, check=False)
    return done.stdout, done.returncode if done.returncode >= 0 else 128 - done.returncode


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linux")
    source, program = folder / "hello.c", folder / "hello"
    source.write_text(HELLO)
    if not shutil.which("gcc"):
        pytest.skip("no gcc to make a static program with")
    if subprocess.run(["gcc", "-O2", "-static", "-o", program, source], capture_output=True).returncode:
        pytest.skip("no static C library to make a program with")
    return program


@pytest.fixture
def busybox() -> Path:
    found = shutil.which("busybox")
    if not found:
        pytest.skip("no busybox")
    if b"/ld-linux" in Path(found).read_bytes():
        pytest.skip("busybox is not static")
    return Path(found)


@pytest.mark.parametrize("mode", MODES)
def test_c_program(compiled: Path, mode: str, tmp_path: Path) -> None:
    output, status, _ = model(compiled, "first", options=(mode,), cwd=tmp_path)
    assert (output, status) == native(compiled, "first", cwd=tmp_path)
    assert status == 7


def test_death_by_a_signal_is_told(compiled: Path, tmp_path: Path) -> None:
    output, status, told = model(compiled, "first", "second", cwd=tmp_path)
    assert (output, status) == native(compiled, "first", "second", cwd=tmp_path)
    assert status == 139
    assert "killed by SIGSEGV at address 0x8; rip 0x" in told


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_busybox_shell(busybox: Path, script: str, mode: str, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "model", tmp_path / "native"
    ours.mkdir()
    theirs.mkdir()
    output, status, _ = model(busybox, "sh", "-c", script, options=(mode,), cwd=ours)
    assert (output, status) == native(busybox, "sh", "-c", script, cwd=theirs)
    assert sorted(p.name for p in ours.rglob("*")) == sorted(p.name for p in theirs.rglob("*"))


def test_files_outside_cannot_be_written(busybox: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "kept").touch()
    (inside / "way-out").symlink_to(tmp_path)
    script = "echo x > ../outside; echo x > way-out/outside; rm ../kept; echo y > within; cat within"
    output, _, told = model(busybox, "sh", "-c", script, cwd=inside)
    assert output == b"y\n"
    assert told.count("Read-only file system") == 3
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["inside", "kept", "way-out", "within"]


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
    output, status, told = model(program, cwd=tmp_path)
    assert (output, status) == (b"", 2)
    assert message in told
    assert "Traceback" not in told


def test_dynamic_programs_are_refused(tmp_path: Path) -> None:
    if b"/ld-linux" not in Path(sys.executable).resolve().read_bytes()[:4096]:
        pytest.skip("Python is not a dynamic program here")
    _, status, told = model(Path(sys.executable), cwd=tmp_path)
    assert status == 2
    assert "dynamically linked" in told


@pytest.mark.parametrize("mode", MODES)
def test_checks_find_nothing(compiled: Path, mode: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, "check", mode, str(compiled), "--", "first"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, b"nothing found (exit, status 7)" in done.stdout) == (0, True), done
