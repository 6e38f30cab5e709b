"""`shadowmmu sweep`: its table, its files, and what is left after it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
TEXT = """
seeds = {seeds}
columns = ["faults"]

[machine]
memory = "64M"

[[workloads]]
name = "random"
pages = 64
reads = {reads}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.toml"
    path.write_text(TEXT.format(seeds=2, reads=8))
    return path


def test_the_table_and_all_files(invoke, file: Path, tmp_path: Path) -> None:
    done = invoke("sweep", file, "--jobs", 1, "--csv", tmp_path / "all.csv")
    assert done.exit_code == 0, done.output
    assert [line.split()[:2] for line in done.output.splitlines()][:2] == [["workload", "n"], ["random", "2"]]
    header, *rows = (tmp_path / "all.csv").read_text().splitlines()
    assert header.startswith("workload,random.pages,random.reads,kernel,")
    assert len(rows) == len((tmp_path / "some.runs.jsonl").read_text().splitlines()) == 2

    again = json.loads(invoke("sweep", file, "--jobs", 1, "--json").output)
    assert len(again["runs"]) == 2
    assert again["table"][0]["faults"] == sum(one["faults"] for one in again["runs"]) / 2
    assert len((tmp_path / "some.runs.jsonl").read_text().splitlines()) == 2


def test_parquet_has_the_rows(invoke, file: Path, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    assert invoke("sweep", file, "--jobs", 1, "--parquet", tmp_path / "all.parquet").exit_code == 0
    frame = polars.read_parquet(tmp_path / "all.parquet")
    assert list(frame["seed"]) == [0, 1]


def start(file: Path) -> subprocess.Popen[str]:
    """Start the sweep with two processes, in a group of its own as a shell does."""
    code = "from shadowmmu.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "sweep", file, "--jobs", "2"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests of main ignore it afterwards
    )


def wait_for(runs: int, store: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not store.exists() or store.read_bytes().count(b"\n") < runs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def group(process: subprocess.Popen[str]) -> list[int]:
    """Processes of its session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, session = rest.split()[:4]
        if int(session) == process.pid and state != "Z":
            found.append(int(name.split()[0]))
    return found


def test_a_sweep_that_was_stopped_and_killed_does_the_rest(invoke, file: Path, tmp_path: Path) -> None:
    file.write_text(TEXT.format(seeds=200, reads=200))
    store = tmp_path / "some.runs.jsonl"
    stopped = start(file)
    wait_for(2, store, stopped)
    os.killpg(stopped.pid, signal.SIGINT)
    assert [text.strip() for text in stopped.communicate(timeout=60)] == ["", "shadowmmu: interrupted"]
    assert stopped.returncode == 130

    done = store.read_bytes().count(b"\n")
    killed = start(file)
    wait_for(done + 2, store, killed)
    killed.kill()
    killed.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while group(killed):
        assert time.monotonic() < deadline, "its processes are left"
        time.sleep(0.01)

    kept = {json.loads(line)["key"] for line in store.read_bytes().split(b"\n")[:-1]}
    assert done + 2 <= len(kept) < 200
    file.write_text(TEXT.format(seeds=len(kept) + 2, reads=200))
    assert invoke("sweep", file, "--jobs", 1).exit_code == 0
    lines = [json.loads(line) for line in store.read_text().splitlines()]
    assert len(lines) == len({one["key"] for one in lines})
    assert kept <= {one["key"] for one in lines}
    assert {one["run"]["seed"] for one in lines} >= set(range(len(kept) + 2))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "Missing argument 'FILE.toml'"),
        (["none.toml"], "none.toml: No such file or directory"),
        (["FILE", "--jobs", "2", "--scheduler", "tcp://x:1"], "give one"),
        (["FILE", "--runs", "FILE"], "would overwrite the input"),
        (["FILE", "--parquet", "-"], "--parquet: Parquet is not text; name a file"),
    ],
)
def test_what_cannot_be_is_one_line(command, file: Path, args: list[str], says: str) -> None:
    if "--parquet" in args:
        pytest.importorskip("polars")
    refused = command("sweep", *(file if word == "FILE" else word for word in args))
    assert refused.returncode == 2
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
