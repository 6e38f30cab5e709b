"""A trace as a process: which areas it has, and where its pages are in the guest's address space."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import compress

from ...guest.workload.kernel import Area, Kind
from .accesses import WRITE, TraceError
from .pages import PageTrace

__all__ = ["areas_of", "moved"]

REGION_SHIFT = 10
"""Log2 of the pages of a region, which keeps together when it moves: what a table of any mode maps."""
_IS_WRITE = bytes(kind == WRITE for kind in range(256))


def areas_of(trace: PageTrace, name: str) -> list[Area]:
    """Return the areas of a process that makes these accesses, in order.

    Pages that are written are private; those that are only fetched or read are of the file `name`.
    """
    written = set(compress(trace.pages, trace.kinds.tobytes().translate(_IS_WRITE)))
    areas = []
    for first, end in _runs(sorted(set(trace.pages)), written):
        if first in written:
            areas.append(Area(first, end, Kind.PRIVATE))
        else:
            areas.append(Area(first, end, Kind.FILE, f"{name}:{first:#x}"))
    return areas


def _runs(pages: Iterable[int], written: set[int]) -> Iterator[tuple[int, int]]:
    """Return (first, end) of neighbours that are all written or all not."""
    first = end = -1
    for page in pages:
        if page != end or (page in written) != (first in written):
            if end > first:
                yield first, end
            first = page
        end = page + 1
    if end > first:
        yield first, end


def moved(trace: PageTrace, limit: int) -> PageTrace:
    """Return a trace with all pages below `limit`: regions beyond move to where there are none, in order.

    Raises TraceError if there are too many.
    """
    if max(trace.pages, default=0) < limit:
        return trace
    regions = sorted({page >> REGION_SHIFT for page in trace.pages})
    most = limit >> REGION_SHIFT
    if len(regions) > most:
        raise TraceError(
            f"the trace uses {len(regions)} regions of 4 MiB, and a process of this paging mode has {most}; "
            "choose long4 or long5"
        )
    taken = {region for region in regions if region < most}
    free = (region for region in range(most) if region not in taken)
    place = {region: region if region < most else next(free) for region in regions}
    mask = (1 << REGION_SHIFT) - 1
    pages = array("Q", [place[page >> REGION_SHIFT] << REGION_SHIFT | page & mask for page in trace.pages])
    return PageTrace(trace.kinds, pages, trace.repeats)
