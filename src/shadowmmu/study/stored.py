"""The results of a study as data, for other programs and to be shown later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .catalogue import named
from .costs import Estimate
from .counters import COUNTERS
from .measure import Measurement
from .results import Results
from .study import Alternative, Case, Study, verdict_of
from .table import as_rows

__all__ = ["StoredError", "as_data", "results_of"]


class StoredError(Exception):
    """Data that is not of the study as it is; the text says what is missing."""


def as_data(results: Results) -> dict[str, Any]:
    """Return results as one object, which `results_of` reads."""
    return {
        "study": results.study.name,
        "question": results.study.question,
        "verdict": verdict_of(results),
        "clean": results.clean,
        "measurements": list(as_rows(results)),
    }


def results_of(study: Study, data: Mapping[str, Any]) -> Results:
    """Return the results that data hold. Raises StoredError if the study has changed since."""
    rows: Iterable[Mapping[str, Any]] = data["measurements"]
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    found = {(row["case"], row["alternative"], row["seed"]): row for row in rows}
    results = Results(study, seeds)
    for case in study.cases:
        for alternative in study.alternatives:
            for seed in seeds:
                row = found.get((case.label, alternative.label, seed), {})
                try:
                    results.add(case, alternative, _measurement(case, alternative, row))
                except KeyError as missing:
                    raise StoredError(
                        f"{study.name}: no {missing} of {case.label} with {alternative.label}, seed {seed}"
                    ) from None
    return results


def _measurement(case: Case, alternative: Alternative, row: Mapping[str, Any]) -> Measurement:
    return Measurement(
        workload=row["workload"],
        parameters={name: row[f"{case.workload}.{name}"] for name in named(case.workload).parameters},
        configuration=alternative.configuration,
        seed=row["seed"],
        counters={name: row[name] for name in COUNTERS},
        estimate=Estimate(row["seconds"], row["seconds_low"], row["seconds_high"]),
        longest_hold=row["longest_hold"],
        hold_p99=row["hold_p99"],
        clean=row["clean"],
        wall=row["wall"],
    )
