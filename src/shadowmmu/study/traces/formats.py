"""Traces of any format, recognized by what they begin with."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from .accesses import Block, TraceError
from .champsim import ChampSim
from .compact import MAGIC, from_parquet
from .din import DIN
from .lackey import LACKEY
from .pages import PageTrace, Reduction
from .perf_mem import BINARY_MAGIC, PerfMem
from .pinatrace import PINATRACE
from .source import Source, opened

__all__ = ["COMPACT", "FORMATS", "Format", "format_of", "load_trace", "reduced"]


class Format(Protocol):
    """A format whose records are accesses."""

    @property
    def name(self) -> str:
        """Its name."""

    def fits(self, head: bytes) -> bool:
        """Return whether a file that begins with `head` has it."""

    def blocks(self, source: Source) -> Iterator[Block]:
        """Return the accesses. Raises TraceError, OSError."""


COMPACT = "compact"
"""Name of the form that only has changes of the page."""
FORMATS: tuple[Format, ...] = (PerfMem(), LACKEY, PINATRACE, DIN, ChampSim())
"""All formats whose records are accesses."""


def format_of(source: Source) -> Format:
    """Return the format of a source. Raises TraceError."""
    head = source.head
    if not head:
        raise TraceError(f"{source.name}: the trace is empty")
    if head.startswith(BINARY_MAGIC):
        raise TraceError(f"{source.name}: data of perf; print them with `perf mem -D report` and give that")
    for known in FORMATS:
        if known.fits(head):
            return known
    names = ", ".join(known.name for known in FORMATS)
    raise TraceError(f"{source.name}: no trace that is known; there are: {names}, {COMPACT} (Parquet)")


def load_trace(path: Path, *, exact: bool = False) -> PageTrace:
    """Return a trace of any format, reduced (`exact`: as `Reduction`). Raises TraceError, OSError."""
    return reduced(path, exact=exact)[1]


def reduced(
    path: Path, *, exact: bool = False, progress: Callable[[int], None] = lambda accesses: None
) -> tuple[str, PageTrace]:
    """Return the name of a trace's format and the trace, reduced. `progress` gets the accesses so far.

    Raises TraceError, OSError.
    """
    with opened(path) as source:
        if source.head.startswith(MAGIC):
            return COMPACT, from_parquet(source.name, io.BytesIO(source.rest()))
        known = format_of(source)
        reduction = Reduction(exact=exact)
        for block in known.blocks(source):
            reduction.add(block)
            progress(reduction.accesses)
    if not reduction.accesses:
        raise TraceError(f"{path}: there are no accesses in the trace")
    return known.name, reduction.trace
