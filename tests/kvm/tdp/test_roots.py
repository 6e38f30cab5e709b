"""Roots: shared by vCPUs, invalidated, freed by the last who lets go."""

import pytest
from kvm.tdp_world import PHYSICAL, tdp_world
from kvm.world import World

from shadowmmu.kvm.bits import REQ_MMU_FREE_OBSOLETE_ROOTS, ROLE_INVALID
from shadowmmu.kvm.pages.zap import kvm_mmu_start_zap_all_fast, kvm_mmu_zap_all_fast
from shadowmmu.kvm.tdp.roots import kvm_tdp_mmu_put_root, tdp_mmu_next_root


@pytest.fixture
def world() -> World:
    return tdp_world("vcpus 2", "tramp 0x9000")


def test_one_root_for_all(world: World) -> None:
    (root,) = world.kvm.tdp_mmu_roots
    assert root.root_count == 2, "the vCPU and the MMU"
    world.ok("@1 nop", "cr3 0x9000")
    assert world.kvm.tdp_mmu_roots == [root]
    assert root.root_count == 3
    assert [vcpu.mmu.root_hpa for vcpu in world.kvm.vcpus] == [root.hpa] * 2
    assert world.kvm.tdp_mmu_pages == 5, "the root is not counted"
    assert world.kvm.n_used_mmu_pages == 0


def test_after_zap_all_each_vcpu_gets_a_new_root_when_it_runs(world: World) -> None:
    world.ok("@1 nop")
    (old,) = world.kvm.tdp_mmu_roots
    kvm_mmu_zap_all_fast(world.kvm)
    assert old.role & ROLE_INVALID
    assert old.root_count == 2, "the MMU let go"
    assert all(vcpu.requests & REQ_MMU_FREE_OBSOLETE_ROOTS for vcpu in world.kvm.vcpus)
    world.ok("nop")
    new, other = world.kvm.tdp_mmu_roots
    assert other is old
    assert (old.root_count, new.root_count) == (1, 2), "newest first"
    world.ok("@1 nop")
    assert world.kvm.tdp_mmu_roots == [new]
    with pytest.raises(LookupError):
        world.kvm.sptep_to_sp(old.hpa)


def test_an_invalid_root_is_zapped_later_and_serves_nobody_meanwhile(world: World) -> None:
    (old,) = world.kvm.tdp_mmu_roots
    world.ok(f"write {PHYSICAL + 0x800000:#x} 1")
    zap = kvm_mmu_start_zap_all_fast(world.kvm)
    assert old.scheduled_root_to_zap
    assert world.kvm.stat.pages_4k
    world.quick(f"read {PHYSICAL + 0x800000:#x}")
    new = world.kvm.tdp_mmu_roots[0]
    assert new is not old
    while zap.step():
        pass
    assert world.kvm.tdp_mmu_roots == [new]
    world.ok("nop")


def test_a_walk_over_roots_keeps_the_one_it_is_at(world: World) -> None:
    root = tdp_mmu_next_root(world.kvm, None, 1)
    assert root is not None
    assert root.root_count == 3
    kvm_mmu_zap_all_fast(world.kvm)
    world.quick("nop")
    assert root in world.kvm.tdp_mmu_roots
    assert tdp_mmu_next_root(world.kvm, root, 1) is None
    assert root not in world.kvm.tdp_mmu_roots
    world.ok("nop")


def test_the_last_reference_to_a_valid_root_cannot_go(world: World) -> None:
    (root,) = world.kvm.tdp_mmu_roots
    root.root_count = 1
    with pytest.raises(RuntimeError):
        kvm_tdp_mmu_put_root(world.kvm, root)
