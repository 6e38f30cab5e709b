"""Traces of Pin's example tool pinatrace: `IP: R ADDRESS` or `IP: W ADDRESS`.

Only instructions that access memory are in it; each line is a fetch of its instruction and the access.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .accesses import FETCH, READ, WRITE, Block
from .text import TextFormat

__all__ = ["PINATRACE"]


def _add(block: Block, groups: Sequence[bytes]) -> None:
    ip, operation, address = groups
    block.add(FETCH, int(ip, 16))
    block.add(READ if operation == b"R" else WRITE, int(address, 16))


PINATRACE = TextFormat(
    name="pinatrace",
    record=re.compile(rb"0x([0-9a-f]{1,16}): ([RW])\s+0x([0-9a-f]{1,16})(?:\s.*)?"),
    ignored=re.compile(rb"#.*|\s*"),
    add=_add,
    remedy="a line is 0xIP: R 0xADDRESS or 0xIP: W 0xADDRESS",
)
