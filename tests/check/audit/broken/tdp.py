"""Machines that are broken in the TDP MMU."""

from check.audit.broken.machines import case, store
from kvm.tdp_world import PHYSICAL, tdp_world
from kvm.world import World

from shadowmmu.kvm.bits import (
    ROLE_ACCESS_SHIFT,
    ROLE_LEVEL,
)
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.x86.bits import ACC_W, U


def tdp() -> World:
    world = tdp_world()
    world.ok(f"write {PHYSICAL + 0x800000:#x} 1")
    return world


def tdp_tables(world: World, level: int) -> list[ShadowPage]:
    return [sp for sp in world.kvm.owners if sp is not None and sp.role & ROLE_LEVEL == level]


def tdp_leaf(world: World) -> int:
    sp = next(sp for sp in tdp_tables(world, 1) if sp.gfn == 0x800)
    return sp.hpa


@case("tdp-nx-page")
def _() -> World:
    world = tdp()
    tdp_tables(world, 1)[0].tracked_nx_huge_page = True
    return world


@case("tdp-linked-once")
def _() -> World:
    world = tdp()
    tdp_tables(world, 1)[0].ptep += 8
    return world


@case("tdp-child")
def _() -> World:
    world = tdp()
    tdp_tables(world, 1)[0].role ^= ACC_W << ROLE_ACCESS_SHIFT
    return world


@case("tdp-page")
def _() -> World:
    world = tdp()
    tdp_tables(world, 1)[0].on_list = True
    return world


@case("tdp-leaf")
def _() -> World:
    world = tdp()
    store(world, tdp_leaf(world), world.kvm.read_spte(tdp_leaf(world)) & ~U)
    return world


@case("tdp-not-frozen")
def _() -> World:
    world = tdp()
    store(world, tdp_leaf(world) + 8, world.kvm.frozen_spte)
    return world


@case("tdp-counted")
def _() -> World:
    world = tdp()
    world.kvm.tdp_mmu_pages += 1
    return world


@case("tdp-roots")
def _() -> World:
    world = tdp()
    world.kvm.tdp_mmu_roots[0].root_count += 1
    return world
