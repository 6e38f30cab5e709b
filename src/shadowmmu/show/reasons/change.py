"""A change of the MMU's state with its causes, and how they are read off the call stack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType

from shadowmmu.show.reasons.sentences import sentence

__all__ = ["Cause", "Change", "causes_of", "is_bookkeeping"]

_KVM = "shadowmmu.kvm."
_ZAP = "kvm_mmu_prepare_zap_page"
_BOOKKEEPING = ("shadowmmu.kvm.spte.rmap", "shadowmmu.kvm.spte.parent_pte")
"""Modules whose writes to memory are lists, not SPTEs."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One kernel function on the way to a change."""

    function: str
    says: str | None
    """What it does, in words; None if there are none for it."""


@dataclass(slots=True)
class Change:
    """Something that happened to the MMU's state, and why."""

    op: int
    kind: str
    """spte, page, root, flush or zap."""
    subject: str
    """The entry `S7[3]`, the page `S7`, or `vCPU 0`."""
    old: str
    """Value before, as recordings show it; empty if there was none."""
    new: str
    """Value afterwards; of a page what happened to it: made, unsync, in sync, zapped, freed."""
    effect: str
    """The change in words."""
    causes: tuple[Cause, ...] = field(default=())
    """The functions, innermost first; empty: the processor did it."""

    @property
    def mechanism(self) -> Cause:
        """The innermost function that there are words for, else the innermost; of a zap, who asked for it."""
        spoken = [cause for cause in self.causes if cause.says is not None]
        if self.kind == "zap":
            spoken = [cause for cause in spoken if cause.function != _ZAP] or spoken
        return (spoken or self.causes or (Cause("processor", None),))[0]


def causes_of(frame: FrameType | None) -> tuple[Cause, ...]:
    """Return the functions of KVM that are being executed, innermost first."""
    return tuple(_causes(frame))


def _causes(frame: FrameType | None) -> Iterator[Cause]:
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_KVM):
            function = frame.f_code.co_name
            yield Cause(function, sentence(function, frame.f_locals))
        frame = frame.f_back


def is_bookkeeping(frame: FrameType) -> bool:
    """Return whether a function that writes to memory keeps lists there, not SPTEs."""
    return frame.f_globals.get("__name__", "") in _BOOKKEEPING or frame.f_code.co_name in (
        "set_page_translation",
    )
