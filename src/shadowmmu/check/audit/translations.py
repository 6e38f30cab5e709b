"""What is known to be good in TLBs, and the host addresses whose changes end that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

__all__ = ["HostWatcher", "Translations"]


class Translations:
    """Entries of a vCPU's TLB that agree with its tables, until an SPTE that they depend on changes."""

    def __init__(self, tables: tuple[int, ...]) -> None:
        self.tables = tables
        self._good: set[tuple[int, int, int]] = set()
        self._by_spte: defaultdict[int, set[tuple[int, int, int]]] = defaultdict(set)

    def has(self, translation: tuple[int, int, int]) -> bool:
        """Return whether (gva, level, entry) was found to agree."""
        return translation in self._good

    def add(self, translation: tuple[int, int, int], way: Iterable[int]) -> None:
        """Record that a translation agrees with the SPTEs at these addresses."""
        self._good.add(translation)
        for address in way:
            self._by_spte[address].add(translation)

    def drop(self, addresses: Iterable[int]) -> None:
        """Drop what depends on these SPTEs, which changed."""
        for address in addresses:
            self._good -= self._by_spte.pop(address, set())


class HostWatcher:
    """Records which host addresses changed, whatever KVM does about it."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.count = 0

    def invalidate_range_start(self, start: int, end: int) -> None:
        self.ranges.append((start, end))
        self.count += 1

    def invalidate_range_end(self, start: int, end: int) -> None:
        pass

    def change_pte(self, address: int, pfn: int, *, writable: bool) -> None:
        pass

    def clear_young(self, start: int, end: int) -> bool:
        return False

    def clear_flush_young(self, start: int, end: int) -> bool:
        return False
