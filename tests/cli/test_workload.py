import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shadowmmu.study.catalogue import WORKLOADS
from shadowmmu.study.counters import COUNTERS

DIN = "".join(f"2 {0x400000 + n % 2 * 0x1000:x}\n1 {0x600000 + n // 4 * 0x1000:x}\n" for n in range(40))
ACCESSES, PAGES = 80, 12


@pytest.fixture
def din(tmp_path: Path) -> Path:
    path = tmp_path / "small.din"
    path.write_text(DIN)
    return path


def test_all_workloads_are_listed_with_parameters_and_defaults(invoke):
    listed = invoke("workload", "list").output
    for name, one in WORKLOADS.items():
        assert f"{name}: {one.summary}\n" in listed
        for parameter in one.parameters.values():
            assert f"    {parameter.name}={parameter.default}  {parameter.meaning}\n" in listed
    assert invoke("workload").output == listed
    found = json.loads(invoke("workload", "list", "--json").output)
    assert set(found) == set(WORKLOADS)
    assert found["random"]["parameters"]["reads"]["default"] == 4000


def test_a_workload_prints_its_counters_with_names_and_an_estimate(invoke):
    args = ("workload", "run", "sequential", "--set", "pages=64", "--memory", "64M")
    done = invoke(*args)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].rstrip() == "sequential pages=64"
    assert any(line.split()[:4] == ["64", "instructions", "Accesses", "and"] for line in lines)
    assert lines[-2].startswith("The MMU's work comes to ")
    assert lines[-1] == "The audit found nothing."
    data = json.loads(invoke(*args, "--json").output)
    assert set(data) > {*COUNTERS, "seconds", "seconds_low", "seconds_high", "seed", "sequential.pages"}
    assert data["clean"] is True


def test_machine_design_and_seed_are_those_that_were_asked_for(invoke):
    def run(*options: str) -> dict[str, object]:
        args = ("workload", "run", "random", "--set", "pages=1024", "--set", "reads=50", "--memory", "64M")
        return json.loads(invoke(*args, "--json", *options).output)

    default = run()
    assert run("--seed", "1")["faults"] != default["faults"]
    assert run("--param", "kvm_amd.npt=1")["walk_loads"] > default["walk_loads"]
    assert run("--design", "prefetch_window=off")["sptes_made"] < default["sptes_made"]
    other = run("--kernel", "7.3.4", "--vendor", "intel", "--paging", "pae")
    assert [other[name] for name in ("kernel", "vendor", "paging")] == ["7.3.4", "intel", "pae"]


def test_a_trace_is_run_as_it_is_and_converted(invoke, din: Path, tmp_path: Path):
    pytest.importorskip("polars")
    out = tmp_path / "small.parquet"
    converted = invoke("workload", "convert", din, out)
    assert converted.exit_code == 0, converted.output
    assert converted.output == f"{din} (din): {ACCESSES} accesses, 50 changes of the page, {PAGES} pages\n"
    as_json = json.loads(invoke("workload", "convert", out, tmp_path / "again", "--json").output)
    assert as_json == {"format": "compact", "accesses": ACCESSES, "changes": 50, "pages": PAGES}
    assert out.read_bytes() == (tmp_path / "again").read_bytes()
    results = []
    for path in (din, out):
        data = json.loads(invoke("workload", "run", path, "--memory", "64M", "--json").output)
        results.append({name: data[name] for name in COUNTERS})
    assert results[0] == results[1]
    assert results[0]["guest_exceptions"] == PAGES


@pytest.mark.skipif(not shutil.which("valgrind"), reason="no valgrind")
def test_a_program_is_recorded_and_run(process, invoke, tmp_path: Path):
    pytest.importorskip("polars")
    out = tmp_path / "true.parquet"
    done = process("workload", "record", "-o", out, "--", "sh", "-c", "echo here; exit 3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "here\n"
    assert done.stderr.splitlines()[-1].endswith(" pages; sh ended with status 3")
    assert done.stderr.startswith(f"{out}: ")
    run = invoke("workload", "run", out, "--memory", "64M", "--json")
    assert run.exit_code == 0, run.output
    assert json.loads(run.output)["instructions"] > 10_000


@pytest.mark.skipif(not shutil.which("valgrind"), reason="no valgrind")
def test_interrupted_nothing_is_half_written_and_nothing_runs_on(tmp_path: Path):
    pytest.importorskip("polars")
    out = tmp_path / "old.parquet"
    out.write_text("what was there")
    code = "from shadowmmu.cli.main import main; main()"
    started = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            "workload",
            "record",
            "-o",
            out,
            "--",
            "sh",
            "-c",
            "echo $$; read x",
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests of main ignore it afterwards
    )
    assert started.stdout is not None
    recorded = int(started.stdout.readline())
    started.send_signal(signal.SIGINT)
    _, complaint = started.communicate(timeout=60)
    assert started.returncode == 130, complaint
    assert complaint.splitlines()[-1] == "shadowmmu: interrupted"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "what was there"
    for _ in range(100):
        if not Path(f"/proc/{recorded}").exists():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the program runs on")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["run", "nonsense"], "no workload 'nonsense'; there are: backward, balloon"),
        (["run", "./none"], "none: No such file or directory"),
        (
            ["run", "random", "--set", "size=1"],
            "workload random has no parameter 'size'; there are: pages, reads",
        ),
        (["run", "random", "--set", "pages"], "'pages' is not a setting; write KEY=VALUE"),
        (["run", "random", "--memory", "1M"], "memory='1M' must be at least 32M"),
        (["run", "random", "--memory", "much"], "memory='much' must be a number of bytes"),
        (
            ["run", "random", "--memory", "32M"],
            "random: the guest has used all of its 15 MiB; give it more with",
        ),
        (["run", "random", "--param", "kvm.nonsense=1"], "nonsense"),
        (["run", "pyproject.toml"], "pyproject.toml: no trace that is known; there are: perf mem, lackey"),
        (["convert", "none.din", "x"], "none.din: No such file or directory"),
        (["convert", "pyproject.toml", "pyproject.toml"], "would overwrite the input pyproject.toml"),
        (
            ["record", "-o", "/tmp/x.parquet", "--", "no-such-program"],
            "no-such-program: there is no such program",
        ),
        (["record", "-o", "-", "--", "true"], "-o: standard output is the program's; name a file"),
        (["record", "-o", "/nowhere/x", "--", "true"], "/nowhere/x: cannot write: No such file or directory"),
        (["record", "--", "true"], "Missing option '-o'"),
    ],
)
def test_what_cannot_be_is_one_line(command, args: list[str], says: str):
    refused = command("workload", *args, cwd=Path(__file__).parents[2])
    assert refused.returncode == 2
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
