"""Machines that are broken in lists, counts and rights."""

from check.audit.broken.machines import DATA_GFN, LARGE, case, root, shadow, slot_of, small_world
from kvm.world import World

from shadowmmu.kvm.bits import (
    MEMSLOT_INVALID,
    ROLE_DIRECT,
    ROLE_INVALID,
)
from shadowmmu.kvm.pages.zap import kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page, kvm_mmu_zap_all_fast
from shadowmmu.kvm.state.shadow_page import ShadowPage


@case("page-hashed")
def _() -> World:
    world = small_world()
    world.kvm.page_hash[world.kvm.hash_bucket(shadow(world).gfn)] = None
    return world


@case("page-listed")
def _() -> World:
    world = small_world()
    world.kvm.active_mmu_pages.remove(shadow(world))
    return world


@case("page-unique")
def _() -> World:
    world = small_world()
    world.ok(f"read {LARGE:#x}", f"read {LARGE + 0x200000:#x}")
    one, two = (sp for sp in world.pages(DATA_GFN, 1) if sp.role & ROLE_DIRECT)
    one.role |= two.role
    two.role |= one.role
    return world


@case("zapped-page-empty", "parents-are-links")
def _() -> World:
    world = small_world()
    sp = root(world)
    kvm_mmu_zap_all_fast(world.kvm)
    assert sp.root_count
    sp.parent_ptes = world.hpa(0x900000)
    return world


@case("generation")
def _() -> World:
    world = small_world()
    shadow(world).mmu_valid_gen ^= 1
    return world


@case("nx-page")
def _() -> World:
    world = small_world()
    shadow(world).nx_huge_page_disallowed = True
    return world


@case("nx-list")
def _() -> World:
    world = small_world()
    world.kvm.stat.nx_lpage_splits += 1
    return world


@case("pages-counted")
def _() -> World:
    world = small_world()
    world.kvm.n_used_mmu_pages += 1
    return world


@case("active-order")
def _() -> World:
    world = small_world()
    sp = world.pages()[-1]
    world.kvm.active_mmu_pages.remove(sp)
    world.kvm.active_mmu_pages.add(sp)
    return world


@case("no-page-twice")
def _() -> World:
    world = small_world()
    world.kvm.active_mmu_pages.add(ShadowPage(0x900, 1 | ROLE_DIRECT, world.hpa(0x900000), 0))
    world.kvm.n_used_mmu_pages += 1
    return world


@case("active-list-intact", "indirect-pages-counted", "huge-page-disallowed", "tracking-counted")
def _() -> World:
    """A child that inherited `invalid` is zapped: the lists are broken although it is gone."""
    world = small_world()
    page = shadow(world)
    page.role |= ROLE_INVALID
    zapped: list[ShadowPage] = []
    kvm_mmu_prepare_zap_page(world.kvm, page, zapped)
    kvm_mmu_commit_zap_page(world.kvm, zapped)
    return world


@case("slots-settled")
def _() -> World:
    world = small_world("slot 1 0x80000000 4M")
    slot_of(world, 1).flags |= MEMSLOT_INVALID
    return world
