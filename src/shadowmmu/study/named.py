"""A study by its name, for programs and notebooks."""

from __future__ import annotations

from collections.abc import Sequence

from .costs import Costs, default_costs
from .studies import STUDIES
from .study import Results, run_study

__all__ = ["study"]


def study(name: str, *, seeds: Sequence[int] = (0,), jobs: int = 1, costs: Costs | None = None) -> Results:
    """Measure a study, see `STUDIES`; with `jobs` processes at once, by the default costs unless given.

    Raises KeyError, which names the studies, and RunError.
    """
    if name not in STUDIES:
        raise KeyError(f"no study {name!r}; there are: {', '.join(STUDIES)}")
    return run_study(STUDIES[name], costs or default_costs(), seeds=seeds, jobs=jobs)
