"""Sweeps: what is there is not run again, and the table is the same however it came about."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shadowmmu.study.configuration import Configuration
from shadowmmu.study.costs import Costs, default_costs
from shadowmmu.study.sweep.cluster import ClusterError, results_from
from shadowmmu.study.sweep.file import read_sweep
from shadowmmu.study.sweep.processes import results_of
from shadowmmu.study.sweep.run import Run, RunError, as_data, from_data, perform
from shadowmmu.study.sweep.store import Store
from shadowmmu.study.sweep.summary import shown_labels, summary, summary_data
from shadowmmu.study.sweep.sweep import run_sweep

COSTS = default_costs()


def here(runs):
    return results_of(runs, COSTS, jobs=1)


def test_a_result_is_the_same_after_it_was_kept(small, tmp_path: Path) -> None:
    sweep = read_sweep(small(1), COSTS)
    with Store(tmp_path / "runs") as store:
        made = run_sweep(sweep, COSTS, store, here)
    with Store(tmp_path / "runs") as store:
        kept = run_sweep(sweep, COSTS, store, here)
    assert made == kept
    assert [one.configuration for one in made] == [run.configuration for run in sweep.runs]


def test_only_what_is_missing_is_run(small, tmp_path: Path) -> None:
    asked: list[str] = []

    def noting(runs):
        asked.extend(map(str, runs))
        return here(runs)

    seen: list[tuple[int, int]] = []
    with Store(tmp_path / "runs") as store:
        run_sweep(read_sweep(small(1), COSTS), COSTS, store, noting)
        assert len(asked) == 2
        run_sweep(read_sweep(small(2), COSTS), COSTS, store, noting, progress=lambda *at: seen.append(at))
    assert len(asked) == len(set(asked)) == 4
    assert seen == [(2, 4), (3, 4), (4, 4)]


def test_results_in_any_order_come_in_the_sweeps_order(small, tmp_path: Path) -> None:
    sweep = read_sweep(small(2), COSTS)
    with Store(tmp_path / "one") as one, Store(tmp_path / "two") as two:
        forwards = run_sweep(sweep, COSTS, one, here)
        backwards = run_sweep(sweep, COSTS, two, lambda runs: reversed(list(here(runs))))
    assert [found.counters for found in forwards] == [found.counters for found in backwards]


def test_what_was_done_before_a_failure_is_kept(small, tmp_path: Path) -> None:
    def failing(runs):
        yield next(here(runs))
        raise RunError("no more")

    sweep = read_sweep(small(1), COSTS)
    with Store(tmp_path / "runs") as store:
        with pytest.raises(RunError):
            run_sweep(sweep, COSTS, store, failing)
        assert store.get(sweep.runs[0].key(COSTS))


def test_a_run_is_known_by_all_that_its_result_depends_on() -> None:
    run = Run("random", {"pages": 32}, Configuration(), 0)
    dearer = Costs(COSTS.ghz * 2, COSTS.of)
    others = [
        replace(run, workload="zipf").key(COSTS),
        replace(run, parameters={"pages": 33}).key(COSTS),
        replace(run, configuration=Configuration(vendor="intel")).key(COSTS),
        replace(run, configuration=Configuration().with_design(unsync="never")).key(COSTS),
        replace(run, seed=1).key(COSTS),
        run.key(dearer),
    ]
    assert len({run.key(COSTS), *others}) == 7
    assert replace(run).key(COSTS) == run.key(COSTS)


def test_a_run_of_a_trace_is_known_by_what_is_in_its_file(tmp_path: Path) -> None:
    trace = tmp_path / "x.din"
    run = Run(f"trace:{trace}", {"runs": 1}, Configuration(), 0)
    keys = set()
    for text in ("0 400000\n", "1 400000\n", "0 400000\n"):
        trace.write_text(text)
        keys.add(run.key(COSTS))
    assert len(keys) == 2
    trace.unlink()
    with pytest.raises(RunError, match=r"x\.din"):
        perform(run, COSTS)


def test_a_run_that_cannot_be_is_named() -> None:
    run = Run("random", {"pages": 100_000, "reads": 1}, Configuration(memory="64M"), 0)
    with pytest.raises(
        RunError, match="random memory=64M pages=100000 reads=1 seed=0: the guest has used all"
    ):
        perform(run, COSTS)


def test_a_measurement_is_whole_as_data() -> None:
    run = Run("random", {"pages": 32, "reads": 16}, Configuration(memory="64M"), 0)
    measured = perform(run, COSTS)
    assert from_data(run, as_data(measured)) == measured


def test_the_table_has_means_intervals_and_what_differs(small, tmp_path: Path) -> None:
    sweep = read_sweep(small(3), COSTS)
    with Store(tmp_path / "runs") as store:
        rows = summary(run_sweep(sweep, COSTS, store, here))
    assert shown_labels(rows) == [
        {"workload": "random", "prefetch_window": one} for one in ("off", "8_aligned")
    ]
    faults = [one["faults"] for one in rows[0].measured]
    (first, _) = summary_data(rows)
    assert len(set(faults)) > 1
    assert first["faults"] == sum(faults) / 3
    assert first["faults_ci95"] == rows[0].half_width("faults") > 0
    assert first["n"] == 3


def test_a_cluster_needs_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r'--scheduler needs Dask: pip install "shadowmmu\[sweep\]"'):
        next(results_from("tcp://localhost:1", [], COSTS))
