"""Words as each kernel lays them out. The words of 7.3.4 were recorded on it."""

import pytest
from hypothesis import given, strategies as st

from shadowmmu.kvm.bits import (
    ROLE_ACCESS_SHIFT,
    ROLE_CR0_WP,
    ROLE_DIRECT,
    ROLE_EFER_NX,
    ROLE_GUEST_MODE,
    ROLE_INVALID,
    ROLE_LEVEL,
    ROLE_SMAP_ANDNOT_WP,
    ROLE_SMEP,
    TRANSLATION_VALID,
)
from shadowmmu.kvm.design.design import design_of
from shadowmmu.kvm.pages.role import kvm_calc_cpu_role
from shadowmmu.kvm.tracepoints.role_layout import FOUR_ACCESS_BITS, THREE_ACCESS_BITS, layout_of
from shadowmmu.x86.bits import (
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NX,
)

PAGING = CR0_PG | CR0_WP
LONG = EFER_LMA | EFER_NX
ROLES = st.integers(0, (1 << 19) - 1)
"""All that a role of the model may hold but SMM, which it never does."""


def test_the_layout_is_the_kernels() -> None:
    assert layout_of(design_of("6.1.176")) is layout_of(design_of("6.12.111")) is THREE_ACCESS_BITS
    assert layout_of(design_of("7.3.4")) is FOUR_ACCESS_BITS


@pytest.mark.parametrize(
    ("role", "word"),
    [
        (4 | 7 << ROLE_ACCESS_SHIFT | ROLE_EFER_NX | ROLE_CR0_WP, 0x6F04),
        (4 | 7 << ROLE_ACCESS_SHIFT | ROLE_EFER_NX, 0x2F04),
        (1 | 3 << ROLE_ACCESS_SHIFT | ROLE_DIRECT, 0xB81),
        (3 | 7 << ROLE_ACCESS_SHIFT | ROLE_DIRECT | ROLE_EFER_NX | ROLE_INVALID, 0x3F83),
        (4 | 7 << ROLE_ACCESS_SHIFT | ROLE_EFER_NX | ROLE_SMEP | ROLE_SMAP_ANDNOT_WP, 0x10AF04),
        (4 | 7 << ROLE_ACCESS_SHIFT | ROLE_EFER_NX | ROLE_CR0_WP | ROLE_GUEST_MODE, 0x26F04),
        (1, 0x101),
        (ROLE_INVALID, 0x1000),
        (0, 0),
    ],
)
def test_roles_of_today(role: int, word: int) -> None:
    assert FOUR_ACCESS_BITS.role(role) == word
    assert THREE_ACCESS_BITS.role(role) == role


@pytest.mark.parametrize(
    ("cr0", "cr4", "efer", "word"),
    [
        (PAGING, CR4_PAE, LONG, 0xC100006F04),
        (PAGING, CR4_PAE | CR4_SMEP | CR4_SMAP, LONG, 0xD100106F04),
        (CR0_PG, CR4_PAE | CR4_SMEP | CR4_SMAP, LONG, 0xD10010AF04),
        (CR0_PG, CR4_PAE, LONG, 0xC100002F04),
        (PAGING, CR4_PAE, EFER_LMA, 0x4100004F04),
        (PAGING, CR4_PAE, EFER_NX, 0x8100006F03),
        (PAGING, CR4_PSE, 0, 0x500004F12),
        (PAGING, CR4_PAE | CR4_LA57, LONG, 0xE100006F05),
        (0, CR4_PAE | CR4_SMEP, EFER_NX, 0x100000F80),
    ],
)
def test_cpu_roles_of_today(cr0: int, cr4: int, efer: int, word: int) -> None:
    base, extended = kvm_calc_cpu_role(cr0, cr4, efer, has_smep=True)
    assert FOUR_ACCESS_BITS.cpu_role(base, extended) == word


@given(ROLES)
def test_no_role_is_lost(role: int) -> None:
    word = FOUR_ACCESS_BITS.role(role)
    assert word >> ROLE_ACCESS_SHIFT & 1 == bool(role & ROLE_LEVEL or role >> ROLE_ACCESS_SHIFT & 7)
    assert FOUR_ACCESS_BITS.model_role(word) == role
    assert THREE_ACCESS_BITS.model_role(role) == role


@pytest.mark.parametrize(
    ("access", "three", "four"),
    [(7, "wux", "rwux"), (5, "-ux", "r-ux"), (2, "w--", "rw--"), (0, "---", "r---")],
)
def test_letters(access: int, three: str, four: str) -> None:
    assert THREE_ACCESS_BITS.letters(1 | access << ROLE_ACCESS_SHIFT) == three
    assert FOUR_ACCESS_BITS.letters(FOUR_ACCESS_BITS.role(1 | access << ROLE_ACCESS_SHIFT)) == four


def test_a_translation_of_gfn_0_without_rights_is_one() -> None:
    assert THREE_ACCESS_BITS.translation(TRANSLATION_VALID) == 0
    assert FOUR_ACCESS_BITS.translation(TRANSLATION_VALID) == 1
    assert FOUR_ACCESS_BITS.translation(0) == THREE_ACCESS_BITS.translation(0) == 0
    word = 0x800 << 12 | TRANSLATION_VALID | 5
    assert (THREE_ACCESS_BITS.translation(word), FOUR_ACCESS_BITS.translation(word)) == (0x800005, 0x80000D)
