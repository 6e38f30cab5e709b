"""How a kernel lays out the words that describe shadow pages: its role word and its translations.

The model has one layout of its own, that of 6.12 (kvm/bits.py): three bits of access (X, W, U) and one bit
for SMEP. What is shown has the kernel's: since 7.3 access has a fourth bit, R, so that the bits above move up
by one, and SMEP is at bit 20 (union kvm_mmu_page_role, union kvm_cpu_role; switch access_has_read).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from ...x86.bits import ACC_ALL, ACC_U, ACC_W, ACC_X
from ..bits import (
    EXT_CR4_LA57,
    EXT_CR4_PKE,
    EXT_CR4_PSE,
    EXT_CR4_SMAP,
    EXT_CR4_SMEP,
    EXT_EFER_LMA,
    EXT_EXECONLY,
    EXT_VALID,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_CR0_WP,
    ROLE_EFER_NX,
    ROLE_INVALID,
    ROLE_LEVEL,
    ROLE_SMEP,
    TRANSLATION_VALID,
)
from ..design.design import Design

__all__ = ["EXT4_HAS_PFERR_FETCH", "FOUR_ACCESS_BITS", "THREE_ACCESS_BITS", "RoleLayout", "layout_of"]

_MOVED = ROLE_INVALID | ROLE_EFER_NX | ROLE_CR0_WP
_UNMOVED = ~(ROLE_ACCESS | _MOVED | ROLE_SMEP)
_ROLE4_SMEP = 1 << 20
_ROLE4_ACCESS = 15 << ROLE_ACCESS_SHIFT
_ROLE4_UNMOVED = _UNMOVED & ~(_MOVED << 1 | _ROLE4_SMEP)
_EXT4_UNMOVED = EXT_VALID | EXT_EXECONLY | EXT_CR4_PSE | EXT_CR4_PKE | EXT_CR4_SMAP
_EXT4_MOVED = EXT_CR4_LA57 | EXT_EFER_LMA
EXT4_HAS_PFERR_FETCH = 1 << 7
"""EFER.NX or CR4.SMEP: fetches set F in error codes (7.3, has_pferr_fetch)."""
_ACC4_R, _ACC4_X = 1, 8


class RoleLayout(ABC):
    """One kernel's layout.

    role, extended, cpu_role, access and translation take the model's words and return the kernel's; letters
    and model_role take a role word of the kernel.
    """

    smep: ClassVar[str]
    """The kernel's name of ROLE_SMEP."""

    @abstractmethod
    def role(self, role: int) -> int:
        """Return the role word of a page or of a root (kvm_mmu_page_role.word)."""

    @abstractmethod
    def model_role(self, word: int) -> int:
        """Return the model's word of a role word of the kernel."""

    @abstractmethod
    def bits(self, mask: int) -> int:
        """Return where the kernel's role word has the bits of a mask of the model's (ROLE_*)."""

    @abstractmethod
    def extended_bits(self, mask: int) -> int:
        """Return where the upper half of the kernel's CPU role has a bit of the model's (EXT_*), or 0."""

    @abstractmethod
    def extended(self, role: int, extended: int) -> int:
        """Return the upper half of a CPU role, whose lower half is `role` (kvm_mmu_extended_role.word)."""

    @abstractmethod
    def access(self, access: int) -> int:
        """Return the access rights of something present (ACC_*)."""

    @abstractmethod
    def letters(self, word: int) -> str:
        """Return the access in a role as the events spell it, `-` for each right that is missing."""

    def cpu_role(self, role: int, extended: int) -> int:
        """Return both halves of a CPU role (kvm_cpu_role.as_u64)."""
        return self.extended(role, extended) << 32 | self.role(role)

    def translation(self, word: int) -> int:
        """Return an element of shadowed_translation, gfn << 12 | access; 0 if there never was one."""
        return word & ~0xFFF | self.access(word & ACC_ALL) if word & TRANSLATION_VALID else 0


class _ThreeAccessBits(RoleLayout):
    smep = "smep_andnot_wp"

    def role(self, role: int) -> int:
        return role

    def model_role(self, word: int) -> int:
        return word

    def bits(self, mask: int) -> int:
        return mask

    def extended_bits(self, mask: int) -> int:
        return mask

    def extended(self, role: int, extended: int) -> int:
        return extended

    def access(self, access: int) -> int:
        return access

    def letters(self, word: int) -> str:
        access = word >> ROLE_ACCESS_SHIFT
        return _letters(access, (ACC_W, "w"), (ACC_U, "u"), (ACC_X, "x"))


class _FourAccessBits(RoleLayout):
    smep = "cr4_smep"

    def role(self, role: int) -> int:
        access = role >> ROLE_ACCESS_SHIFT & ACC_ALL
        if role & ROLE_LEVEL or access:
            access = self.access(access)
        smep = _ROLE4_SMEP if role & ROLE_SMEP else 0
        return role & _UNMOVED | access << ROLE_ACCESS_SHIFT | (role & _MOVED) << 1 | smep

    def model_role(self, word: int) -> int:
        access = word >> ROLE_ACCESS_SHIFT
        model = access & (ACC_W | ACC_U) | (ACC_X if access & _ACC4_X else 0)
        smep = ROLE_SMEP if word & _ROLE4_SMEP else 0
        return word & _ROLE4_UNMOVED | model << ROLE_ACCESS_SHIFT | (word & _MOVED << 1) >> 1 | smep

    def bits(self, mask: int) -> int:
        access = _ROLE4_ACCESS if mask & ROLE_ACCESS else 0
        smep = _ROLE4_SMEP if mask & ROLE_SMEP else 0
        return mask & _UNMOVED | access | (mask & _MOVED) << 1 | smep

    def extended_bits(self, mask: int) -> int:
        return mask & _EXT4_UNMOVED | (mask & _EXT4_MOVED) >> 1

    def extended(self, role: int, extended: int) -> int:
        fetch = EXT4_HAS_PFERR_FETCH if role & ROLE_EFER_NX or extended & EXT_CR4_SMEP else 0
        return extended & _EXT4_UNMOVED | (extended & _EXT4_MOVED) >> 1 | fetch

    def access(self, access: int) -> int:
        return _ACC4_R | access & ~ACC_X | (_ACC4_X if access & ACC_X else 0)

    def letters(self, word: int) -> str:
        access = word >> ROLE_ACCESS_SHIFT
        return _letters(access, (_ACC4_R, "r"), (ACC_W, "w"), (ACC_U, "u"), (_ACC4_X, "x"))


def _letters(access: int, *named: tuple[int, str]) -> str:
    return "".join(letter if access & bit else "-" for bit, letter in named)


THREE_ACCESS_BITS = _ThreeAccessBits()
"""That of 6.1 and 6.12; the model's own."""

FOUR_ACCESS_BITS = _FourAccessBits()
"""That of 7.3. A word without level and rights describes no page: it has no R either."""


def layout_of(design: Design) -> RoleLayout:
    """Return the layout of a design's kernel."""
    return FOUR_ACCESS_BITS if design.access_has_read else THREE_ACCESS_BITS
