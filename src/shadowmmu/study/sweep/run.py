"""One run of a sweep or a study: all that its result depends on, and the result as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...vm.config import ConfigurationError
from ..catalogue import WORKLOADS
from ..configuration import Configuration
from ..costs import Costs, Estimate
from ..measure import Measurement, measure
from ..workload import WorkloadError
from ..workloads.recorded import PREFIX
from .source import source_digest

__all__ = ["Run", "RunError", "as_data", "from_data", "perform", "trace_of"]

_KEY = 32
"""Hexadecimal digits of a run's key."""
_OF_RUN = ("workload", "parameters", "configuration", "seed")
"""Fields of a measurement that its run has, too."""


class RunError(Exception):
    """A run that cannot be; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Run:
    """A measurement that is to be made; the fields as those of `Measurement`.

    audited: the audit looks at its end.
    """

    workload: str
    parameters: Mapping[str, int]
    configuration: Configuration
    seed: int
    audited: bool = True

    def description(self) -> dict[str, Any]:
        """Return all of it as data."""
        machine = {one.name: _plain(getattr(self.configuration, one.name)) for one in fields(Configuration)}
        return {
            "workload": self.workload,
            "parameters": dict(self.parameters),
            "configuration": machine,
            "seed": self.seed,
            **({} if self.audited else {"audited": False}),
        }

    def key(self, costs: Costs) -> str:
        """Return a name by content: of the run, its trace, the costs, the model's source. Raises OSError."""
        trace = trace_of(self.workload)
        content = {
            "run": self.description(),
            "costs": asdict(costs),
            "source": source_digest(),
            "trace": sha256(trace.read_bytes()).hexdigest() if trace else None,
        }
        return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_KEY]

    def __str__(self) -> str:
        plain = Configuration()
        machine = [
            f"{one.name}={_plain(value)}"
            for one in fields(Configuration)
            if not isinstance(value := getattr(self.configuration, one.name), Mapping)
            and value != getattr(plain, one.name)
        ]
        values = {**self.parameters, **self.configuration.params, **self.configuration.design}
        return " ".join(
            [
                self.workload,
                *machine,
                *(f"{name}={value}" for name, value in values.items()),
                f"seed={self.seed}",
            ]
        )


def trace_of(workload: str) -> Path | None:
    """Return the file of the trace that a workload is, unless it comes with the package; else None."""
    if workload in WORKLOADS or not workload.startswith(PREFIX):
        return None
    return Path(workload.removeprefix(PREFIX))


def _plain(value: object) -> object:
    match value:
        case Enum():
            return value.name
        case Mapping():
            return dict(value)
    return value


def perform(run: Run, costs: Costs) -> Measurement:
    """Measure a run. Raises RunError."""
    try:
        return measure(
            run.workload,
            run.configuration,
            costs,
            parameters=run.parameters,
            seed=run.seed,
            audited=run.audited,
        )
    except (ConfigurationError, WorkloadError, MemoryError, OSError) as error:
        raise RunError(f"{run}: {error or 'out of memory'}") from None


def as_data(measured: Measurement) -> dict[str, Any]:
    """Return what a measurement has beyond its run, as data."""
    found = {one.name: getattr(measured, one.name) for one in fields(Measurement) if one.name not in _OF_RUN}
    return {**found, "counters": dict(measured.counters), "estimate": asdict(measured.estimate)}


def from_data(run: Run, data: Mapping[str, Any]) -> Measurement:
    """Return the measurement of a run from its data. Raises KeyError, TypeError."""
    of_run = {name: getattr(run, name) for name in _OF_RUN}
    return Measurement(**{**of_run, **data, "estimate": Estimate(**data["estimate"])})
