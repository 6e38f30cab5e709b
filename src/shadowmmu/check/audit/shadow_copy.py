"""A copy of a shadow page and of its SPTEs, as they were at the last look."""

from __future__ import annotations

from ...kvm.bits import (
    ROLE_4BYTE_GPTE,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_DIRECT,
    ROLE_PASSTHROUGH,
    ROLE_QUADRANT,
    ROLE_QUADRANT_SHIFT,
    SPTE_MMU_PRESENT,
)
from ...kvm.spte.spte import is_access_track_spte
from ...kvm.state.shadow_page import ShadowPage
from ...kvm.state.vm import Kvm
from ...x86.bits import ACC_U, ACC_W, ACC_X, PS, W

__all__ = ["FrameKey", "Page", "Spte", "pages_at", "rights_of"]

FrameKey = tuple[int, int, int]
"""Slot id, level and first gfn of what one rmap is about; slot NO_SLOT: no slot has the frame."""


def pages_at(level: int) -> int:
    """Return the number of 4 KiB pages that an SPTE of `level` maps."""
    return 1 << 9 * (level - 1)


def rights_of(kvm: Kvm, spte: int) -> int:
    """Return what an SPTE allows, as ACC bits, in the VM's format of SPTEs."""
    x, no_x = kvm.shadow_x_mask, kvm.shadow_nx_mask
    rights = (ACC_W if spte & W else 0) | (ACC_U if spte & kvm.shadow_user_mask else 0)
    return rights | (ACC_X if spte & (x | no_x) == x else 0)


class Page:
    """A shadow page as it was at the last look; `entries` are its SPTEs that are not empty, by index."""

    __slots__ = (
        "entries",
        "frames",
        "gfn",
        "guest",
        "hpa",
        "image",
        "kvm",
        "level",
        "marked",
        "meta",
        "read",
        "role",
        "sp",
        "special",
        "tdp",
        "translations",
        "translations_image",
        "valid",
    )

    def __init__(self, kvm: Kvm, sp: ShadowPage) -> None:
        self.kvm = kvm
        self.sp = sp
        self.hpa: int = sp.hpa
        self.gfn: int = sp.gfn
        self.tdp: bool = bool(sp.tdp_mmu_page)
        self.special: bool = bool(sp.special)
        self.role = 0
        self.level = 0
        self.valid = False
        self.meta: tuple[int, ...] = ()
        self.image = kvm.design.empty_spte.to_bytes(8, "little") * 512
        self.entries: dict[int, Spte] = {}
        self.translations_image = b""
        self.translations: memoryview = memoryview(b"")
        self.marked: frozenset[int] = frozenset()
        self.guest: bytes | None = None
        self.read = False
        self.frames: dict[int, FrameKey] = {}

    @property
    def has_gptes(self) -> bool:
        """Return whether the page shadows a guest table."""
        return not self.special and not self.role & (ROLE_DIRECT | ROLE_PASSTHROUGH)

    @property
    def access(self) -> int:
        """Return the rights of the role, as ACC bits."""
        return (self.role & ROLE_ACCESS) >> ROLE_ACCESS_SHIFT

    @property
    def quadrant(self) -> int:
        return (self.role & ROLE_QUADRANT) >> ROLE_QUADRANT_SHIFT

    @property
    def unsync(self) -> bool:
        return bool(self.sp.unsync)

    def gfn_at(self, index: int) -> int:
        """Return the frame that SPTE `index` is for, as the page records it."""
        if self.translations:
            return int(self.translations[index]) >> 12
        return self.gfn + (index << 9 * (self.level - 1))

    def gpte_offset(self, index: int) -> tuple[int, int]:
        """Return (offset, size) in the guest's table of the entry that SPTE `index` shadows."""
        if not self.role & ROLE_4BYTE_GPTE:
            return index * 8, 8
        wide = self.quadrant << 9 | index
        return (wide if self.level == 1 else wide >> 1) * 4, 4


class Spte:
    """An SPTE that is not empty, with its place."""

    __slots__ = ("address", "index", "page", "present", "value")

    def __init__(self, page: Page, index: int, value: int) -> None:
        self.page = page
        self.index = index
        self.value = value
        self.address: int = page.hpa + 8 * index
        self.present = bool(value & SPTE_MMU_PRESENT)

    @property
    def level(self) -> int:
        return self.page.level

    @property
    def is_leaf(self) -> bool:
        """Return whether the SPTE maps memory."""
        return self.present and (self.page.level == 1 or bool(self.value & PS))

    @property
    def is_link(self) -> bool:
        """Return whether the SPTE points to a table."""
        return self.present and self.page.level > 1 and not self.value & PS

    @property
    def gfn(self) -> int:
        return self.page.gfn_at(self.index)

    @property
    def rights(self) -> int:
        """Return what the SPTE allows, as ACC bits."""
        return rights_of(self.page.kvm, self.value)

    @property
    def mmu_writable(self) -> bool:
        return bool(self.value & self.page.kvm.shadow_mmu_writable_mask)

    @property
    def host_writable(self) -> bool:
        return bool(self.value & self.page.kvm.shadow_host_writable_mask)

    @property
    def is_tracked(self) -> bool:
        """Return whether the SPTE is access-tracked: R, W, X cleared so that the next access faults."""
        return bool(is_access_track_spte(self.page.kvm, self.value))
