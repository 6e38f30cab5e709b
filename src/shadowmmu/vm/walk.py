"""A linear address in the guest's tables and in KVM's, entry beside entry."""

from __future__ import annotations

from dataclasses import dataclass

from ..guest.play.guest_walk import guest_walk
from ..guest.play.machine import Machine
from ..kvm.bits import INVALID_PAGE
from ..kvm.pages.shadow_walk import shadow_walk_level, shadow_walk_root, shadow_walk_sptep
from ..kvm.state.vcpu import Vcpu
from ..show.html.table import table
from ..x86.bits import NX, PS, A, D, P, U, W
from .sptes import Spte, spte_at

__all__ = ["Entry", "Walk", "walk"]


@dataclass(frozen=True, slots=True, repr=False)
class Entry:
    """An entry of a guest's table: where it is (`address`, guest-physical), its value and its level."""

    address: int
    value: int
    level: int
    size: int
    """Bytes of the entry, 4 or 8."""

    @property
    def present(self) -> bool:
        """Whether P is set."""
        return self.value & P != 0

    def __str__(self) -> str:
        if not self.present:
            return f"{self.value:#x} not present"
        flags = ((W, "W"), (U, "U"), (A, "A"), (D, "D"), (PS, "PS" if self.level > 1 else "PAT"))
        names = [name for bit, name in flags if self.value & bit]
        names += ["NX"] if self.size == 8 and self.value & NX else []
        return f"{self.value:#x} {' '.join(['P', *names])}"

    def __repr__(self) -> str:
        return f"<Entry level {self.level} at {self.address:#x}: {self}>"


@dataclass(frozen=True, slots=True, repr=False)
class Walk:
    """What a linear address meets: `guest` entries and `shadow` SPTEs, each from the root down.

    `gpa` is where the guest's tables lead, None if nowhere; `hpa` where KVM's do. With nested paging `shadow`
    is the walk of the nested tables for `gpa`.
    """

    gva: int
    guest: tuple[Entry, ...]
    shadow: tuple[Spte, ...]
    gpa: int | None
    hpa: int | None

    def __str__(self) -> str:
        guest = {entry.level: f"{entry.address:#x}: {entry}" for entry in self.guest}
        shadow = {spte.level: f"{spte.address & -4096:#x}{spte}" for spte in self.shadow}
        width = max([len(text) for text in guest.values()] + [len("guest")])
        lines = [f"gva {self.gva:#x}", f"level  {'guest':{width}}  shadow"]
        for level in sorted({*guest, *shadow}, reverse=True):
            lines.append(f"{level:<5}  {guest.get(level, ''):{width}}  {shadow.get(level, '')}".rstrip())
        gpa = "not mapped" if self.gpa is None else f"gpa {self.gpa:#x}"
        hpa = "not mapped" if self.hpa is None else f"hpa {self.hpa:#x}"
        return "\n".join([*lines, f"       {gpa:{width}}  {hpa}"])

    def __repr__(self) -> str:
        return f"<Walk {self}>"

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows: the guest's entries and KVM's side by side."""
        guest = {entry.level: (f"{entry.address:#x}", str(entry)) for entry in self.guest}
        shadow = {spte.level: (f"{spte.address & -4096:#x}", str(spte)) for spte in self.shadow}
        rows = [
            (str(level), *guest.get(level, ("", "")), *shadow.get(level, ("", "")))
            for level in sorted({*guest, *shadow}, reverse=True)
        ]
        ends = ("not mapped" if self.gpa is None else f"gpa {self.gpa:#x}",
                "not mapped" if self.hpa is None else f"hpa {self.hpa:#x}")  # fmt: skip
        rows.append(("", "leads to", ends[0], "leads to", ends[1]))
        head = ("level", "guest: at", "entry", "KVM: table", "SPTE")
        return table(f"Walk of {self.gva:#x}", head, rows)


def walk(machine: Machine, vcpu: Vcpu, gva: int) -> Walk:
    """Return the walk of a linear address on a vCPU. Nothing is changed by it, not even Accessed bits."""
    entries, gpa = guest_walk(machine, vcpu, gva)
    guest = [Entry(entry.gpa, entry.value, entry.level, entry.size) for entry in entries]
    address = gpa if vcpu.mmu.direct() else gva
    shadow, hpa = ([], None) if address is None else _shadow_walk(vcpu, address)
    return Walk(gva, tuple(guest), tuple(shadow), gpa, hpa)


def _shadow_walk(vcpu: Vcpu, address: int) -> tuple[list[Spte], int | None]:
    kvm = vcpu.kvm
    found: list[Spte] = []
    if vcpu.mmu.root_hpa in (0, INVALID_PAGE):
        return found, None
    table, level = shadow_walk_root(vcpu, address), shadow_walk_level(vcpu)
    while table and level:
        spte = spte_at(kvm, shadow_walk_sptep(table, address, level), level, 0)
        found.append(spte)
        if spte.kind == "page":
            size = 1 << 12 + 9 * (level - 1)
            return found, spte.target & -size | address & size - 1
        if spte.kind != "table":
            break
        table, level = spte.target, level - 1
    return found, None
