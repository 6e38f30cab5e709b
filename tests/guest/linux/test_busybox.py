"""busybox does on the model what it does natively: output, status, and the files it leaves."""

from pathlib import Path

import pytest
from guest.linux.running import MODES, files, model, native

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.sh"))


@pytest.mark.parametrize(
    ("script", "mode"),
    [(script, MODES[number % 2]) for number, script in enumerate(SCRIPTS)],
    ids=lambda value: value.stem if isinstance(value, Path) else value,
)
def test_script(busybox: Path, script: Path, mode: str, tmp_path: Path) -> None:
    expected = native(busybox, "sh", str(script), folder=tmp_path / "native")
    found = model(busybox, "sh", str(script), options=(mode,), folder=tmp_path / "model")
    assert found.visible == expected.visible


@pytest.mark.parametrize("mode", MODES)
def test_pipes_of_three_programs(busybox: Path, mode: str, tmp_path: Path) -> None:
    script = "seq 1 300 | sort -r | gzip -c | gzip -dc | sha256sum; (exit 4)"
    expected = native(busybox, "sh", "-c", script, folder=tmp_path)
    assert model(busybox, "sh", "-c", script, options=(mode,), folder=tmp_path).visible == expected.visible
    assert expected.status == 4


def test_files_about_processes(busybox: Path, tmp_path: Path) -> None:
    script = """
        cat /proc/self/comm; cat /proc/self/cmdline | tr '\\0' ' '; echo; grep -c stack /proc/self/maps
        sed -n 's/^State:\\t//p' /proc/self/status; cut -d' ' -f3 /proc/self/stat; wc -l < /proc/mounts
        cat /proc/1/comm; (echo x > /proc/self/comm) 2>/dev/null || echo no
    """
    found = model(busybox, "sh", "-c", script, folder=tmp_path)
    mounts = len(Path("/proc/mounts").read_text().splitlines())
    lines = found.output.decode().splitlines()
    assert lines == ["cat", "cat /proc/self/cmdline ", "1", "R", "R", str(mounts), "no"]


def test_files_outside_cannot_be_written(busybox: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "kept").touch()
    (inside / "way-out").symlink_to(tmp_path)
    script = """
        echo x > ../outside; echo x > way-out/outside; rm ../kept; mkfifo ../pipe; echo y > within; cat within
    """
    found = model(busybox, "sh", "-c", script, folder=inside)
    assert found.output == b"y\n"
    assert found.told.count("Read-only file system") == 4
    assert sorted(files(tmp_path)) == ["inside", "inside/way-out", "inside/within", "kept"]
