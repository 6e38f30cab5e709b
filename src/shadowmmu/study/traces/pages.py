"""Traces reduced to changes of the page, which is what an MMU sees of them.

An access to the page of the last access of its kind is counted with that one: the processor has the
translation. So reads, writes and fetches are three streams, and of each only the changes are kept, in the
order in which they happened. The exact reduction keeps the order of all accesses: only what follows
immediately on an access of its kind to its page is counted with it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from .accesses import KINDS, Block

__all__ = ["PAGE_BITS", "PAGE_SHIFT", "PageTrace", "Reduction"]

PAGE_SHIFT = 12
PAGE_BITS = 64 - PAGE_SHIFT
"""Bits of the number of a page."""


@dataclass(slots=True)
class PageTrace:
    """A reduced trace.

    Attributes:
        kinds: READ, WRITE or FETCH of each change, 'B'.
        pages: Number of its page of 4 KiB, 'Q'.
        repeats: Accesses that it stands for, at least 1, 'Q'.
    """

    kinds: array[int] = field(default_factory=lambda: array("B"))
    pages: array[int] = field(default_factory=lambda: array("Q"))
    repeats: array[int] = field(default_factory=lambda: array("Q"))

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def accesses(self) -> int:
        """Return how many accesses it stands for."""
        return sum(self.repeats)


class Reduction:
    """Reduces a trace block by block.

    Attributes:
        trace: What it came to so far.
        accesses: Accesses so far.
    """

    def __init__(self, *, exact: bool = False) -> None:
        self.trace = PageTrace()
        self.accesses = 0
        self._exact = exact
        self._last_page = [-1] * len(KINDS)
        self._last_index = [0] * len(KINDS)

    def add(self, block: Block) -> None:
        """Add the accesses that come next."""
        self.accesses += len(block)
        kinds, pages, repeats = self.trace.kinds, self.trace.pages, self.trace.repeats
        last_page, last_index, exact = self._last_page, self._last_index, self._exact
        for kind, address in zip(block.kinds, block.addresses, strict=True):
            page = address >> PAGE_SHIFT
            if page == last_page[kind]:
                repeats[last_index[kind]] += 1
                continue
            if exact:
                last_page[:] = [-1] * len(KINDS)
            last_page[kind] = page
            last_index[kind] = len(kinds)
            kinds.append(kind)
            pages.append(page)
            repeats.append(1)

    def add_all(self, blocks: Iterable[Block]) -> PageTrace:
        """Add all blocks; return what they came to."""
        for block in blocks:
            self.add(block)
        return self.trace
