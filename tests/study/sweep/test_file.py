"""Files of sweeps: each list is an axis, and what cannot be is said in one line."""

import re
from pathlib import Path

import pytest

from shadowmmu.study.costs import default_costs
from shadowmmu.study.sweep.file import SweepError, read_sweep
from shadowmmu.study.sweep.sweep import Sweep

WORKLOAD = '\n[[workloads]]\nname = "random"\npages = 64\nreads = 9\n'


def read(folder: Path, text: str) -> Sweep:
    path = folder / "some.toml"
    path.write_text(text)
    return read_sweep(path, default_costs())


def test_every_list_is_an_axis(tmp_path: Path) -> None:
    sweep = read(
        tmp_path,
        """
        seeds = [3, 5]
        [machine]
        memory = "64M"
        kernel = ["6.12.111", "7.3.4"]
        backing = "thp"
        [params]
        "kvm_amd.npt" = [0, 1]
        [[designs]]
        [[designs]]
        prefetch_window = ["off", "16_aligned"]
        [[workloads]]
        name = ["random", "zipf"]
        pages = [64, "128"]
        reads = 9
        """,
    )
    assert len(sweep.runs) == len(set(map(str, sweep.runs))) == 2 * 2 * 2 * 3 * 4
    assert [str(run) for run in sweep.runs[:2]] == [
        f"random memory=64M backing=THP pages=64 reads=9 kvm_amd.npt=0 seed={seed}" for seed in (3, 5)
    ]
    assert {run.parameters["pages"] for run in sweep.runs} == {64, 128}


def test_a_run_is_there_once(tmp_path: Path) -> None:
    sweep = read(tmp_path, f'machine = {{memory = "64M"}}\n{WORKLOAD}{WORKLOAD}')
    assert len(sweep.runs) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", r"Invalid value"),
        ("kernels = 3" + WORKLOAD, r"kernels is not known; there are: seeds, columns, machine"),
        ("", r"workloads must be tables, \[\[workloads\]\]; there must be one at least"),
        ("seeds = 0" + WORKLOAD, r"seeds = 0 must be how many, such as 5, or a list of numbers from 0 on"),
        ("seeds = [1, -1]" + WORKLOAD, r"seeds = \[1, -1\] must be how many"),
        ('columns = ["fault"]' + WORKLOAD, r"columns 'fault' is no counter; there are: instructions, exits"),
        ("machine = 3" + WORKLOAD, r"machine must be a table, \[machine\]"),
        ("[machine]\ncpus = 3" + WORKLOAD, r"\[machine\] cpus is not known; there are: paging, memory"),
        ("[machine]\nvcpus = '3'" + WORKLOAD, r"\[machine\] vcpus = '3' must be of type int"),
        ("[machine]\nvcpus = []" + WORKLOAD, r"\[machine\] vcpus = \[\] must be a word or a number"),
        ("[machine]\nvcpus = 9" + WORKLOAD, r"\[machine\] vcpus=9 must be a number from 1 to 8"),
        ("[machine]\nmemory = '9M'" + WORKLOAD, r"\[machine\] memory='9M' must be at least 32M"),
        ("[machine]\nbacking = 'x'" + WORKLOAD, r"\[machine\] backing = 'x' must be one of anon, thp"),
        ("[machine]\ndirect_map = '1G'" + WORKLOAD, r"\[machine\] direct_map='1G' must be one of 2M, 4K"),
        ("[machine]\nkernel = ['6.1', '2.6']" + WORKLOAD, r"\[machine\] .*2\.6"),
        ("[params]\nx = 3" + WORKLOAD, r"\[params\] .*x"),
        ("[[designs]]\nunsync = 'maybe'" + WORKLOAD, r"\[\[designs\]\] .*unsync"),
        ("[[workloads]]\npages = 3", r"\[\[workloads\]\] needs name = NAME; `shadowmmu workload list`"),
        ("[[workloads]]\nname = 'none'", r"\[\[workloads\]\] no workload 'none'; there are: "),
        (
            "[[workloads]]\nname = 'random'\nsize = 3",
            r"\[\[workloads\]\] workload random has no parameter 'size'",
        ),
        ("[[workloads]]\nname = 'trace:x.din'", r"\[\[workloads\]\] trace:x.din: there is no file x.din"),
        (f"seeds = 1000000\n[machine]\nvcpus = [1, 2]{WORKLOAD}", r"2,000,000 runs are more than 1,000,000"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SweepError) as refused:
        read(tmp_path, text)
    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'some.toml'}: ")
    assert re.search(message, said), said
    assert "\n" not in said


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SweepError, match="not a text file; it must be TOML"):
        read_sweep(path, default_costs())
