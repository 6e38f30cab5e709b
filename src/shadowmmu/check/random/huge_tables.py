"""Guests whose page tables each lie in a huge page of their own, in a slot whose logging comes and goes.

What maps a table is then a huge SPTE as long as nothing in that huge page is shadowed, and all huge pages are
split or write-protected when their slot logs. Entries of large pages lead to the tables too.
"""

from __future__ import annotations

from .visitor_ground import FRAME, VisitorGround

__all__ = ["HugeTables"]

SLOT = 6


class HugeTables(VisitorGround):
    """A guest with its tables in huge pages, and a host that logs them for rounds of their own."""

    MANUAL = (0, 1, 3, 3)

    def choose_kind(self) -> str:
        return "huge"

    def entry(self, level: int) -> int:
        if level != 2 or self.random.random() > (0.5 if self.nested else 0.3):
            return super().entry(level)
        if not self.nested:
            return self.random.choice(self.everything)[1] | self.flags(leaf=True) | 0x80
        flags = 0x67 if self.random.random() < 0.8 else self.flags(leaf=True)
        return self.random.choice(self.tables[1][:2]) | flags | 0x80

    def lines(self) -> list[str]:
        chance = self.random.random()
        if self.rings or chance < (0.5 if self.nested else 0.8):
            return super().lines()
        return self._shared_round() if self.nested and chance < 0.9 else self._round()

    def _round(self) -> list[str]:
        """Return a round of logging: off, a write to a table, on, and the log is read.

        While KVM works at the log, one vCPU uses its tables and the other one writes that table again. Before
        it, sometimes, a slot comes and goes, with which KVM forgets all tables.
        """
        rng, length = self.random, 512 * len(self.everything)
        one, other = rng.choice((("", "@1 "), ("@1 ", "")))
        table, drop = rng.choice(self.tables[1]), rng.choice((1, 1, 2))
        on = f"dirtylog on {SLOT}"
        read = f"cleardirty {SLOT} 0 {length}" if self.manual else f"getdirty {SLOT}"
        midst = [
            f"meanwhile {drop} {line}"
            for line in (one + self._use(table, self._present(table)), *self._write(table, other))
        ]
        return [
            *([*self._slot_5(), *self._slot_5()] if rng.random() < 0.5 else []),
            f"dirtylog off {SLOT}",
            *([f"{other}l2exit"] if self.nested else []),
            *self._write(table, other),
            *([one + self.access()] if rng.random() < 0.3 else []),
            *([on, *midst, read] if rng.random() < 0.7 else [*midst, on]),
        ]

    def _shared_round(self) -> list[str]:
        """Return a round of logging around a table of L1's that L2 has mapped as huge pages, maybe twice.

        L2 reads it, then it is in use, then L1 writes what leads to it, then L2 writes it on the other vCPU;
        while KVM works at the log it is in use again, and L2 writes it again.
        """
        rng, length = self.random, 512 * len(self.everything)
        one, other = rng.choice((("", "@1 "), ("@1 ", "")))
        table = rng.choice(self.tables[1][:2])
        links = [
            place for place, entry in self.entries.items() if entry & FRAME == table and not entry & 0x80
        ]
        aliases, present = self._aliases(table), self._present(table)
        if not links or not aliases or not present:
            return self._round()
        index = rng.choice(present)
        one_way, another = rng.sample(aliases, 2) if len(aliases) > 1 else aliases * 2
        address = another + 8 * index
        old, new = (value & 0xFFFFFFFF for value in (self.entries[table, index], self.entry(1)))
        drop = rng.choice((1, 1, 2))
        on = f"dirtylog on {SLOT}"
        midst = [
            f"meanwhile {drop} {one}{self._use(table, [index])}",
            f"meanwhile {drop} {other}l2write {address:#x} {new:#x}",
        ]
        return [
            *([*self._slot_5(), *self._slot_5()] if rng.random() < 0.5 else []),
            f"dirtylog off {SLOT}",
            f"{one}l2read {one_way:#x}",
            f"{one}{self._use(table, [index])}",
            f"{one}l2exit",
            *(edit.line(one) for link in links for edit in self.writes(*link, self.entries[link])),
            f"{other}l2write {address:#x} {old:#x}",
            *([on, *midst, f"cleardirty {SLOT} 0 {length}"] if self.manual == 3 else [*midst, on]),
        ]

    def _aliases(self, table: int) -> list[int]:
        """Return an address of L2 for each entry that maps a table as part of a huge page."""
        found = []
        for (there, index), entry in self.entries.items():
            if there in self.tables[2] and entry & 0x81 == 0x81 and entry & FRAME == table:
                ways = [
                    way
                    for root in self.tables[self.levels]
                    for way in self._ways(root, self.levels, there, 2)
                ]
                found += [self.random.choice(ways) | index << 21] if ways else []
        return found

    def _use(self, table: int, indices: list[int]) -> str:
        """Return an access through one of these entries of a leaf table, if the guest knows a way to it."""
        kind = "l2read" if self.nested else "read"
        ways = [
            way | index << 12
            for root in self.tables[self.levels]
            for way in self._ways(root, self.levels, table)
            for index in indices
        ]
        return f"{kind} {self.random.choice(ways):#x}" if ways else self.access()

    def _ways(self, table: int, level: int, goal: int, last: int = 1) -> list[int]:
        """Return the addresses whose entries lead from a table of a level to one of level `last`."""
        if level == last:
            return [0] if table == goal else []
        return [
            index << 12 + self.bits * (level - 1) | way
            for index in self._present(table)
            if (below := self.entries[table, index] & FRAME) in self.tables[level - 1]
            for way in self._ways(below, level - 1, goal, last)
        ]

    def _present(self, table: int) -> list[int]:
        """Return which entries of a table lead on, of lower halves, as far as the guest knows."""
        present = [index for (there, index), entry in self.entries.items() if there == table and entry & 1]
        return [index for index in present if not self.entries[table, index] & 0x80 and index < 256]

    def _write(self, table: int, at: str) -> list[str]:
        """Return the lines of a write to any entry of a leaf table."""
        return [edit.line(at) for edit in self.writes(table, *self._any_entry(table))]
