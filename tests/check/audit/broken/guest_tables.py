"""Machines that are broken in guest tables and their shadows."""

from check.audit.broken.machines import (
    DATA_GFN,
    case,
    root,
    shadow,
    slot_of,
    small_world,
    store,
    table,
    window,
)
from kvm.world import World

from shadowmmu.kvm.bits import (
    SPTE_MMU_WRITABLE,
)
from shadowmmu.kvm.pages.account import unaccount_shadowed
from shadowmmu.kvm.spte.unsync import clear_unsync_child_bit
from shadowmmu.x86.bits import W


@case("shadow-of-present")
def _() -> World:
    world = small_world()
    world.machine.host_write(table(world), 8, DATA_GFN << 12 | 0x66)
    return world


@case("shadow-of-frame")
def _() -> World:
    world = small_world()
    world.machine.host_write(table(world), 8, 0x805067)
    return world


@case("shadow-of-rights")
def _() -> World:
    world = small_world()
    world.machine.host_write(table(world), 8, DATA_GFN << 12 | 0x65)
    return world


@case("mmio-generation")
def _() -> World:
    world = small_world()
    world.kvm.memslots_generation -= 1
    return world


@case("mmio-is-no-memory")
def _() -> World:
    world = World("nopaging")
    world.ok("read 0xd0000000", "read 0x800000")
    assert not world.is_mapped(0x820000)
    store(world, world.sptep(0x820000), world.spte(0xD0000000) - 0xD0000000 + 0x820000)
    return world


@case("unsync-is-leaf-table")
def _() -> World:
    world = small_world()
    root(world).unsync = True
    world.kvm.stat.mmu_unsync += 1
    return world


def unsync_world() -> World:
    """The guest has written into its table at PT, with what was there."""
    world = small_world()
    world.ok(f"write {window(world):#x} {DATA_GFN << 12 | 0x67:#x}")
    assert shadow(world).unsync
    assert world.spte(window(world)) & W
    return world


@case("unsync-marked")
def _() -> World:
    world = unsync_world()
    above = next(sp for sp in world.pages(level=2) if sp.unsync_children)
    clear_unsync_child_bit(above, above.marked_children()[0])
    return world


@case("unsync-counted")
def _() -> World:
    world = small_world()
    root(world).unsync_children += 1
    return world


@case("unsync-statistic")
def _() -> World:
    world = small_world()
    world.kvm.stat.mmu_unsync += 1
    return world


@case("table-write-protected", "shadowed-table-write-protected")
def _() -> World:
    world = small_world()
    gva = window(world, 2)
    world.ok(f"read {gva:#x}")
    assert not world.spte(gva) & (W | SPTE_MMU_WRITABLE)
    store(world, world.sptep(gva), world.spte(gva) | W | SPTE_MMU_WRITABLE)
    return world


@case("shadowed-table-write-protected", "table-write-protected")
def _() -> World:
    world = unsync_world()
    shadow(world).unsync = False
    world.kvm.stat.mmu_unsync -= 1
    return world


@case("write-tracked", "tracking-counted")
def _() -> World:
    world = small_world()
    sp = shadow(world, 2)
    unaccount_shadowed(world.kvm, sp)
    world.kvm.indirect_shadow_pages += 1
    slot_of(world).count_disallow_lpage(sp.gfn, 1)
    return world


@case("huge-page-disallowed", "tracking-counted")
def _() -> World:
    world = small_world()
    slot_of(world).count_disallow_lpage(1, 1)
    return world


@case("tracking-counted")
def _() -> World:
    world = small_world("slot 1 0x80000000 4M")
    slot_of(world, 1).count_disallow_lpage(0x80000, 1)
    return world


@case("indirect-pages-counted")
def _() -> World:
    world = small_world()
    world.kvm.indirect_shadow_pages += 1
    return world
