"""The table of a sweep: a row for each run, its seeds taken together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from ..counters import COUNTERS
from ..interval import half_width
from ..measure import Measurement
from ..table import TIMES

__all__ = ["Row", "shown_labels", "summary", "summary_data"]

_RESULTS = frozenset({*COUNTERS, *TIMES, "seed", "seconds_low", "seconds_high", "clean", "wall"})


@dataclass(frozen=True, slots=True)
class Row:
    """Measurements that differ by their seeds only.

    Attributes:
        labels: What was measured: workload, machine, parameters, switches.
        measured: The measurements.
    """

    labels: Mapping[str, Any]
    measured: Sequence[Measurement]

    def mean(self, counter: str) -> float:
        """Return the mean of a counter over the seeds."""
        return fmean(one[counter] for one in self.measured)

    def half_width(self, counter: str) -> float | None:
        """Return half the width of the mean's 95 % confidence interval; None of a single seed."""
        return half_width([one[counter] for one in self.measured])

    @property
    def clean(self) -> bool:
        """Return whether the audit found nothing."""
        return all(one.clean for one in self.measured)


def _labels(measured: Measurement) -> dict[str, Any]:
    return {name: value for name, value in measured.as_row().items() if name not in _RESULTS}


def summary(results: Sequence[Measurement]) -> list[Row]:
    """Return the rows of results whose seeds follow each other."""
    return [Row(labels, list(group)) for labels, group in groupby(results, key=_labels)]


def shown_labels(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return what tells each row from the others: its workload, with parameters, and in what rows differ.

    A switch or a parameter that a row's file does not name is "default".
    """
    names = list(dict.fromkeys(name for row in rows for name in row.labels if "." not in name or _kvm(name)))
    varying = [name for name in names if name != "workload" and _differ(rows, name)]
    return [
        {"workload": _workload(row, rows)} | {name: str(row.labels.get(name, "default")) for name in varying}
        for row in rows
    ]


def _kvm(name: str) -> bool:
    """Return whether a label with a dot is a parameter of a module, not of the workload."""
    return name.startswith("kvm")


def _differ(rows: Sequence[Row], name: str) -> bool:
    return len({str(row.labels.get(name)) for row in rows}) > 1


def _workload(row: Row, rows: Sequence[Row]) -> str:
    name = str(row.labels["workload"])
    same = [one for one in rows if one.labels["workload"] == name]
    varying = [one for one in row.labels if one.startswith(f"{name}.") and _differ(same, one)]
    return " ".join([name, *(f"{one.removeprefix(f'{name}.')}={row.labels[one]}" for one in varying)])


def summary_data(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Yield each row with the means of all counters, NAME, and half widths of their intervals, NAME_ci95."""
    for row in rows:
        values: dict[str, Any] = {}
        for name in (*COUNTERS, *TIMES):
            values |= {name: row.mean(name), f"{name}_ci95": row.half_width(name)}
        yield {**row.labels, "n": len(row.measured), **values, "clean": row.clean}
