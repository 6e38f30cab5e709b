"""The guests that look for historic defects: random ones of every kind (ground), and what they lack.

Some defects show only with what a Ground does not do: page tables that a device writes, PCIDs, the recovery
of huge pages, slots at odd addresses. Every guest has some of these ops among its own.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping

from .ground import MMUS, MODES, PROFILES, Ground

__all__ = ["Visitor", "visitors"]

PCIDE = 1 << 17
KEEP = 1 << 63
RECENT = 4
"""So many addresses a guest comes back to."""


class _Ground(Ground):
    """A guest that uses all quadrants of 32-bit tables, and comes back to what it used a moment ago."""

    def __init__(
        self, mode: str, mmu: str, profile: str, seed: int, *, design: dict[str, str] | None = None
    ) -> None:
        self.recent: deque[int] = deque(maxlen=RECENT)
        super().__init__(mode, mmu, profile, seed, design=design)

    def index(self, level: int) -> int:
        if self.recent and self.random.random() < 0.5:
            return self.random.choice(self.recent) >> 12 + self.bits * (level - 1) & (1 << self.bits) - 1
        index = super().index(level)
        if self.mode == "32" and self.random.random() < 0.4:
            index |= 0x200 if level == 1 else 0x100
        return index

    def address(self) -> int:
        if self.recent and self.random.random() < 0.4:
            return self.random.choice(self.recent)
        address = super().address()
        self.recent.append(address)
        return address


class Visitor:
    """A random guest: its `setup` lines, and as many others as one likes."""

    def __init__(self, mode: str, mmu: str, profile: str, seed: int) -> None:
        self.kind = (mode, mmu, profile, seed)
        self.name = f"{mode} {mmu} {profile} {seed}"
        self.ground = _Ground(mode, mmu, profile, seed)
        self.random = rng = random.Random(f"visitor {self.name}")
        odd = rng.random() < 0.25
        self.setup = [_odd(line) if odd else line for line in self.ground.setup]
        self.made: list[str] = []
        self.pcids = mode in ("long4", "long5") and mmu == "shadow" and rng.random() < 0.7

    def lines(self, ops: int) -> list[str]:
        """The first ops; the same at every call."""
        while len(self.made) < ops:
            self.made += self._next()
        return self.made[:ops]

    def stormy(self, design: Mapping[str, str]) -> Ground:
        """The ground of another guest of this kind, for a storm (fuzz)."""
        mode, mmu, profile, seed = self.kind
        return _Ground(mode, mmu, profile, seed, design=dict(design))

    def _next(self) -> list[str]:
        if not self.made and self.pcids:
            return [f"{at}cr4 {PCIDE | self.ground.cr4[0]:#x}" for at in ("", "@1 ")]
        chance = self.random.random()
        if chance < 0.005:
            return ["sleep_ms 600000"]
        if chance < 0.01:
            return ["modparam kvm nx_huge_pages Y"]
        if chance < 0.05 and self.ground.everything:
            return [self._device_writes()]
        lines = self.ground.lines()
        if len(lines) == 1 and chance < 0.3 and "read" in lines[0]:
            lines = [*lines, _on_other_vcpu(lines[0])]
        return [self._with_pcid(line) for line in lines] if self.pcids else lines

    def _device_writes(self) -> str:
        """A device writes an entry of a table of the guest, of which KVM learns nothing."""
        ground = self.ground
        level, table = self.random.choice(ground.everything)
        size = ground.entry_size
        at = table + size * ground.index(level)
        return f"hostwrite {at:#x} {ground.entry(level):#x} size={size}"

    def _with_pcid(self, line: str) -> str:
        """MOV to CR3 with a PCID, sometimes without its flush, or INVLPG instead; CR4 keeps PCIDE."""
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
    """Slot 1 with its memory at another offset in huge pages than its addresses."""
    return "slot 1 0xffff000 12M thp" if line.startswith("slot 1 ") else line


def visitors(seed: int = 0) -> Iterator[Visitor]:
    """Guests without end: every mode, MMU and profile in turn, each time with another seed."""
    while True:
        for mmu in MMUS:
            for profile in PROFILES:
                for mode in MODES:
                    if (mode, mmu) != ("nopaging", "nested"):
                        yield Visitor(mode, mmu, profile, seed)
        seed += 1
