"""Machines that are broken in roots."""

from check.audit.broken.machines import GVA, case, root, small_world, store
from kvm.nested_world import DATA, nested_world
from kvm.world import World

from shadowmmu.kvm.bits import (
    REQ_MMU_FREE_OBSOLETE_ROOTS,
)
from shadowmmu.kvm.pages.zap import kvm_mmu_zap_all_fast
from shadowmmu.x86.bits import P


@case("root-counted")
def _() -> World:
    world = small_world()
    root(world).root_count += 1
    return world


@case("root-lives")
def _() -> World:
    world = small_world()
    world.vcpu.guest_mmu.root_hpa = world.hpa(0x900000)
    return world


@case("root-not-obsolete")
def _() -> World:
    world = small_world()
    kvm_mmu_zap_all_fast(world.kvm)
    world.check()
    world.vcpu.requests &= ~REQ_MMU_FREE_OBSOLETE_ROOTS
    return world


@case("root-cached-once")
def _() -> World:
    world = small_world("alloc 0x20000", "tramp 0x1f000")
    world.ok("cr3 0x1f000", "nop")
    assert world.vcpu.root_mmu.prev_root(0)[0] == 0x1000
    world.vcpu.root_mmu.root_pgd = 0x1000
    return world


@case("mmu-of-guest")
def _() -> World:
    world = small_world()
    world.vcpu.guest_mode = True
    return world


@case("special-tables")
def _() -> World:
    world = nested_world(mode="32")
    world.ok(f"l2read {DATA:#x}")
    store(world, world.vcpu.guest_mmu.pml4_root + 8, P)
    return world


def one_off_world() -> World:
    world = World("pae", f"map 0x1000 {GVA:#x} 0x800000 0x67", design={"special_roots": "one_off"})
    world.ok(f"read {GVA:#x}")
    return world


@case("special-pages")
def _() -> World:
    world = one_off_world()
    next(sp for sp in world.kvm.owners if sp is not None and sp.special).root_count += 1
    return world
