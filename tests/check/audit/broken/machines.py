"""Machines to break, and the table of the broken ones: each in one way, by the predicate that must see it."""

from collections.abc import Callable

from kvm.world import World

from shadowmmu.kvm.state.memslots import MemSlot
from shadowmmu.kvm.state.shadow_page import ShadowPage

GVA, DATA_GFN = 0x400000, 0x800
FAR = GVA + 9 * 0x1000
"""Mapped by the guest, not yet by KVM, and too far away to be prefetched with GVA."""
NOT_YET = 0x600000
"""The same with a guest table of its own."""
WINDOW = 0x10000000
"""Where the guest's tables are mapped."""
MMIO = 0x20000000
LARGE = 0x40000000
"""A large page of the guest over small ones of the host."""

HUGE = 0x60000000
"""A large page over one of the host, in guests that have it."""

CASES: dict[str, tuple[Callable[[], World], set[str]]] = {}


def case(name: str, *also: str) -> Callable[[Callable[[], World]], Callable[[], World]]:
    """Enter a function that makes a broken machine; `also`: predicates that cannot but see it too."""

    def enter(broken: Callable[[], World]) -> Callable[[], World]:
        CASES[name] = broken, {name, *also}
        return broken

    return enter


def small_world(*setup: str, tlb: bool = False) -> World:
    world = World(
        "long4",
        f"map 0x1000 {GVA:#x} {DATA_GFN << 12:#x} 0x67 n=3",
        f"map 0x1000 {FAR:#x} 0x809000 0x67",
        f"map 0x1000 {NOT_YET:#x} 0x80a000 0x67",
        f"map 0x1000 {WINDOW:#x} 0x1000 0x67 n=16",
        f"map 0x1000 {MMIO:#x} 0xd0000000 0x67",
        f"map 0x1000 {LARGE:#x} 0x800000 0xe7 level=2",
        f"map 0x1000 {LARGE + 0x200000:#x} 0x800000 0xe5 level=2",
        *setup,
        tlb=tlb,
    )
    world.ok(f"write {GVA:#x} 1", f"read {GVA + 0x1000:#x}", f"read {MMIO:#x}")
    return world


def shadow(world: World, level: int = 1) -> ShadowPage:
    """The page of a level on the way to GVA."""
    sp = world.kvm.sptep_to_sp(world.sptep(GVA))
    while sp.level() < level:
        sp = world.kvm.sptep_to_sp(sp.parent_ptes)
    return sp


def table(world: World) -> int:
    """Guest address of the leaf table that maps GVA, with entry 0."""
    return shadow(world).gfn << 12


def window(world: World, level: int = 1) -> int:
    """Where the guest has a table on the way to GVA mapped."""
    return WINDOW - 0x1000 + (shadow(world, level).gfn << 12)


def store(world: World, address: int, value: int) -> None:
    world.machine.arena.store(address, 8, value)


def slot_of(world: World, id: int = 0) -> MemSlot:
    return next(slot for slot in world.kvm.memslots if slot.id == id)


def root(world: World) -> ShadowPage:
    return world.page(1, 4)
