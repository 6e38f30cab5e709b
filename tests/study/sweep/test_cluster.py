"""A real Dask scheduler with two workers, which are processes of their own."""

from pathlib import Path

import pytest

pytest.importorskip("distributed")

from shadowmmu.study.costs import default_costs
from shadowmmu.study.sweep.cluster import ClusterError, results_from
from shadowmmu.study.sweep.file import read_sweep
from shadowmmu.study.sweep.processes import results_of
from shadowmmu.study.sweep.store import Store
from shadowmmu.study.sweep.sweep import run_sweep

pytestmark = pytest.mark.filterwarnings("ignore")  # Dask's own


def test_two_workers_give_the_same_table(small, tmp_path: Path) -> None:
    from distributed import LocalCluster

    costs = default_costs()
    sweep = read_sweep(small(4), costs)
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
        Store(tmp_path / "runs") as store,
    ):
        address = cluster.scheduler_address
        results = run_sweep(sweep, costs, store, lambda runs: results_from(address, runs, costs))
    assert [one.as_row() | {"wall": 0} for one in results] == [
        one.as_row() | {"wall": 0} for _, one in results_of(sweep.runs, costs, jobs=1)
    ]


def test_an_address_without_a_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowmmu.study.sweep.cluster._PATIENCE", 0.2)
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        with pytest.raises(ClusterError, match="no Dask scheduler answers"):
            list(results_from(address, [], default_costs()))
