"""All workloads, by name."""

from __future__ import annotations

from pathlib import Path

from .workload import WORKLOADS, Workload, WorkloadError
from .workloads import (  # noqa: F401  # they register themselves
    devices,
    migration,
    nested,
    patterns,
    processes,
    tables,
)
from .workloads.recorded import PREFIX, workload_of_trace

__all__ = ["WORKLOADS", "named"]


def named(name: str) -> Workload:
    """Return the workload of that name; `trace:FILE` is a trace. Raises WorkloadError."""
    if name not in WORKLOADS:
        if name.startswith(PREFIX):
            return workload_of_trace(Path(name.removeprefix(PREFIX)))
        raise WorkloadError(f"no workload {name!r}; there are: {', '.join(sorted(WORKLOADS))}")
    return WORKLOADS[name]
