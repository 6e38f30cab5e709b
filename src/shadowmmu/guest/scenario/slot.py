"""The arguments of `slot`, in the setup and as an operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .line import GPA_LIMIT, Line
from .setup import (
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    PAGE,
    SlotSetup,
)

__all__ = ["NSLOTS", "slot_setup"]

NSLOTS = 64
_SLOT_FLAGS = {
    "dirty": KVM_MEM_LOG_DIRTY_PAGES, "ro": KVM_MEM_READONLY, "lazy": 0, "thp": 0, "huge2m": 0, "huge1g": 0,
    "memfd": 0,
}  # fmt: skip
_BACKINGS = ("thp", "huge2m", "huge1g", "memfd")


def slot_setup(line: Line, rest: list[str], own: Callable[[int], int], extra: Sequence[str]) -> SlotSetup:
    """Return the slot that a line describes; `line.flags` has its bare options, also `extra`, afterwards.

    `own` returns a slot's number, or raises ScenarioError if it is not the scenario's to set.
    """
    line.split(rest, least=3, keys=["skew"], flags=[*_SLOT_FLAGS, *extra])
    slot = own(line.num(0, "slot", NSLOTS - 1))
    gpa = line.page_number(1, "address")
    size = line.page_number(2, "size", GPA_LIMIT, PAGE)
    skew = line.key("skew", 0, (1 << 30) - 1)
    given = line.flags
    if skew % PAGE:
        line.fail(f"skew={line.keys['skew']} is not a multiple of 4K", "round it to whole pages")
    if gpa + size > GPA_LIMIT:
        line.fail(f"the slot ends at {gpa + size:#x}", f"guest addresses end at {GPA_LIMIT:#x}")
    backing = [word for word in _BACKINGS if word in given]
    if len(backing) > 1:
        line.fail(f"`{backing[0]}` and `{backing[1]}` exclude each other", "keep one of them")
    page = {"huge2m": 1 << 21, "huge1g": 1 << 30}.get(backing[0] if backing else "", PAGE)
    if size % page or (gpa + skew) % page:
        line.fail(f"address, size or skew do not fit {backing[0]} pages", f"use multiples of {page:#x}")
    return SlotSetup(
        slot,
        gpa,
        size,
        flags=sum(flag for word, flag in _SLOT_FLAGS.items() if word in given),
        options=" ".join(rest[3:]),
        lazy="lazy" in given,
        thp="thp" in given,
        huge2m="huge2m" in given,
        huge1g="huge1g" in given,
        memfd="memfd" in given,
        skew=skew,
    )
