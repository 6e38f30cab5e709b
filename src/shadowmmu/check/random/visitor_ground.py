"""The ground of the guests that look for historic defects: what they do besides what a Ground does."""

from __future__ import annotations

from collections import deque

from ...x86.bits import MASK64
from .ground import Ground
from .ground_setup import NOTHING

__all__ = ["FRAME", "VisitorGround"]

RESERVED = {"pae": 1 << 62}
"""A bit that is reserved in entries; of other guests one of an address that is too high."""
RIGHTS = (1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 63)
"""Bits of an entry that guests change alone."""
FRAME = 0xFFFFFFFFFF000
RECENT = 4
"""So many addresses a guest comes back to."""


class VisitorGround(Ground):
    """A guest that uses all quadrants of 32-bit tables and reserved bits, maps tables as data, and devices,
    changes the rights of what it has mapped, links tables at more places, and comes back to addresses that it
    used a moment ago, and to what maps them. Its tables are often in memory that logs.
    """

    def __init__(
        self, mode: str, mmu: str, profile: str, seed: int, *, design: dict[str, str] | None = None
    ) -> None:
        self.recent: deque[int] = deque(maxlen=RECENT)
        super().__init__(mode, mmu, profile, seed, design=design)
        self.entries = {
            (int(words[1], 16), int(words[2])): int(words[3], 16)
            for words in (line.removeprefix("npt ").split() for line in self.setup)
            if words[0] == "pt"
        }

    def choose_kind(self) -> str:
        kind = super().choose_kind()
        return "logged" if self.random.random() < 0.3 else kind

    def host(self) -> list[str]:
        if self.kind != "logged" or self.random.random() < 0.7:
            return super().host()
        if self.rings:
            return self.ring_lines()
        lines = ["getdirty 6", "cleardirty 6 0 512"] if self.manual else ["getdirty 6"]
        if self.mmu != "shadow" or not self.levels or self.random.random() < 0.5:
            return lines
        return [*lines[:-1], *self._table_changes_twice(), lines[-1]]

    def _table_changes_twice(self) -> list[str]:
        """Write a table as the guest, before its log is read and again in the middle, while others flush.

        The first write may leave an entry as it was.
        """
        table = self.random.choice(self.tables[1])
        index = self.index(1)
        entry = self.entries.get((table, index), 0) if self.random.random() < 0.7 else self.entry(1)
        first = self.writes(table, index, entry)
        second = self.writes(table, *self._any_entry(table))
        flush = f"meanwhile 1 @1 cr3 {self._root():#x}"
        locked = self.random.random() < 0.2
        lines = [*(edit.line(locked=locked) for edit in first), flush]
        return lines + [f"meanwhile 1 {edit.line()}" for edit in second]

    def index(self, level: int) -> int:
        if self.recent and self.random.random() < 0.5:
            return self.random.choice(self.recent) >> 12 + self.bits * (level - 1) & (1 << self.bits) - 1
        index = super().index(level)
        if self.mode == "32" and self.random.random() < 0.4:
            index |= 0x200 if level == 1 else 0x100
        return index

    def entry(self, level: int) -> int:
        entry = super().entry(level)
        chance = self.random.random()
        if level == 1 and chance < 0.12:
            page = self.random.choice(self.tables[1]) if chance < 0.08 else NOTHING[0]
            return page | self.flags(leaf=True) & ~0x100
        if chance < 0.96 or self.entry_size == 4 or (self.mode, level) == ("pae", 3):
            return entry
        return entry | RESERVED.get(self.mode, 1 << 51)

    def place(self) -> tuple[int, int, int]:
        way = self._way(self.random.choice(self.recent)) if self.recent and self.random.random() < 0.4 else []
        return self.random.choice(way[-2:]) if way else super().place()

    def _way(self, address: int) -> list[tuple[int, int, int]]:
        """Return the entries that translate an address, as far as the guest remembers what it wrote."""
        table, way = self.random.choice(self.tables[self.levels]), []
        for level in range(self.levels, 0, -1):
            index = address >> 12 + self.bits * (level - 1) & (1 << self.bits) - 1
            entry = self.entries.get((table, index), 0)
            way.append((level, table, index))
            if not entry & 1 or entry & 0x80:
                break
            table = entry & FRAME
        return [place for place in way if place[:2] in self.edited]

    def protects_a_table(self) -> list[str]:
        """Read a table as the guest through another one, change it, give or take the right to write it, and
        flushes: what kernels do that map all memory. Nothing if no table that it knows maps another.
        """
        root = table = self.random.choice(self.tables[self.levels])
        address = 0
        for level in range(self.levels, 1, -1):
            entries = self._entries_of(table, self.tables[level - 1])
            if not entries:
                return []
            index = self.random.choice(entries)
            address |= index << 12 + self.bits * (level - 1)
            table = self.entries[table, index] & FRAME
        entries = [index for index in self._entries_of(table, self.tables[1]) if index != 511]
        if not entries:
            return []
        index = self.random.choice(entries)
        entry, address = self.entries[table, index], address | index << 12
        flipped = self.entries[table, index] = entry ^ self.random.choice(RIGHTS[:2])
        edits = [
            *self.writes(entry & FRAME, *self._any_entry(entry & FRAME)),
            *self.writes(table, index, flipped),
        ]
        if address >> 11 + self.bits * self.levels & 1 and self.levels > 3:
            address |= -1 << 12 + self.bits * self.levels & MASK64
        return [f"cr3 {root:#x}", f"read {address:#x}", *(edit.line() for edit in edits), f"cr3 {root:#x}"]

    def _entries_of(self, table: int, targets: list[int]) -> list[int]:
        """Return which entries of a table lead to one of others, as far as the guest knows."""
        return [
            index
            for (there, index), entry in self.entries.items()
            if there == table and entry & 1 and not entry & 0x80 and entry & FRAME in targets
        ]

    def _any_entry(self, table: int) -> tuple[int, int]:
        """Return index and new value of an entry of a leaf table."""
        index = self.index(1)
        return index, self.new_entry(1, table, index)

    def new_entry(self, level: int, table: int, index: int) -> int:
        entry, chance = self.entries.get((table, index), 0), self.random.random()
        if entry & 1 and (self.mode, level) != ("pae", 3) and chance < 0.25:
            entry ^= self.random.choice(RIGHTS) & (1 << 8 * self.entry_size) - 1
        elif level > 1 and chance < 0.5:
            others = [self.entries.get((other, self.index(level)), 0) for other in self.tables[level]]
            entry = self.random.choice(others)
        else:
            entry = self.entry(level)
        self.entries[table, index] = entry
        return entry

    def address(self) -> int:
        if self.recent and self.random.random() < 0.4:
            return self.random.choice(self.recent)
        address = super().address()
        self.recent.append(address)
        return address
