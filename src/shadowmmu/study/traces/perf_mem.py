"""Samples of `perf mem record`, as `perf mem -D report` prints them (tools/perf/builtin-mem.c).

The first line names the columns; each other is a sample: a fetch at IP, and the load or store of ADDR that
DSRC describes (union perf_mem_data_src, include/uapi/linux/perf_event.h). Samples are some of the accesses,
not all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .accesses import FETCH, READ, WRITE, Block, TraceError
from .source import Source
from .text import numbered_lines

__all__ = ["BINARY_MAGIC", "PerfMem"]

BINARY_MAGIC = b"PERFILE2"
"""What perf.data begins with, which is no text."""
_HEADER = re.compile(rb"\s*#\s*PID,\s*TID,\s*(.*)")
_LOAD, _STORE = 1 << 1, 1 << 2  # PERF_MEM_OP_LOAD, PERF_MEM_OP_STORE
_REMEDY = "print the samples with `perf mem -D report`"


class PerfMem:
    """The format; what a `TextFormat` does, with columns by name."""

    name = "perf mem"

    def fits(self, head: bytes) -> bool:
        """Return whether the first line that is not empty names columns."""
        lines = head.lstrip().splitlines()
        return bool(lines) and _HEADER.fullmatch(lines[0]) is not None

    def blocks(self, source: Source) -> Iterator[Block]:
        """Return the accesses. Raises TraceError, OSError."""
        columns: list[str] = []
        for first, lines in numbered_lines(source):
            block = Block()
            for number, line in enumerate(lines, first):
                header = _HEADER.fullmatch(line)
                if header is not None:
                    columns = _columns(f"{source.name}:{number}", header[1])
                elif line.strip() and not line.startswith(b"#"):
                    _add(block, f"{source.name}:{number}", columns, line)
            yield block


def _columns(place: str, header: bytes) -> list[str]:
    columns = ["PID", "TID", *(one.strip() for one in header.decode("ascii", "replace").split(","))]
    for needed in ("IP", "ADDR", "DSRC"):
        if needed not in columns:
            raise TraceError(f"{place}: no column {needed}; {_REMEDY}")
    return columns


def _add(block: Block, place: str, columns: list[str], line: bytes) -> None:
    words = line.replace(b",", b" ").split(None, len(columns) - 1)
    try:
        row = dict(zip(columns, words, strict=True))
        ip, address, source = (int(row[name], 16) for name in ("IP", "ADDR", "DSRC"))
        valid = max(ip, address) >> 64 == 0
    except ValueError:
        valid = False
    if not valid:
        raise TraceError(f"{place}: not a sample with the columns {', '.join(columns)}; {_REMEDY}")
    block.add(FETCH, ip)
    if address and source & (_LOAD | _STORE):
        block.add(WRITE if source & _STORE else READ, address)
