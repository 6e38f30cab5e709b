"""Machines that are broken in the TLB; and one that makes KVM find a bug in itself."""

from check.audit.broken.machines import DATA_GFN, GVA, case, slot_of, small_world, store
from kvm.world import World

from shadowmmu.x86.bits import W


@case("tlb-as-tables")
def _() -> World:
    world = small_world(tlb=True)
    store(world, world.sptep(GVA), world.spte(GVA) & ~W)
    return world


@case("no-bug")
def _() -> World:
    world = small_world()
    slot_of(world).set_rmap_head(DATA_GFN, 1, 1 << 56 | 1)
    return world
