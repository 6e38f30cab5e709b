"""Alternatives of the MMU's design side by side: workloads, costs, measurements and verdicts.

`study(NAME)` measures one of the `STUDIES`, `measure(WORKLOAD, Configuration(...))` whatever you like.
"""

# the functions have the names of the modules that they come from: they replace them here, once and for all
from .configuration import Configuration
from .measure import Measurement, measure
from .named import study
from .results import Results
from .studies import STUDIES

__all__ = ["STUDIES", "Configuration", "Measurement", "Results", "measure", "study"]
