"""What readers of traces yield: blocks of accesses, whatever the format."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from ...x86.bits import FETCH, MASK64, READ, WRITE

__all__ = ["FETCH", "KINDS", "READ", "WRITE", "Block", "TraceError"]

KINDS = ("read", "write", "fetch")
"""Names of the kinds, by number."""
PAGE = 4096


class TraceError(Exception):
    """A trace that cannot be used: `str` names the file, line or offset, and the remedy."""


@dataclass(slots=True)
class Block:
    """Accesses in the order in which they were made.

    Attributes:
        kinds: READ, WRITE or FETCH of each, 'B'.
        addresses: Its linear address, 'Q'.
    """

    kinds: array[int] = field(default_factory=lambda: array("B"))
    addresses: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, kind: int, address: int, size: int = 1) -> None:
        """Append an access of `size` bytes; one that crosses into the next page is an access to each."""
        self.kinds.append(kind)
        self.addresses.append(address)
        if address % PAGE + size > PAGE:
            self.kinds.append(kind)
            self.addresses.append(address + size - 1 & MASK64)

    def __len__(self) -> int:
        return len(self.kinds)
