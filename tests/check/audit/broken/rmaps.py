"""Machines that are broken in reverse maps."""

from check.audit.broken.machines import DATA_GFN, GVA, case, shadow, slot_of, small_world, store, table
from kvm.world import World

from shadowmmu.kvm.bits import (
    SPTE_HOST_WRITABLE,
    SPTE_MMU_WRITABLE,
)
from shadowmmu.x86.bits import ADDR, W


@case("rmap-lists-the-leaves")
def _() -> World:
    world = small_world()
    slot_of(world).set_rmap_head(DATA_GFN, 1, 0)
    return world


@case("rmap-encoding")
def _() -> World:
    world = small_world(f"map 0x1000 0x30000000 {DATA_GFN << 12:#x} 0x67")
    world.ok("read 0x30000000")
    desc = slot_of(world).rmap_head(DATA_GFN, 1) & ~1
    store(world, desc + 8, world.kvm.read_spte(desc + 8) | 1 << 32)
    return world


@case("parents-encoding")
def _() -> World:
    world = small_world()
    above, again = shadow(world, 2).gfn << 12, 9
    world.machine.host_write(above + 8 * again, 8, table(world) | 0x67)
    world.audit.unseen()
    world.ok(f"read {again << 21:#x}")
    desc = shadow(world).parent_ptes & ~1
    store(world, desc + 8, world.kvm.read_spte(desc + 8) | 1 << 32)
    return world


@case("page-statistics")
def _() -> World:
    world = small_world()
    world.kvm.stat.pages_2m += 1
    return world


@case("rmap-limit")
def _() -> World:
    world = small_world()
    world.kvm.stat.max_mmu_rmap_size = 1002
    return world


@case("leaf-maps-its-frame")
def _() -> World:
    world = small_world()
    store(world, world.sptep(GVA), world.spte(GVA) & ~ADDR | world.hpa(0x900000))
    return world


@case("read-only-slot")
def _() -> World:
    world = small_world("slot 1 0x80000000 4M ro", "map 0x1000 0x30000000 0x80000000 0x67")
    world.ok("read 0x30000000")
    store(world, world.sptep(0x30000000), world.spte(0x30000000) | SPTE_HOST_WRITABLE)
    return world


@case("logged-page-dirty")
def _() -> World:
    world = small_world("slot 1 0x80000000 4M", "map 0x1000 0x30000000 0x80000000 0x67")
    world.ok("dirtylog on 1", "read 0x30000000", "getdirty 1")
    assert not world.spte(0x30000000) & W
    store(world, world.sptep(0x30000000), world.spte(0x30000000) | W | SPTE_MMU_WRITABLE)
    return world
