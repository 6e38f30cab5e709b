"""Files that commands write: links, devices, standard output, inputs, full disks."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest

from shadowmmu.cli.outputs import is_stdout, make_folder, output, refuse_overwriting

SCENARIO = "mode nopaging\nslot 0 0x0 1M\nstart\nread 0x1000\n"


@pytest.fixture
def scenario(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text(SCENARIO)
    return path


def test_a_file_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "a"
    with output(target) as file:
        file.write("x")
        assert not target.exists()
    assert target.read_text() == "x"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_an_interruption_leaves_what_was_there(tmp_path):
    target = tmp_path / "a"
    target.write_text("before")
    with pytest.raises(KeyboardInterrupt), output(target) as file:
        file.write("x")
        raise KeyboardInterrupt
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["a"]


def test_permissions_stay(tmp_path):
    target = tmp_path / "a"
    target.write_text("before")
    target.chmod(0o640)
    with output(target) as file:
        file.write("x")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path, exists):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "a", tmp_path / "link"
    if exists:
        target.write_text("before")
    link.symlink_to("far/a")
    with output(link) as file:
        file.write("x")
    assert link.is_symlink()
    assert target.read_text() == "x"
    assert os.listdir(tmp_path / "far") == ["a"]


def test_a_circle_of_links_is_an_error(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("link")
    with pytest.raises(OSError, match="symbolic links") as caught, output(link):
        pass
    assert caught.value.filename == str(link)
    assert link.is_symlink()


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with output(pipe) as file:
        file.write("x")
    assert os.read(reading, 9) == b"x"
    os.close(reading)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_full_device_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, output(Path("/dev/full")) as file:
        file.write("x")
    assert caught.value.filename == "/dev/full"
    with pytest.raises(FileNotFoundError) as missing, output(tmp_path / "no" / "file"):
        pass
    assert missing.value.filename == str(tmp_path / "no" / "file")


def test_an_error_elsewhere_keeps_its_name(tmp_path):
    with pytest.raises(OSError, match="else") as caught, output(tmp_path / "a"):
        raise OSError(5, "else")
    assert caught.value.filename is None
    assert not os.listdir(tmp_path)


def test_a_long_name(tmp_path):
    target = tmp_path / ("n" * 255)
    with output(target) as file:
        file.write("x")
    assert target.read_text() == "x"


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/proc/self/fd/1", "/dev/fd/1", "/dev/../dev/stdout"])
def test_names_of_standard_output(name, capsys):
    assert is_stdout(Path(name))
    with output(Path(name)) as file:
        file.write("x")
    assert capsys.readouterr().out == "x"


def test_another_spelling_or_link_is_the_same_file(tmp_path):
    path, link, hard = tmp_path / "a", tmp_path / "link", tmp_path / "hard"
    path.write_text("x")
    link.symlink_to("a")
    hard.hardlink_to(path)
    for other in (path, tmp_path / ".." / tmp_path.name / "a", link, hard):
        with pytest.raises(click.UsageError, match="would overwrite the input"):
            refuse_overwriting({"--record": other}, [path])
        with pytest.raises(click.UsageError, match=r"--events .* is the same file as --record"):
            refuse_overwriting({"--record": path, "--events": other})
    refuse_overwriting({"--record": tmp_path / "b", "--events": None}, [path])


def test_files_that_are_not_there_yet_can_be_the_same(tmp_path):
    (tmp_path / "link").symlink_to("new")
    with pytest.raises(click.UsageError, match="same file"):
        refuse_overwriting({"--record": tmp_path / "new", "--events": tmp_path / "link"})
    refuse_overwriting({"--record": Path("/dev/null"), "--events": Path("/dev/null")})


def test_a_folder_is_not_standard_output():
    with pytest.raises(click.ClickException, match="standard output"):
        make_folder(Path("-"))


# -- of the commands ---------------------------------------------------------------------------------------


def test_a_recording_on_standard_output_is_alone_there(command, scenario):
    for name in ("-", "/dev/stdout"):
        done = command("run", scenario, "--record", name)
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        assert [line[0] for line in lines] == ["{"] * len(lines)
        assert len(lines) == 3
    events = command("run", scenario, "--events", "-")
    assert events.stdout.startswith("# tracer: nop")
    assert "outcome" not in events.stdout
    assert not (scenario.parent / "-").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--record", "-", "--events", "-"],
        ["--record", "x", "--events", "./x"],
        ["--record", "-", "--json"],
        ["--events", "/dev/stdout", "--json"],
    ],
)
def test_two_outputs_in_one_place_are_refused(command, scenario, words):
    done = command("run", scenario, *words, cwd=scenario.parent)
    assert done.returncode == 2
    assert os.listdir(scenario.parent) == ["s.txt"]


@pytest.mark.parametrize("option", ["--record", "--events"])
def test_an_input_is_not_overwritten(command, scenario, option):
    link = scenario.parent / "link"
    link.symlink_to(scenario)
    for name in (scenario, link):
        done = command("run", scenario, option, name)
        assert done.returncode == 2
        assert "would overwrite the input" in done.stderr
    assert scenario.read_text() == SCENARIO


def test_standard_output_that_is_the_file_is_refused(process, scenario):
    target = scenario.parent / "out"
    with target.open("w") as file:
        done = process(
            "run", scenario, "--record", target, stdout=file, stderr=subprocess.PIPE, capture_output=False
        )
    assert done.returncode == 2
    assert "standard output" in done.stderr


def test_dev_stdout_is_a_file_that_goes_on(process, scenario):
    """What the shell put there before stays."""
    target = scenario.parent / "out"
    with target.open("w") as file:
        file.write("before\n")
        file.flush()
        done = process(
            "run",
            scenario,
            "--record",
            "/dev/stdout",
            stdout=file,
            stderr=subprocess.PIPE,
            capture_output=False,
        )
    assert done.returncode == 0
    assert target.read_text().startswith('before\n{"scenario"')


def test_a_full_disk_names_the_file(command, scenario):
    done = command("run", scenario, "--record", "/dev/full")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "shadowmmu: /dev/full: cannot write: No space left on device"


def test_read_errors_are_called_that(command, tmp_path):
    """Reading the memory of a process at address 0 fails with EIO."""
    for words in (["run"], ["check"], ["compare"], ["race", "--replay"]):
        done = command(*words, "/proc/self/mem")
        assert done.returncode == 2
        assert "/proc/self/mem" in done.stderr
        assert "cannot read" in done.stderr or "Input/output error" in done.stderr
        assert "write" not in done.stderr


def test_a_file_size_limit_leaves_nothing(scenario, tmp_path):
    """A disk that gets full in the middle."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "from shadowmmu.cli.main import main; main()"
    )
    target = tmp_path / "o" / "out.jsonl"
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(scenario), "--record", str(target)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"shadowmmu: {target}: cannot write: File too large"
    assert not os.listdir(target.parent)
