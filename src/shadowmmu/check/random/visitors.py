"""The guests that look for historic defects: random ones of every kind (ground), and what they lack.

Some defects show only with what a Ground does not do: page tables that a device writes, tables among the
data, entries whose rights change, PCIDs, the recovery of huge pages, slots at odd addresses. Every guest has
some of these ops among its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from .ground import Ground
from .ground_setup import MMUS, MODES, PROFILES
from .huge_tables import HugeTables
from .visitor_ground import VisitorGround

__all__ = ["Visitor", "visitors"]

PCIDE = 1 << 17
KEEP = 1 << 63


class Visitor:
    """A random guest: its `setup` lines, and as many others as one likes.

    `huge_tables`: its page tables are in huge pages.
    """

    def __init__(self, mode: str, mmu: str, profile: str, seed: int, *, huge_tables: bool = False) -> None:
        self.kind = (mode, mmu, profile, seed)
        self.name = f"{mode} {mmu} {profile} {seed}" + (" huge tables" if huge_tables else "")
        self.ground_class = HugeTables if huge_tables else VisitorGround
        self.ground = self.ground_class(mode, mmu, profile, seed)
        self.random = rng = random.Random(f"visitor {self.name}")
        odd = rng.random() < 0.25
        self.setup = [_odd(line) if odd else line for line in self.ground.setup]
        if mmu in ("tdp", "direct") and rng.random() < 0.5:
            self.setup = [line.replace("nx_huge_pages=0", "nx_huge_pages=1") for line in self.setup]
        self.made = self.ground.first_lines()
        self.switched = False
        self.pcids = mode in ("long4", "long5") and mmu == "shadow" and rng.random() < 0.7
        if self.pcids:
            self.setup.insert(0, "vendor intel")

    def lines(self, ops: int) -> list[str]:
        """Return the first ops; the same at every call."""
        while len(self.made) < ops:
            self.made += self._next()
        return self.made[:ops]

    def stormy(self, design: Mapping[str, str]) -> Ground:
        """Return the ground of another guest of this kind, for a storm (fuzz)."""
        mode, mmu, profile, seed = self.kind
        return self.ground_class(mode, mmu, profile, seed, design=dict(design))

    def _next(self) -> list[str]:
        if self.pcids and not self.switched:
            self.switched = True
            return [f"{at}cr4 {PCIDE | self.ground.cr4[0]:#x}" for at in ("", "@1 ")]
        ground, chance = self.ground, self.random.random()
        if chance < 0.01:
            return ["sleep_ms 600000"]
        if chance < 0.013:
            return ["modparam kvm nx_huge_pages Y"]
        if chance < 0.04 and ground.everything:
            return [self._device_writes()]
        if chance < 0.15 and self.pcids:
            return self._visit()
        lines = ground.lines()
        if 0.15 < chance < 0.18 and ground.mmu == "shadow" and ground.levels:
            lines = ground.protects_a_table() or lines
        if len(lines) == 1 and chance < 0.3 and "read" in lines[0]:
            lines = [*lines, _on_other_vcpu(lines[0])]
        return [self._with_pcid(line) for line in lines] if self.pcids else lines

    def _device_writes(self) -> str:
        """Write an entry of a table of the guest as a device, of which KVM learns nothing.

        Not a PDPTE, where these are the processor's: KVM reads them when it likes.
        """
        ground = self.ground
        kept = 3 if ground.mode == "pae" and ground.mmu != "shadow" else 0
        level, table = self.random.choice([item for item in ground.everything if item[0] != kept])
        size = ground.entry_size
        at = table + size * ground.index(level)
        return f"hostwrite {at:#x} {ground.entry(level):#x} size={size}"

    def _visit(self) -> list[str]:
        """Return ops: switch to another address space, flush an address or everything there, switch back."""
        ground, pcid = self.ground, self.random.randrange(2)
        here, there = self.random.sample(ground.tables[ground.levels], 2)
        address = f"{ground.address():#x}"
        flush = [f"cr3 {there | pcid:#x}"]
        if self.random.random() < 0.5:
            flush = [f"cr3 {there | pcid | KEEP:#x}", f"invlpg {address}"]
        back = f"cr3 {here | pcid | KEEP:#x}"
        changes = [line for _ in range(3) for line in ground.changes()]
        return [back, f"read {address}", *changes, *flush, back, f"read {address}"]

    def _with_pcid(self, line: str) -> str:
        """Play MOV to CR3 with a PCID, sometimes without its flush, or INVLPG instead; CR4 keeps PCIDE."""
        at, _, rest = line.rpartition("cr3 ")
        if rest != line and at in ("", "@1 "):
            if self.random.random() < 0.3:
                return f"{at}invlpg {self.ground.address():#x}"
            value = int(rest, 16) | self.random.randrange(2) | self.random.choice((0, KEEP))
            return f"{at}cr3 {value:#x}"
        at, _, rest = line.rpartition("cr4 ")
        if rest != line and at in ("", "@1 "):
            return f"{at}cr4 {int(rest, 16) | PCIDE:#x}"
        return line


def _on_other_vcpu(line: str) -> str:
    return line[3:] if line.startswith("@1 ") else f"@1 {line}"


def _odd(line: str) -> str:
    """Return slot 1 with its memory at another offset in huge pages than its addresses."""
    return "slot 1 0xffff000 12M thp" if line.startswith("slot 1 ") else line


def visitors(seed: int = 0) -> Iterator[Visitor]:
    """Yield guests without end, each time with another seed: every mode, MMU and profile in turn, then some
    with tables in huge pages.
    """
    while True:
        for mmu in MMUS:
            for profile in PROFILES:
                for mode in MODES:
                    if (mode, mmu) != ("nopaging", "nested"):
                        yield Visitor(mode, mmu, profile, seed)
        for mmu in ("shadow", "nested"):
            for profile in PROFILES:
                yield Visitor("long4", mmu, profile, seed, huge_tables=True)
        seed += 1
