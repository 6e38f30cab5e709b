"""The VMAs of one mapping: where they split, which of them merge (mm/mmap.c, mm/vma.c, mm/mprotect.c).

Two neighbours merge if their flags are the same and their anon_vmas are compatible. A VMA gets an anon_vma
with its first anonymous page, so memory that was touched before its flags became alike stays in VMAs of its
own.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from .bits import (
    PROT_MASK,
    PROT_RW,
    VM_ACCOUNT,
    VM_HUGETLB,
    VM_NORESERVE,
    VM_SHARED,
)
from .switches import HostSwitches

_FIRST = attrgetter("first")


@dataclass(slots=True)
class Vma:
    """Pages [first, last) of a mapping with the same flags (struct vm_area_struct).

    Attributes:
        first: First page.
        last: The page after the last.
        flags: Bit mask of PROT_* and VM_*.
        anon_vma: Identity of its anonymous memory; None before its first anonymous page.
    """

    first: int
    last: int
    flags: int
    anon_vma: object | None = None


def _joins(new: Vma, neighbour: Vma, *, hands_on: bool) -> bool:
    """Return whether a VMA that becomes `new` is merged into its neighbour (can_vma_merge_before, _after).

    A neighbour that keeps its place hands its anon_vma on only to a VMA that has none; with `hands_on` one
    that has none takes that of `new`.
    """
    if new.flags != neighbour.flags or new.flags & VM_HUGETLB:
        return False
    if hands_on and neighbour.anon_vma is None:
        return True
    return new.anon_vma is neighbour.anon_vma or new.anon_vma is None


def _go_together(a: Vma, b: Vma) -> bool:
    """Return whether two VMAs may become parts of one (is_mergeable_anon_vma)."""
    return a.anon_vma is b.anon_vma or a.anon_vma is None or b.anon_vma is None


class Vmas:
    """The VMAs of a mapping, in order and without holes except while one is being replaced.

    Attributes:
        _all: The VMAs, sorted by first page.
        restricted: Number of VMAs that do not allow reading and writing.
        switches: How the memory management of its kernel differs from others'.
    """

    def __init__(self, npages: int, flags: int, *, touched: bool, switches: HostSwitches) -> None:
        self._all = [Vma(0, npages, flags, object() if touched else None)]
        self.restricted = 0
        self.switches = switches

    def __iter__(self) -> Iterator[Vma]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def _position(self, index: int) -> int:
        """Return the index of the VMA that holds page `index`."""
        return bisect_right(self._all, index, key=_FIRST) - 1

    def at(self, index: int) -> Vma:
        """Return the VMA that holds page `index`."""
        return self._all[self._position(index)]

    def pieces(self, first: int, last: int) -> list[tuple[int, int, Vma]]:
        """Return (first, last, VMA) of the parts of [first, last) in each VMA."""
        found = []
        position = self._position(first)
        while position < len(self._all) and self._all[position].first < last:
            vma = self._all[position]
            found.append((max(vma.first, first), min(vma.last, last), vma))
            position += 1
        return found

    def _replace(self, low: int, high: int, new: list[Vma]) -> None:
        """Replace the VMAs at positions [low, high)."""
        for vmas, step in ((self._all[low:high], -1), (new, 1)):
            self.restricted += step * sum(vma.flags & PROT_MASK != PROT_RW for vma in vmas)
        self._all[low:high] = new

    def split(self, edge: int) -> None:
        """Split the VMA that page `edge` is in the middle of."""
        position = self._position(edge)
        vma = self._all[position]
        parts = [Vma(vma.first, edge, vma.flags, vma.anon_vma), Vma(edge, vma.last, vma.flags, vma.anon_vma)]
        self._replace(position, position + 1, parts)

    def modify(self, first: int, last: int, flags: int) -> None:
        """Give the VMA [first, last) other flags, and merge it if it may (vma_modify)."""
        position = self._position(first)
        anon_vma = self._all[position].anon_vma
        self._replace(position, position + 1, [])
        self._insert(position, Vma(first, last, flags, anon_vma), next_first=False)

    def replace(self, first: int, last: int, flags: int) -> None:
        """Put a new VMA in place of all in [first, last), merged if it may (mmap_region)."""
        low = self._position(first)
        self._replace(low, low + len(self.pieces(first, last)), [])
        self._insert(low, Vma(first, last, flags), next_first=self.switches.remap_joins_next_first)

    def _insert(self, position: int, new: Vma, *, next_first: bool) -> None:
        """Insert a VMA at a position, merged with its neighbours if it may.

        next_first: if the neighbours are not compatible with each other, it joins the next one, not the
        previous one.
        """
        hands_on = self.switches.vma_hands_anon_vma_on
        before = self._all[position - 1] if position else None
        after = self._all[position] if position < len(self._all) else None
        low = high = position
        joins_before = before is not None and _joins(new, before, hands_on=hands_on)
        joins_after = after is not None and _joins(new, after, hands_on=hands_on)
        if before is not None and after is not None and joins_before and joins_after:
            both = _go_together(before, after)
            joins_before, joins_after = both or not next_first, both or next_first
        if before is not None and joins_before:
            new.first, new.anon_vma = before.first, before.anon_vma or new.anon_vma
            low -= 1
        if after is not None and joins_after:
            new.last, new.anon_vma = after.last, new.anon_vma or after.anon_vma
            high += 1
        self._replace(low, high, [new])

    def prepare_anon(self, index: int) -> None:
        """Give the VMA of page `index` an anon_vma, its own or a neighbour's (__anon_vma_prepare)."""
        position = self._position(index)
        vma = self._all[position]
        if vma.anon_vma is not None or vma.flags & VM_SHARED:
            return
        for neighbour in self._all[position + 1 : position + 2] + self._all[max(position - 1, 0) : position]:
            if not (neighbour.flags ^ vma.flags) & ~PROT_MASK and neighbour.anon_vma is not None:
                vma.anon_vma = neighbour.anon_vma
                return
        vma.anon_vma = object()


def protected_flags(vma: Vma, prot: int, *, unaccounts: bool) -> int:
    """Return the flags of a VMA after mprotect (mprotect_fixup).

    Private memory that becomes writable is accounted. unaccounts: memory that was never touched is not any
    more once it is made read-only.
    """
    flags = vma.flags & ~PROT_MASK | prot
    if prot == PROT_RW:
        if not vma.flags & (VM_ACCOUNT | VM_HUGETLB | VM_SHARED | VM_NORESERVE):
            flags |= VM_ACCOUNT
    elif unaccounts and vma.anon_vma is None:
        flags &= ~VM_ACCOUNT
    return flags
