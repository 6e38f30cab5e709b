"""Walks as a person would make them with pen and paper: through the guest's tables, and through KVM's.

Nothing is changed by them, and rights are not checked: they show every entry on the way to an address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shadowmmu.show.decode import Decoded, GpteFormat, decode_ept, decode_gpte, decode_spte, parse_spte
from shadowmmu.x86.bits import P
from shadowmmu.x86.paging import paging_format

from .timeline import Moment, Timeline

__all__ = ["Step", "Translation", "Walk", "guest_walk", "shadow_walk", "translate"]

_LINK = re.compile(r"(S\d+)\|")
_ENTRIES_OF_PDPT = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One entry on the way."""

    level: int
    table: str
    """The table it stands in: a gpa, a shadow page `S7`, or `pae_root`."""
    index: int
    value: str
    """The entry as recordings show it; `not recorded` if it is not known, `empty` if there is none."""
    decoded: Decoded | None
    """What it says; None if it is not known."""


@dataclass(frozen=True, slots=True)
class Walk:
    """The entries on the way to an address, topmost first, and where they lead."""

    steps: tuple[Step, ...]
    gpa: int | None
    """Where a guest walk ends, with the offset; None if it ends before."""
    end: str
    """How the walk ends, in words."""


@dataclass(frozen=True, slots=True)
class Translation:
    """Both walks of an address that a vCPU uses."""

    guest: Walk
    shadow: Walk


def translate(
    timeline: Timeline, moment: Moment, vcpu: int, address: int, *, l2: bool = False
) -> Translation:
    """Return the walks of an address of a vCPU, or of its L2, through the guest's tables and KVM's.

    KVM's are walked for what they translate: with nested paging, or without paging, the gpa that the guest's
    tables lead to; else the address itself; for L2 its address.
    """
    guest = guest_walk(timeline, moment, vcpu, address, nested=l2)
    physical = timeline.tdp and not l2
    state = moment.state["vcpus"][str(vcpu)]
    mmu = state["guest_mmu"] if l2 else state
    target = guest.gpa if physical else address
    if target is None:
        return Translation(guest, Walk((), None, "the guest's tables lead to no address that KVM could map"))
    return Translation(guest, shadow_walk(timeline, moment, mmu, target))


def guest_walk(timeline: Timeline, moment: Moment, vcpu: int, address: int, *, nested: bool = False) -> Walk:
    """Return the way of an address through the guest's tables; `nested`: those that it made for L2."""
    registers = moment.registers[vcpu]
    levels = registers.nested_levels if nested else registers.levels
    if not levels:
        return Walk((), address, "without paging the address is physical")
    form = paging_format(levels)
    gptes = GpteFormat(
        levels=levels,
        maxphyaddr=timeline.maxphyaddr,
        nx=registers.nx,
        pse=registers.pse,
        amd="kvm_intel.ept" not in timeline.params,
    )
    table = registers.root(nested=nested)
    steps: list[Step] = []
    for level in range(levels, 0, -1):
        index = form.index(address, level)
        if levels == 3 and level == 3:
            index %= _ENTRIES_OF_PDPT
        value = moment.guest.entry(table + index * form.entry_bytes, form.entry_bytes)
        decoded = None if value is None else decode_gpte(value, level=level, form=gptes)
        shown = "" if value is None else f"{value:x}"
        unknown = f"what is at gpa {table:#x} was not recorded"
        if value is None and _is_mmio(moment, table):
            shown = "no memory"
            unknown = f"no memory slot has the table at gpa {table:#x} (MMIO): #PF for the guest"
        elif value is None:
            shown = "not recorded"
        steps.append(Step(level, f"gpa {table:x}", index, shown, decoded))
        if value is None:
            return Walk(tuple(steps), None, unknown)
        if not value & P:
            return Walk(tuple(steps), None, f"the entry of level {level} is not present: #PF for the guest")
        if gptes.reserved(value, level):
            return Walk(
                tuple(steps), None, f"the entry of level {level} has reserved bits set: #PF with RSVD"
            )
        if gptes.is_leaf(value, level):
            offset = address & (1 << form.level_shift(level)) - 1
            gpa = (gptes.gfn(value, level) << 12) + offset
            return Walk(tuple(steps), gpa, f"leads to gpa {gpa:#x}")
        table = gptes.gfn(value, level) << 12
    raise AssertionError("level 1 is always a leaf")


def _is_mmio(moment: Moment, gpa: int) -> bool:
    """Return whether no memory slot has a guest-physical address."""
    slots = (slot for slot in moment.state["slots"].values())
    return not any(0 <= (gpa >> 12) - int(gfn, 16) < pages for gfn, pages, _ in slots)


def shadow_walk(timeline: Timeline, moment: Moment, mmu: Mapping[str, Any], address: int) -> Walk:
    """Return the way of an address through KVM's tables, from the root of an MMU as `vcpus` has it."""
    level = int(mmu["root_role"], 16) & 15
    root = mmu["root"]
    decode = decode_ept if timeline.ept else decode_spte
    steps: list[Step] = []

    def step(table: str, index: int, text: str | None) -> None:
        shown = text or "empty"
        spte = parse_spte(text or "0")
        decoded = decode(spte, level=level, host=timeline.host)
        steps.append(Step(level, table, index, shown, decoded))

    if root in ("invalid", "dummy") or root.startswith("?"):
        ends = {
            "invalid": "the vCPU has no root: it is made at the next entry",
            "dummy": "the root is a dummy page",
        }
        return Walk((), None, ends.get(root, "the root is not a shadow page"))
    if root in ("pae_root", "pml4_root"):
        level = 3
        index = address >> 30 & 3
        text = mmu["pae_root"][index]
        step("pae_root", index, text)
        level = 2
    else:
        text = f"{root}|"
    while (link := _LINK.match(text)) is not None:
        page = moment.state["sps"].get(link[1])
        if page is None:
            return Walk(tuple(steps), None, f"{link[1]} is not a page of this state")
        level = page["level"]
        index = address >> 12 + 9 * (level - 1) & 511
        text = page["sptes"].get(str(index), "")
        step(link[1], index, text or None)
    return Walk(tuple(steps), None, _end_of(steps, text))


def _end_of(steps: list[Step], text: str) -> str:
    if not steps:
        return "there is no root"
    if not text or text.startswith("none"):
        return f"nothing is mapped: {steps[-1].table}[{steps[-1].index}] is empty, an access faults to KVM"
    if text.startswith("mmio:"):
        return "an MMIO SPTE: the access is emulated"
    if text == "frozen":
        return "frozen: another CPU is changing it"
    return f"mapped by {steps[-1].table}[{steps[-1].index}]"
