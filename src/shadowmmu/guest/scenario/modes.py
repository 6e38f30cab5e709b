"""The paging modes of a guest, and where the guest's own code is for each of them.

The vCPUs of a VM may be in different modes over the same memory. Each mode has code of its own, 32-bit or
64-bit, in a slot of its own (`Trampoline`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MODES", "TRAMP_GPA", "TRAMP_SIZE", "TRAMP_SLOT", "Mode", "Trampoline", "trampolines_of"]

TRAMP_SLOT = 63
TRAMP_GPA = 0xF0000000
TRAMP_SIZE = 0x8000
_TRAMP_DISTANCE = 0x10000
_SECOND_SLOT = 61
"""62 is what a guest has as a hypervisor."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A paging mode of the guest: its page-table format and the registers a vCPU starts with."""

    name: str
    levels: int
    """Levels of the guest's page tables; nopaging keeps the value of the two-level format, unused."""
    entry_size: int
    """Bytes of a guest page-table entry."""
    index_bits: int
    is64: bool
    """64-bit guest code."""
    tramp_gva: int
    """Where the guest code's own pages are mapped; without paging they are where their slot is."""
    cr0: int
    cr4: int
    efer: int

    def index(self, gva: int, level: int) -> int:
        """Return the index of `gva` in a table of `level` (the PDPT of PAE has four entries)."""
        mask = 3 if self.name == "pae" and level == 3 else (1 << self.index_bits) - 1
        return gva >> (12 + self.index_bits * (level - 1)) & mask

    def page_size(self, level: int) -> int:
        """Return the bytes mapped by a leaf entry of `level`."""
        return 1 << (12 + self.index_bits * (level - 1))

    def nonleaf(self, table: int, level: int, flags: int) -> int:
        """Return the entry of `level` that points to `table`; only P may be set in a PAE PDPTE."""
        return table | (1 if self.name == "pae" and level == 3 else flags)


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("long4", 4, 8, 9, True, 0xFFFFFFFF80000000, 0x80010033, 0x20, 0xD00),
        Mode("long5", 5, 8, 9, True, 0xFFFFFFFF80000000, 0x80010033, 0x20, 0xD00),
        Mode("pae", 3, 8, 9, False, 0xC0000000, 0x80010033, 0x20, 0x800),
        Mode("32", 2, 4, 10, False, 0xFFC00000, 0x80010033, 0x10, 0),
        Mode("nopaging", 2, 8, 9, False, 0, 0x10033, 0x10, 0),
    )
}


@dataclass(frozen=True, slots=True)
class Trampoline:
    """Where the code of the vCPUs of one mode is: a slot of TRAMP_SIZE bytes."""

    number: int
    """0 for the mode of vCPU 0."""
    mode: Mode
    slot: int
    gpa: int

    @property
    def gva(self) -> int:
        """Where the guest's tables map it."""
        return self.mode.tramp_gva if self.mode.name != "nopaging" else self.gpa


def trampolines_of(modes: Sequence[str]) -> dict[str, Trampoline]:
    """Return the trampoline of each mode, by the mode's name; `modes` are those of the vCPUs in order."""
    found: dict[str, Trampoline] = {}
    for number, name in enumerate(dict.fromkeys(modes)):
        slot = _SECOND_SLOT - number + 1 if number else TRAMP_SLOT
        found[name] = Trampoline(number, MODES[name], slot, TRAMP_GPA + number * _TRAMP_DISTANCE)
    return found
