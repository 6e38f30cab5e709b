"""Runs in this process, or in several of this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection

from ... import native
from ..costs import Costs
from ..measure import Measurement
from .run import Run, RunError, perform

__all__ = ["processors", "results_of"]


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def results_of(runs: Sequence[Run], costs: Costs, *, jobs: int) -> Iterator[tuple[int, Measurement]]:
    """Measure runs with so many processes at once; yield each with its place as soon as it is done.

    With one process it is this one. Raises RunError.
    """
    if jobs == 1 or len(runs) < 2:
        yield from ((place, perform(run, costs)) for place, run in enumerate(runs))
        return
    context = get_context("spawn")
    ending, alive = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(
        min(jobs, len(runs)), mp_context=context, initializer=_end_with_it, initargs=(ending,)
    )
    try:
        with _quiet_start():
            places = {executor.submit(perform, run, costs): place for place, run in enumerate(runs)}
        for done in as_completed(places):
            yield places.pop(done), done.result()
        executor.shutdown()
    except BrokenProcessPool:
        raise RunError(
            "a process ended before its run did, perhaps for lack of memory: try fewer --jobs"
        ) from None
    finally:
        alive.close()
        executor.shutdown(cancel_futures=True)
        ending.close()


def _end_with_it(ending: Connection) -> None:
    """Make this process end when the other end of the pipe is closed, also by a kill of the process there."""

    def wait() -> None:
        ending.poll(None)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Start processes that leave Ctrl-C to this one, and that do not say again that they run interpreted."""
    if not native:
        os.environ["SHADOWMMU_INTERPRETED"] = "1"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
