"""The guest's page tables as a recording lets them be rebuilt: its setup, and what each op reports changed.

Pages that hold no table at the start and are not watched are not recorded: their contents stay unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["GuestMemory"]

_PAGE = 4096


@dataclass(frozen=True, slots=True)
class GuestMemory:
    """Contents of guest pages at one moment; a value, changed copies share the pages that are equal."""

    pages: Mapping[int, bytes]
    """gpa of a page -> its 4096 bytes."""
    entry_sizes: Mapping[int, int]
    """gpa of a page that holds a table -> bytes of its entries."""

    @classmethod
    def of_setup(cls, setup: Iterable[Mapping[str, Any]]) -> GuestMemory:
        """Return memory as the setup entries of a recording's header leave it."""
        contents: dict[int, bytearray] = {}
        sizes: dict[int, int] = {}
        for entry in setup:
            if entry["setup"] == "pt":
                gpa = int(entry["gpa"], 16)
                sizes.setdefault(gpa & -_PAGE, entry["size"])
                _store(contents, gpa, entry["size"], int(entry["val"], 16))
        for entry in setup:
            if entry["setup"] == "poke" and int(entry["gpa"], 16) & -_PAGE in contents:
                _store(contents, int(entry["gpa"], 16), 8, int(entry["val"], 16))
        return cls({gpa: bytes(page) for gpa, page in contents.items()}, sizes)

    def after(self, changes: Iterable[Sequence[str]], default_size: int) -> GuestMemory:
        """Return memory after an op's changes, [gpa, old, new] each.

        A page that was not known before had only zeros but for what the change reports; its entries have
        `default_size` bytes.
        """
        changes = list(changes)
        if not changes:
            return self
        touched: dict[int, bytearray] = {}
        sizes = dict(self.entry_sizes)
        for gpa_text, _, new in changes:
            gpa = int(gpa_text, 16)
            page = gpa & -_PAGE
            size = sizes.setdefault(page, default_size)
            if page not in touched:
                touched[page] = bytearray(self.pages.get(page, bytes(_PAGE)))
            _store(touched, gpa, size, int(new, 16))
        return GuestMemory({**self.pages, **{gpa: bytes(page) for gpa, page in touched.items()}}, sizes)

    def entry(self, gpa: int, size: int) -> int | None:
        """Return the entry of `size` bytes at `gpa`; None if what is there was not recorded."""
        page = self.pages.get(gpa & -_PAGE)
        if page is None:
            return None
        offset = gpa & _PAGE - 1
        return int.from_bytes(page[offset : offset + size], "little")

    def entries(self, page: int, size: int) -> dict[int, int]:
        """Return the entries of a page that are not zero, by their index."""
        words = memoryview(self.pages.get(page, b"")).cast("Q" if size == 8 else "I")
        return {index: value for index, value in enumerate(words) if value}


def _store(pages: dict[int, bytearray], gpa: int, size: int, value: int) -> None:
    """Store a value that does not cross a page."""
    page = pages.setdefault(gpa & -_PAGE, bytearray(_PAGE))
    offset = gpa & _PAGE - 1
    page[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
