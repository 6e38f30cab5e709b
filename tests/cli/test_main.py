"""The command as a whole: help, and how it ends."""

import os
import signal
import subprocess
import sys
import time

import click
import pytest

from shadowmmu.cli import main as module
from shadowmmu.cli.commands import cli


def test_help_names_the_commands(process):
    done = process("--help")
    assert done.returncode == 0
    assert "run " in done.stdout
    assert "compare " in done.stdout


def _loaded(module):
    code = f"import sys, {module}; print([m for m in sys.modules if m.startswith(('shadowmmu.', 'click'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(eval(done.stdout))


def test_the_command_is_there_before_anything_that_takes_time():
    """What is imported before can be interrupted by Ctrl-C with a traceback.

    A checkout that may run compiled must be compared with its extensions before any of them is imported.
    """
    loaded = _loaded("shadowmmu.cli.main") - {"shadowmmu._sources"}
    assert loaded == {"shadowmmu._native", "shadowmmu.cli", "shadowmmu.cli.main"}


def test_help_imports_nothing_heavy():
    loaded = {name for name in _loaded("shadowmmu.cli.commands") if name.startswith("shadowmmu.")}
    assert not [name for name in loaded if name.split(".")[1] in ("kvm", "host", "guest", "trace", "x86")]


def test_version(process):
    assert process("--version").stdout.startswith("shadowmmu, version ")


def completed(**variables):
    words = [sys.executable, "-m", "shadowmmu"]
    return subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True)


def test_the_script_of_shell_completion_ends_well():
    done = completed(_SHADOWMMU_COMPLETE="zsh_source")
    assert done.returncode == 0
    assert "#compdef shadowmmu" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"), [("shadowmmu mus", "museum"), ("shadowmmu compare --des", "--design")]
)
def test_shell_completion_knows_commands_and_options(words, expected):
    at = str(len(words.split()) - 1)
    done = completed(_SHADOWMMU_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=at)
    assert done.returncode == 0
    assert done.stdout.strip() == f"plain,{expected}"


def test_wrong_usage(process):
    done = process("compare")
    assert done.returncode == 2
    assert "Missing argument 'RECORDING...'" in done.stderr


def test_a_full_disk_is_one_line(process):
    with open("/dev/full", "w") as full:
        done = process("--help", stdout=full, capture_output=False, stderr=subprocess.PIPE)
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if "not compiled" not in line]
    assert said == ["shadowmmu: standard output: cannot write: No space left on device"]


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_closed_streams_do_no_harm(process, closed):
    def close():
        for fd in closed:
            os.close(fd)

    done = process("designs", preexec_fn=close)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert bool(done.stdout) == (1 not in closed)


def test_a_closed_pipe_is_quiet(process):
    reading, writing = os.pipe()
    os.close(reading)
    done = process("--help", stdout=writing, capture_output=False, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "not compiled" not in line] == []


@pytest.mark.parametrize(
    ("raised", "said", "status"),
    [
        (KeyboardInterrupt(), "shadowmmu: interrupted", 130),
        (
            FileNotFoundError(2, "No such file or directory", "x"),
            "shadowmmu: x: No such file or directory",
            2,
        ),
        (OSError(5, "Input/output error"), "shadowmmu: Input/output error", 2),
        (click.ClickException("a: b; c"), "shadowmmu: a: b; c", 2),
        (click.ClickException("a\x1b[1m" + "b" * 1000), "shadowmmu: a\\x1b[1m", 2),
    ],
)
def test_ends_with_one_line(monkeypatch, capfd, raised, said, status):
    @cli.command("fail")
    def fail() -> None:
        raise raised

    monkeypatch.setattr(module, "_drop_output", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["shadowmmu", "fail"])
    try:
        with pytest.raises(SystemExit) as ended:
            module.main()
    finally:
        del cli.commands["fail"]
    assert ended.value.code == status
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line == said or (line.startswith(said) and len(line) < 500)


@pytest.mark.parametrize("words", [["race", "--all"], ["fuzz", "--seconds", "600"]])
@pytest.mark.parametrize("seconds", [0.02, 0.3])
def test_an_early_interruption_is_one_line(tmp_path, words, seconds):
    """Of whatever begins at that time: imports, a process for another mode, the command itself."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from shadowmmu.cli.main import main; sys.stderr.write('up '); main()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.read(3) == "up "
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        status = process.wait(timeout=60)
    assert "Traceback" not in said
    assert status == 130
    assert said.strip().splitlines()[-1] == "shadowmmu: interrupted"


@pytest.mark.parametrize(("status", "code"), [(None, None), (1, 1)])
def test_exit_status(monkeypatch, status, code):
    @cli.command("end")
    @click.pass_context
    def end(context: click.Context) -> None:
        if status:
            context.exit(status)

    monkeypatch.setattr(sys, "argv", ["shadowmmu", "end"])
    try:
        with pytest.raises(SystemExit) as ended:
            module.main()
    finally:
        del cli.commands["end"]
    assert ended.value.code == code
