"""Traces of ChampSim: records of 64 bytes, an instruction each, as its tracer writes them.

0   address of the instruction, u64
8   1 if it is a branch, u8;  9  1 if it was taken, u8
10  registers written, 2 u8;  12  registers read, 4 u8
16  memory written, 2 u64;    32  memory read, 4 u64; 0 is none
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .accesses import FETCH, READ, WRITE, Block, TraceError
from .source import Source

__all__ = ["ChampSim"]

_RECORD = struct.Struct("<QBB6x2Q4Q")
_RECORDS = 1 << 14
_WRITTEN = 2


class ChampSim:
    """The format."""

    name = "ChampSim"

    def fits(self, head: bytes) -> bool:
        """Return whether the file begins with records."""
        whole = len(head) // _RECORD.size * _RECORD.size
        return whole > 0 and all(
            ip and branch <= 1 and taken <= 1 for ip, branch, taken, *_ in _RECORD.iter_unpack(head[:whole])
        )

    def blocks(self, source: Source) -> Iterator[Block]:
        """Return the accesses. Raises TraceError, OSError."""
        offset = 0
        while chunk := source.read(_RECORDS * _RECORD.size):
            if len(chunk) % _RECORD.size:
                end = offset + len(chunk) // _RECORD.size * _RECORD.size
                raise TraceError(
                    f"{source.name}: offset {end:#x}: {len(chunk) % _RECORD.size} bytes of a record of "
                    f"{_RECORD.size} are left; the trace is truncated, copy or record it again"
                )
            yield self._block(source.name, offset, chunk)
            offset += len(chunk)

    def _block(self, name: str, offset: int, chunk: bytes) -> Block:
        block = Block()
        add = block.add
        for number, record in enumerate(_RECORD.iter_unpack(chunk)):
            ip, branch, taken, *memory = record
            if branch > 1 or taken > 1:
                at = offset + number * _RECORD.size
                raise TraceError(f"{name}: offset {at:#x}: not a record of ChampSim; record the trace again")
            add(FETCH, ip)
            for address in memory[_WRITTEN:]:
                if address:
                    add(READ, address)
            for address in memory[:_WRITTEN]:
                if address:
                    add(WRITE, address)
        return block
