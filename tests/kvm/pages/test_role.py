"""Roles: the CPU's, the root's and the child's (specification 2.2 to 2.5, test vectors of appendix E)."""

import pytest
from kvm.world import World

from shadowmmu.kvm.bits import (
    EXT_CR4_LA57,
    EXT_CR4_PKE,
    EXT_CR4_PSE,
    EXT_CR4_SMAP,
    EXT_CR4_SMEP,
    EXT_EFER_LMA,
    EXT_VALID,
    ROLE_SMAP_ANDNOT_WP,
    ROLE_SMEP,
)
from shadowmmu.kvm.pages.role import kvm_calc_cpu_role, kvm_init_mmu, shadow_root_role
from shadowmmu.x86.bits import (
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NX,
)

PAGING = CR0_PG | CR0_WP


@pytest.mark.parametrize(
    ("cr0", "cr4", "efer", "base", "extended"),
    [
        (0, CR4_PAE | CR4_SMEP, EFER_NX, 0x780, EXT_VALID),
        (PAGING, CR4_PAE, EFER_LMA | EFER_NX, 0x3704, EXT_VALID | EXT_EFER_LMA),
        (PAGING, CR4_PAE | CR4_LA57, EFER_LMA, 0x2705, EXT_VALID | EXT_EFER_LMA | EXT_CR4_LA57),
        (PAGING, CR4_PAE, EFER_NX, 0x3703, EXT_VALID),
        (PAGING, CR4_PAE | CR4_LA57, 0, 0x2703, EXT_VALID),
        (PAGING, CR4_PSE, 0, 0x2712, EXT_VALID | EXT_CR4_PSE),
        (CR0_PG, 0, EFER_NX, 0x1712, EXT_VALID),
        (PAGING, CR4_PAE | CR4_SMEP, EFER_LMA, 0x2704, EXT_VALID | EXT_EFER_LMA | EXT_CR4_SMEP),
        (CR0_PG, CR4_PAE | CR4_SMEP, EFER_LMA, 0x0704 | ROLE_SMEP,
         EXT_VALID | EXT_EFER_LMA | EXT_CR4_SMEP),
        (CR0_PG, CR4_PAE | CR4_SMAP, EFER_LMA, 0x0704 | ROLE_SMAP_ANDNOT_WP,
         EXT_VALID | EXT_EFER_LMA | EXT_CR4_SMAP),
        (PAGING, CR4_PAE | CR4_PKE, EFER_LMA, 0x2704, EXT_VALID | EXT_EFER_LMA | EXT_CR4_PKE),
        (PAGING, CR4_PKE, 0, 0x2712, EXT_VALID),
    ],
)  # fmt: skip
def test_cpu_role(cr0: int, cr4: int, efer: int, base: int, extended: int) -> None:
    assert kvm_calc_cpu_role(cr0, cr4, efer) == (base, extended)


@pytest.mark.parametrize(
    ("cpu", "root"), [(0x780, 0x1783), (0x2712, 0x3713), (0x2703, 0x3703), (0x3704, 0x3704), (0x2705, 0x3705)]
)
def test_the_root_has_three_levels_at_least_and_nx(cpu: int, root: int) -> None:
    assert shadow_root_role(cpu) == root


@pytest.mark.parametrize(
    ("mode", "roots"),
    [
        ("long4", {(0x1, 0x3704)}),
        ("long5", {(0x1, 0x3705)}),
        ("pae", {(0xF0003, 0x3702)}),
        ("32", {(0x1, 0x3712), (0x1, 0x3732), (0x1, 0x3752), (0x1, 0x3772)}),
        ("nopaging", {(0, 0x1782), (0x40000, 0x1782), (0x80000, 0x1782), (0xC0000, 0x1782)}),
    ],
)
def test_roots_of_each_mode(mode: str, roots: set[tuple[int, int]]) -> None:
    """4.10: four directories for a 2-level guest, of one table; those of a PAE guest are its directories."""
    world = World(mode)
    world.ok("nop")
    assert {(sp.gfn, sp.role) for sp in world.pages() if sp.root_count} == roots


def test_children_of_a_two_level_guest_have_quadrants() -> None:
    """0x3772 at an odd index: 0x3731, and the same for a direct page (4 MiB pages), with direct set."""
    world = World(
        "32", "map 0x1000 0xc0200000 0x800000 0x67 n=2", "map 0x1000 0xc0800000 0x800000 0xe7 level=2"
    )
    world.ok("read 0xc0200000", "read 0xc0201000")
    directory = next(sp for sp in world.pages(1, 2) if sp.role == 0x3772)
    assert world.page(2, 1).role == 0x3731
    assert world.sptep(0xC0200000) >> 12 << 12 == world.page(2, 1).hpa
    world.ok("read 0xc0a00000")
    assert world.page(0xA00, 1, direct=True).role == 0x37B1
    world.ok("read 0xc0800000")
    assert world.page(0x800, 1, direct=True).role == 0x3791
    assert directory.root_count == 1


def test_access_is_inherited_from_the_levels_above() -> None:
    world = World("long4", "nonleaf 0x21", "map 0x1000 0x8000000000 0x800000 0x67")
    world.ok("read 0x8000000000")
    assert {sp.role for sp in world.pages() if sp.gfn in (2, 3, 4)} == {0x3103, 0x3102, 0x3101}
    assert world.spte(0x8000000000) & 0xFFF == 0xA25 & ~4 | 0x800


def test_nx_above_takes_x_from_all_below() -> None:
    world = World(
        "long4", f"pt 0x1000 1 {0x2027 | 1 << 63:#x}", "alloc 0x3000", "map 0x1000 0x8000000000 0x800000 0x67"
    )
    world.ok("read 0x8000000000")
    assert world.page(2, 3).role == 0x3603
    assert world.spte(0x8000000000) >> 63


def test_nothing_happens_while_the_role_is_the_same() -> None:
    world = World("long4")
    world.ok("nop")
    mmu = world.vcpu.mmu
    root = mmu.root_hpa
    before = mmu.cpu_role, mmu.cpu_ext
    world.vcpu.cr4 |= 1 << 7
    kvm_init_mmu(world.vcpu)
    assert (mmu.root_hpa, mmu.cpu_role, mmu.cpu_ext) == (root, *before)
