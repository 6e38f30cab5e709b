"""Machines that are broken in links between shadow pages."""

from check.audit.broken.machines import DATA_GFN, GVA, HUGE, LARGE, case, shadow, small_world, store
from kvm.nested_world import DATA, nested_world
from kvm.world import World

from shadowmmu.kvm.bits import (
    ROLE_ACCESS_SHIFT,
    ROLE_GUEST_MODE,
    ROLE_QUADRANT_SHIFT,
    SPTE_MMU_PRESENT,
    SPTE_MMU_WRITABLE,
)
from shadowmmu.x86.bits import ACC_W, NX, A, P, U, W


@case("parents-are-links")
def _() -> World:
    world = small_world()
    shadow(world).parent_ptes = 0
    return world


@case("link-leads-to-table")
def _() -> World:
    world = small_world()
    store(world, shadow(world, 2).hpa + 8 * 3, world.hpa(0x900000) | SPTE_MMU_PRESENT | P | W | U | A)
    return world


@case("child-role")
def _() -> World:
    world = small_world()
    shadow(world).role ^= 1 << ROLE_QUADRANT_SHIFT
    return world


@case("link-rights")
def _() -> World:
    world = small_world()
    sptep = shadow(world, 2).hpa + 8 * 2
    store(world, sptep, world.kvm.read_spte(sptep) & ~W)
    return world


@case("leaf-within-role")
def _() -> World:
    world = small_world()
    world.ok(f"write {LARGE:#x} 1")
    world.page(DATA_GFN, 1, direct=True).role ^= ACC_W << ROLE_ACCESS_SHIFT
    return world


@case("writable-chain")
def _() -> World:
    world = small_world()
    store(world, world.sptep(GVA), world.spte(GVA) & ~SPTE_MMU_WRITABLE)
    return world


@case("huge-not-executable")
def _() -> World:
    setup = ("param kvm nx_huge_pages=1", "slot 1 0x10000000 4M huge2m")
    world = small_world(*setup, f"map 0x1000 {HUGE:#x} 0x10000000 0xe7 level=2")
    world.ok(f"read {HUGE:#x}")
    assert world.kvm.stat.pages_2m == 1
    store(world, world.sptep(HUGE), world.spte(HUGE) & ~NX)
    return world


@case("leaf-bits")
def _() -> World:
    world = small_world()
    store(world, world.sptep(GVA + 0x1000), world.spte(GVA + 0x1000) & ~P)
    return world


@case("nested-role", "child-role")
def _() -> World:
    world = nested_world()
    world.ok(f"l2read {DATA:#x}")
    leaf = next(sp for sp in world.pages(level=1) if sp.role & ROLE_GUEST_MODE)
    leaf.role ^= ROLE_GUEST_MODE
    return world
