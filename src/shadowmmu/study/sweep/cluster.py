"""Runs on a Dask cluster, whose workers have this package, too (the extra `sweep`)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

from ..costs import Costs
from ..measure import Measurement
from .run import Run, RunError, perform
from .source import source_digest

__all__ = ["ClusterError", "results_from"]

_PATIENCE = 10
"""Seconds that a scheduler has to answer, and its first worker to be there."""


_ONE_AT_A_TIME = threading.Lock()
"""Threads of a worker would only wait for each other, in the middle of runs."""


class ClusterError(Exception):
    """A cluster that cannot be used; the text names its address, and what helps."""


def results_from(address: str, runs: Sequence[Run], costs: Costs) -> Iterator[tuple[int, Measurement]]:
    """Measure runs on the workers of a scheduler; yield each with its place as soon as it is done.

    Raises ClusterError, RunError.
    """
    try:
        from distributed import Client, as_completed
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise ClusterError('--scheduler needs Dask: pip install "shadowmmu[sweep]"') from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise ClusterError(f"{address}: no Dask scheduler answers: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            raise ClusterError(f"{address}: has no workers; start one: dask worker {address}") from None
        digest = source_digest()
        places = {
            client.submit(_perform_same, digest, run, costs, key=f"shadowmmu-{run.key(costs)}"): place
            for place, run in enumerate(runs)
        }
        try:
            for done in as_completed(list(places)):
                yield places[done], done.result()
        except KilledWorker:
            raise ClusterError(
                f"{address}: workers ended before their runs did, perhaps for lack of memory"
            ) from None
        except (ModuleNotFoundError, RuntimeError) as error:
            why = str(error).split("\n", 1)[0]
            raise ClusterError(f"{address}: workers need shadowmmu as it is here: {why}") from None


def _perform_same(digest: str, run: Run, costs: Costs) -> Measurement:
    """Measure a run if the worker has the same model. Raises RunError."""
    if source_digest() != digest:
        raise RunError("the worker has another version of shadowmmu; install the same")
    with _ONE_AT_A_TIME:
        return perform(run, costs)
