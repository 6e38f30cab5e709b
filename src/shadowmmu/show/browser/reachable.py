"""The entries of the guest's tables that a walk from a root can meet."""

from __future__ import annotations

from collections.abc import Iterator

from shadowmmu.show.decode import GpteFormat
from shadowmmu.show.history.guest_memory import GuestMemory
from shadowmmu.x86.bits import P
from shadowmmu.x86.paging import paging_format

__all__ = ["reachable_entries"]

_ENTRIES_OF_PDPT = 4


def reachable_entries(guest: GuestMemory, form: GpteFormat, root: int) -> Iterator[tuple[int, int]]:
    """Yield (level, value) of each entry that is not zero; a table used at two levels is visited for each."""
    size = paging_format(form.levels).entry_bytes
    waiting = [(root, form.levels)]
    seen = set(waiting)
    while waiting:
        table, level = waiting.pop()
        for index, value in guest.entries(table & -4096, size).items():
            if form.levels == 3 and level == 3:
                index -= (table & 4095) // size
                if not 0 <= index < _ENTRIES_OF_PDPT:
                    continue
            yield level, value
            below = form.gfn(value, level) << 12, level - 1
            if value & P and not form.is_leaf(value, level) and below not in seen:
                seen.add(below)
                waiting.append(below)
