"""Zapping: ranges, tables, whole roots; letting go of mmu_lock in between."""

import pytest
from kvm.tdp_world import BIG, PHYSICAL, huge_world, tables, tdp_world
from kvm.world import World

from shadowmmu.kvm.bits import SPTE_EMPTY
from shadowmmu.kvm.pages.zap import kvm_mmu_start_zap_all_fast
from shadowmmu.kvm.tdp.zap import (
    ZapLeafs,
    kvm_tdp_mmu_unmap_gfn_range,
    kvm_tdp_mmu_zap_all,
    kvm_tdp_mmu_zap_leafs,
    kvm_tdp_mmu_zap_sp,
)
from shadowmmu.x86.bits import PS


@pytest.fixture
def world() -> World:
    world = tdp_world("slot 1 0x10000000 8M")
    for page in range(8):
        world.quick(f"write {PHYSICAL + BIG + 0x1000 * page:#x} 1")
    return world


def test_only_the_range_goes(world: World) -> None:
    first = BIG >> 12
    assert kvm_tdp_mmu_zap_leafs(world.kvm, first + 2, first + 4, 0)
    left = [page for page in range(8) if world.spte(BIG + 0x1000 * page) != SPTE_EMPTY]
    assert left == [0, 1, 4, 5, 6, 7]
    assert not kvm_tdp_mmu_zap_leafs(world.kvm, first + 2, first + 4, 0), "nothing there: no flush"
    assert kvm_tdp_mmu_zap_leafs(world.kvm, first + 2, first + 4, 1), "one was due before"
    world.ok(f"read {PHYSICAL + BIG + 0x2000:#x}")


def test_a_huge_page_that_reaches_into_the_range_goes() -> None:
    world = huge_world()
    assert kvm_tdp_mmu_unmap_gfn_range(world.kvm, (BIG >> 12) + 5, (BIG >> 12) + 6, 0, 0)
    assert world.spte(BIG) == SPTE_EMPTY
    assert world.spte(BIG + 0x200000) & PS


def test_an_invalid_root_is_unmapped_without_a_flush(world: World) -> None:
    zap = kvm_mmu_start_zap_all_fast(world.kvm)
    assert not kvm_tdp_mmu_zap_leafs(world.kvm, BIG >> 12, (BIG >> 12) + 4, 0), "not even looked at"
    assert world.spte(BIG) != SPTE_EMPTY
    assert not kvm_tdp_mmu_unmap_gfn_range(world.kvm, BIG >> 12, (BIG >> 12) + 4, 0, 1)
    assert world.spte(BIG) == SPTE_EMPTY, "the host takes the page all the same"
    assert world.spte(BIG + 0x4000) != SPTE_EMPTY
    while zap.step():
        pass
    world.ok("nop")


def test_a_walk_lets_go_of_the_lock_and_flushes_first(world: World) -> None:
    """R12: what was zapped so far is flushed before others run; nothing is left out or done twice."""
    stat = world.kvm.stat
    world.kvm.need_resched = True
    walk = ZapLeafs(world.kvm, BIG >> 12, (BIG >> 12) + 8, 1)
    steps, pages, requests = 0, stat.pages_4k, stat.remote_tlb_flush_requests
    while walk.step():
        steps += 1
        assert not walk.flush
        assert stat.remote_tlb_flush_requests == requests + steps
        assert not world.kvm.rcu_readers
    assert walk.flush, "the last page is the caller's to flush"
    assert steps == 7
    assert stat.pages_4k == pages - 8
    world.kvm.need_resched = False
    world.ok("nop")


def test_others_may_fault_while_an_invalid_root_is_zapped(world: World) -> None:
    world.kvm.need_resched = True
    zap = kvm_mmu_start_zap_all_fast(world.kvm)
    steps = 0
    while zap.step():
        world.quick(f"write {PHYSICAL + BIG + 0x1000 * (steps % 8):#x} 2")
        steps += 1
    assert steps >= 8
    world.kvm.need_resched = False
    assert len(world.kvm.tdp_mmu_roots) == 1
    world.ok(f"read {PHYSICAL + BIG:#x}")
    assert [world.spte(BIG + 0x1000 * page) != SPTE_EMPTY for page in range(8)] == [True] * 8


def test_zapping_a_table(world: World) -> None:
    (leaf,) = (sp for sp in tables(world, 1) if sp.gfn == BIG >> 12)
    assert kvm_tdp_mmu_zap_sp(world.kvm, leaf)
    assert leaf not in tables(world, 1)
    assert not kvm_tdp_mmu_zap_sp(world.kvm, leaf), "it is not linked any more"
    world.ok(f"read {PHYSICAL + BIG:#x}")


def test_the_end_of_a_vm(world: World) -> None:
    kvm_tdp_mmu_zap_all(world.kvm)
    assert world.kvm.tdp_mmu_pages == 0
    assert world.kvm.stat.pages_4k == 0
    (root,) = world.kvm.tdp_mmu_roots
    assert set(world.kvm.read_table(root.hpa)) == {SPTE_EMPTY}
