"""The command as a whole: help, and how it ends."""

import os
import subprocess
import sys

import click
import pytest

from shadowmmu.cli import main as module


def test_help_names_the_commands(command):
    done = command("--help")
    assert done.returncode == 0
    assert "run " in done.stdout
    assert "compare " in done.stdout


def test_help_imports_nothing_heavy():
    code = "import sys, shadowmmu.cli.main; print([m for m in sys.modules if m.startswith('shadowmmu.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout))
    assert not [name for name in loaded if name.split(".")[1] in ("kvm", "host", "guest", "trace", "x86")]


def test_version(command):
    assert command("--version").stdout.startswith("shadowmmu, version ")


def test_wrong_usage(command):
    done = command("compare")
    assert done.returncode == 2
    assert "Missing argument 'RECORDING...'" in done.stderr


def test_a_full_disk_is_one_line(command):
    with open("/dev/full", "w") as full:
        done = command("--help", stdout=full, capture_output=False, stderr=subprocess.PIPE)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if "not compiled" not in line]
    assert said == ["shadowmmu: cannot write: No space left on device"]


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_do_no_harm(command, closed):
    def close():
        for fd in closed:
            os.close(fd)

    done = command("designs", preexec_fn=close)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == (1 not in closed)


def test_a_closed_pipe_is_quiet(command):
    reading, writing = os.pipe()
    os.close(reading)
    done = command("--help", stdout=writing, capture_output=False, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "not compiled" not in line] == []


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (KeyboardInterrupt(), "shadowmmu: interrupted"),
        (FileNotFoundError(2, "No such file or directory", "x"), "shadowmmu: x: No such file or directory"),
        (click.ClickException("a: b; c"), "shadowmmu: a: b; c"),
    ],
)
def test_ends_with_one_line(monkeypatch, capfd, raised, said):
    @module.cli.command("fail")
    def fail() -> None:
        raise raised

    monkeypatch.setattr(module, "_drop_output", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["shadowmmu", "fail"])
    try:
        with pytest.raises(SystemExit) as ended:
            module.main()
    finally:
        del module.cli.commands["fail"]
    assert ended.value.code == 2
    assert capfd.readouterr().err.strip() == said


@pytest.mark.parametrize(("status", "code"), [(None, None), (1, 1)])
def test_exit_status(monkeypatch, status, code):
    @module.cli.command("end")
    @click.pass_context
    def end(context: click.Context) -> None:
        if status:
            context.exit(status)

    monkeypatch.setattr(sys, "argv", ["shadowmmu", "end"])
    try:
        with pytest.raises(SystemExit) as ended:
            module.main()
    finally:
        del module.cli.commands["end"]
    assert ended.value.code == code
