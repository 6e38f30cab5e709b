"""All workloads, by name."""

from __future__ import annotations

from .workload import WORKLOADS, Workload, WorkloadError
from .workloads import devices, migration, nested, patterns, processes, tables  # noqa: F401  # they register themselves

__all__ = ["WORKLOADS", "named"]


def named(name: str) -> Workload:
    """Return the workload of that name. Raises WorkloadError."""
    if name not in WORKLOADS:
        raise WorkloadError(f"no workload {name!r}; there are: {', '.join(sorted(WORKLOADS))}")
    return WORKLOADS[name]
