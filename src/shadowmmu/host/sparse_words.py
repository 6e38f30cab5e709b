"""Words that take memory only where they are written, for a process that cannot reserve address space."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import overload

__all__ = ["PAGE_WORDS", "SparseWords"]

PAGE_WORDS = 512
"""Words that take memory together: a frame of 4 KiB."""


class SparseWords:
    """`count` u64 words, zero until they are written.

    It does what the model does with a memoryview of words: read and write one, copy a part, replace a part.
    WebAssembly has no mmap() that reserves without committing, and 32 bits of addresses.

    Attributes:
        _count: Number of words.
        _pages: Pages of PAGE_WORDS words that were written, by index of their first word / PAGE_WORDS.
        nbytes: Bytes of all words; len() could not say it where an index of C has 32 bits.
    """

    __slots__ = ("_count", "_pages", "nbytes")

    def __init__(self, count: int) -> None:
        self._count = count
        self._pages: dict[int, array[int]] = {}
        self.nbytes = count * 8

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> array[int]: ...

    def __getitem__(self, index: int | slice) -> int | array[int]:
        """Return a word, or a copy of a part."""
        if isinstance(index, slice):
            first, last = self._part(index)
            words = array("Q")
            while first < last:
                at, end = first % PAGE_WORDS, min(PAGE_WORDS, first % PAGE_WORDS + last - first)
                page = self._pages.get(first // PAGE_WORDS)
                words += array("Q", bytes((end - at) * 8)) if page is None else page[at:end]
                first += end - at
            return words
        if not 0 <= index < self._count:
            raise IndexError(f"word {index} of {self._count}")
        page = self._pages.get(index >> 9)
        return 0 if page is None else page[index & 511]

    @overload
    def __setitem__(self, index: int, value: int) -> None: ...

    @overload
    def __setitem__(self, index: slice, value: Sequence[int]) -> None: ...

    def __setitem__(self, index: int | slice, value: int | Sequence[int]) -> None:
        """Write a word, or all words of a part. Raises OverflowError for what has more than 64 bits."""
        if isinstance(index, slice):
            self._replace(index, value)  # type: ignore[arg-type]
            return
        if not 0 <= index < self._count:
            raise IndexError(f"word {index} of {self._count}")
        self._page(index >> 9)[index & 511] = value  # type: ignore[assignment]

    def _page(self, number: int) -> array[int]:
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = array("Q", bytes(PAGE_WORDS * 8))
        return page

    def _part(self, index: slice) -> tuple[int, int]:
        first, last, step = index.indices(self._count)
        if step != 1:
            raise ValueError("a part has neighbouring words")
        return first, last

    def _replace(self, index: slice, words: Sequence[int]) -> None:
        first, last = self._part(index)
        if last - first != len(words):
            raise ValueError(f"{len(words)} words for {last - first}")
        done = 0
        while first < last:
            at, end = first % PAGE_WORDS, min(PAGE_WORDS, first % PAGE_WORDS + last - first)
            part = array("Q", words[done : done + end - at])
            self._page(first // PAGE_WORDS)[at:end] = part
            done += end - at
            first += end - at
