"""A World on the TDP MMU; the guest reaches guest-physical address gpa at PHYSICAL + gpa."""

from kvm.world import World

from shadowmmu.kvm.bits import ROLE_LEVEL
from shadowmmu.kvm.state.shadow_page import ShadowPage

TDP = ("param kvm_amd npt=1", "param kvm tdp_mmu=1")
PHYSICAL = 0x100000000
BIG = 0x10000000
"""Where slot 1 of huge_world is."""


def tdp_world(*setup: str) -> World:
    """16 MiB of small pages at 0, and what `setup` adds; the first instruction has run."""
    world = World("long4", *TDP, *setup, f"map 0x1000 {PHYSICAL:#x} 0x0 0x67 level=3 n=4")
    world.ok("nop")
    return world


def huge_world(*setup: str) -> World:
    """The same with slot 1, 8 MiB in 2 MiB pages at BIG, of which the first two are mapped and written."""
    world = tdp_world("slot 1 0x10000000 8M huge2m", *setup)
    world.ok(f"write {PHYSICAL + BIG:#x} 1", f"write {PHYSICAL + BIG + 0x200000:#x} 1")
    return world


def tables(world: World, level: int) -> list[ShadowPage]:
    """The tables of a level that the TDP MMU has."""
    pages = [sp for sp in world.kvm.owners if sp is not None and sp.tdp_mmu_page]
    return [sp for sp in pages if sp.role & ROLE_LEVEL == level]
