"""Traces of valgrind's lackey: `valgrind --tool=lackey --trace-mem=yes` (lackey manual, --trace-mem)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .accesses import FETCH, READ, WRITE, Block
from .text import TextFormat

__all__ = ["LACKEY"]

_KINDS = {b"I ": FETCH, b" L": READ, b" S": WRITE}


def _add(block: Block, groups: Sequence[bytes]) -> None:
    operation, address, size = groups
    if operation == b" M":  # modify: a load and a store
        block.add(READ, int(address, 16), int(size))
        block.add(WRITE, int(address, 16), int(size))
    else:
        block.add(_KINDS[operation], int(address, 16), int(size))


LACKEY = TextFormat(
    name="lackey",
    record=re.compile(rb"(I | L| S| M) ([0-9a-f]{1,16}),([0-9]{1,4})"),
    ignored=re.compile(rb"==[0-9]+==.*|"),
    add=_add,
    remedy="let valgrind write to a file of its own: --log-file=FILE",
)
