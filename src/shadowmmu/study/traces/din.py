"""Traces in the format din of the cache simulator Dinero: `LABEL ADDRESS`, the address hexadecimal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .accesses import FETCH, READ, WRITE, Block
from .text import TextFormat

__all__ = ["DIN"]

_KINDS = {b"0": READ, b"1": WRITE, b"2": FETCH}


def _add(block: Block, groups: Sequence[bytes]) -> None:
    block.add(_KINDS[groups[0]], int(groups[1], 16))


DIN = TextFormat(
    name="din",
    record=re.compile(rb"[ \t]*([012])[ \t]+(?:0[xX])?([0-9a-fA-F]{1,16})(?:\s.*)?"),
    ignored=re.compile(rb"\s*|[ \t]*[34](?:\s.*)?"),  # 3 and 4 are escapes: no access, flush of the cache
    add=_add,
    remedy="a line is 0 (read), 1 (write) or 2 (fetch) and a hexadecimal address",
)
