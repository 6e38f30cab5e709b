"""A sweep: runs in an order, of which those that a store has are not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..costs import Costs
from ..measure import Measurement
from .run import Run, as_data, from_data
from .store import Store, StoreError

__all__ = ["Perform", "Sweep", "run_sweep"]

Perform = Callable[[Sequence[Run]], Iterator[tuple[int, Measurement]]]
"""Measures runs and yields each with its place, in any order."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is to be measured.

    Attributes:
        path: The file that says so.
        runs: Each run once, in the order of the table; seeds of the same run follow each other.
        columns: Counters that the table shows.
    """

    path: Path
    runs: tuple[Run, ...]
    columns: tuple[str, ...]


def run_sweep(
    sweep: Sweep,
    costs: Costs,
    store: Store,
    perform: Perform,
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Measurement]:
    """Run what the store does not have; return all results in the sweep's order.

    Raises what `perform` raises, StoreError and OSError; the store has what was done until then.
    """
    keys = [run.key(costs) for run in sweep.runs]
    missing = [place for place, key in enumerate(keys) if store.get(key) is None]
    total = len(keys)
    progress(total - len(missing), total)
    for done, (place, measured) in enumerate(perform([sweep.runs[place] for place in missing]), 1):
        run, key = sweep.runs[missing[place]], keys[missing[place]]
        store.add(key, run.description(), as_data(measured))
        progress(total - len(missing) + done, total)
    return [_kept(store, key, run) for key, run in zip(keys, sweep.runs, strict=True)]


def _kept(store: Store, key: str, run: Run) -> Measurement:
    try:
        return from_data(run, store.get(key) or {})
    except (KeyError, TypeError):
        raise StoreError(f"the result of {run} is not whole; remove the line with {key}") from None
