"""Real programs: traces of what they did to memory, made again by a process of the guest's kernel."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import partial
from importlib import resources
from pathlib import Path

from ...guest.workload.kernel import DIRECT_MAPS, Process
from ...x86.bits import U
from ..configuration import Guest
from ..traces.accesses import TraceError
from ..traces.formats import load_trace
from ..traces.pages import PAGE_SHIFT, PageTrace
from ..traces.process import areas_of, moved
from ..workload import WORKLOADS, Parameter, Workload, WorkloadError

__all__ = ["PREFIX", "workload_of_trace"]

PREFIX = "trace:"
"""What the names of such workloads begin with."""
_AT_USER_LEVEL = bytes(kind | U for kind in range(256))
CHUNK = 1 << 16
"""Rows of a trace that are a stream at a time."""
_USER_BITS = {"long4": 47, "long5": 56}
_SHIPPED = {
    "sort": "GNU sort sorts 300 lines",
    "gzip": "gzip compresses 1 KiB",
    "sh": "dash runs a loop of three rounds",
}
"""What the traces that come with the package are of; recorded/README.md says how they were made."""
_RUNS = Parameter("runs", 1, "times that the program runs, one after the other")


def _replayed(path: Path, guest: Guest, runs: int = 1) -> Iterator[None]:
    """Let a process make the accesses of a trace, its pages mapped when it first touches them."""
    try:
        trace = moved(load_trace(path), _limit(guest))
    except TraceError as error:
        raise WorkloadError(str(error)) from None
    areas = areas_of(trace, path.name)
    streams = list(_streams(trace))
    repeats = trace.accesses - len(trace)
    kernel = guest.kernel
    yield
    for _ in range(runs):
        process = kernel.spawn(areas)
        _run(guest, process, streams, repeats)
        kernel.exit(process)


def _run(guest: Guest, process: Process, streams: list[tuple[array[int], array[int]]], repeats: int) -> None:
    for kinds, gvas in streams:
        guest.kernel.run_user(process, kinds, gvas)
    guest.cpus[0].counts.instructions += repeats


def _limit(guest: Guest) -> int:
    """Return the number of pages that a process of the guest may have, from page 0 on."""
    name = guest.kernel.mode.name
    return 1 << _USER_BITS[name] - PAGE_SHIFT if name in _USER_BITS else DIRECT_MAPS[name] >> PAGE_SHIFT


def _streams(trace: PageTrace) -> Iterator[tuple[array[int], array[int]]]:
    for first in range(0, len(trace), CHUNK):
        kinds = trace.kinds[first : first + CHUNK].tobytes().translate(_AT_USER_LEVEL)
        yield array("B", kinds), _addresses(trace.pages[first : first + CHUNK])


def _addresses(pages: array[int]) -> array[int]:
    """Return the addresses of pages: all are shifted as one number, as none has bits that leave its word."""
    data = pages.tobytes()
    shifted = int.from_bytes(data, "little") << PAGE_SHIFT
    return array("Q", shifted.to_bytes(len(data), "little"))


def _workload(name: str, summary: str, path: Path) -> Workload:
    body = partial(_replayed, path)
    return Workload(f"{PREFIX}{name}", f"{summary}.", {"runs": _RUNS}, body, nested=False)


def workload_of_trace(path: Path) -> Workload:
    """Return the workload that a trace in a file is."""
    return _workload(str(path), "A recorded program", path)


for _name, _summary in _SHIPPED.items():
    _file = Path(str(resources.files("shadowmmu.study") / "recorded" / f"{_name}.parquet"))
    WORKLOADS[f"{PREFIX}{_name}"] = _workload(_name, _summary, _file)
