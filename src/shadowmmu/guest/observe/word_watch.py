"""A few words of memory that are compared after each exit: compiled, for it is done very often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cython

from ...kvm.bits import PT64_ROOT_MAX_LEVEL
from ...x86.arrays import filled

__all__ = ["MOST_WATCHED", "WordWatch"]

MOST_WATCHED = 8 * PT64_ROOT_MAX_LEVEL
"""Words that are compared at most."""


class WordWatch:
    """Words of memory, by their index, and what they were.

    Attributes:
        count: How many there are.
    """

    def __init__(self, words: Any) -> None:
        """`words` is all of memory as u64 words."""
        self._words = words
        self._indices = filled(8 * PT64_ROOT_MAX_LEVEL)
        self._values = filled(8 * PT64_ROOT_MAX_LEVEL)
        self.count = 0

    def watch(self, indices: Sequence[int]) -> None:
        """Watch these words instead, from what they are now; at most MOST_WATCHED."""
        self.count = 0
        for index in indices[:MOST_WATCHED]:
            self._indices[self.count] = index
            self._values[self.count] = self._words[index]
            self.count += 1

    def changed(self) -> bool:
        """Return whether a word is not what it was."""
        number: cython.ulonglong = 0
        while number < self.count:
            if self._words[self._indices[number]] != self._values[number]:
                return True
            number += 1
        return False
