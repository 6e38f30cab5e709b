"""Zapping: prepare and commit, by age, by generation, roots in use (specification 11)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import REQ_MMU_FREE_OBSOLETE_ROOTS, ROLE_INVALID
from shadowmmu.kvm.pages.zap import (
    available_mmu_pages,
    kvm_mmu_change_mmu_pages,
    kvm_mmu_commit_zap_page,
    kvm_mmu_prepare_zap_page,
    kvm_mmu_start_zap_all_fast,
    kvm_mmu_zap_all_fast,
    kvm_mmu_zap_oldest_mmu_pages,
    make_mmu_pages_available,
)
from shadowmmu.kvm.state.shadow_page import ShadowPage

WINDOW = 0x7F0000000000


@pytest.fixture
def world() -> World:
    world = World("long4", "map 0x1000 0x400000 0x800000 0x67 n=4", f"map 0x1000 {WINDOW:#x} 0x4000 0x67")
    world.ok("read 0x400000")
    return world


def prepare(world: World, sp: ShadowPage) -> tuple[int, list[ShadowPage]]:
    zapped: list[ShadowPage] = []
    return kvm_mmu_prepare_zap_page(world.kvm, sp, zapped), zapped


def many(world: World, count: int) -> None:
    """Shadow `count` leaf tables."""
    for n in range(count):
        world.quick(f"read {0x40000000 + 0x200000 * n:#x}")


def test_a_zapped_leaf_page_takes_its_mappings_with_it(world: World) -> None:
    sp, mapped = world.page(4, 1), world.kvm.stat.pages_4k
    number, zapped = prepare(world, sp)
    assert (number, zapped) == (1, [sp])
    assert world.kvm.stat.pages_4k == mapped - 4
    assert sp.role & ROLE_INVALID
    assert sp.parent_ptes == 0
    assert not world.is_mapped(0x400000)
    requests = world.kvm.stat.remote_tlb_flush_requests
    kvm_mmu_commit_zap_page(world.kvm, zapped)
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    assert zapped == []
    with pytest.raises(LookupError):
        world.kvm.sptep_to_sp(sp.hpa)
    world.ok("read 0x400000")


def test_committing_nothing_does_nothing(world: World) -> None:
    requests = world.kvm.stat.remote_tlb_flush_requests
    kvm_mmu_commit_zap_page(world.kvm, [])
    assert world.kvm.stat.remote_tlb_flush_requests == requests


def test_children_of_a_zapped_page_stay_in_the_hash(world: World) -> None:
    """11.3: without parents, to be found again."""
    leaf = world.page(4, 1)
    _, zapped = prepare(world, world.page(3, 2))
    kvm_mmu_commit_zap_page(world.kvm, zapped)
    assert leaf.parent_ptes == 0
    misses = world.kvm.stat.mmu_cache_miss
    world.ok("read 0x400000")
    assert world.page(4, 1) is leaf
    assert world.kvm.stat.mmu_cache_miss == misses + 1


def test_unsync_children_go_with_it(world: World) -> None:
    """11.1: each is zapped before the page, its own event after the page's; it leaves the unsync gauge."""
    world.ok(f"write {WINDOW + 0x800:#x} 0")
    assert world.page(4, 1).unsync
    world.player.log.take()
    leaf, directory = world.page(4, 1), world.page(3, 2)
    number, zapped = prepare(world, directory)
    assert number == 2
    assert zapped == [leaf, directory]
    assert names(list(world.player.log.take())) == [
        "kvm_mmu_prepare_zap_page",
        "kvm_mmu_prepare_zap_page",
        "kvm_mmu_sync_page",
    ]
    assert world.kvm.stat.mmu_unsync == 0
    kvm_mmu_commit_zap_page(world.kvm, zapped)


def test_a_root_in_use_is_emptied_now_and_freed_later(world: World) -> None:
    """F.10: off the list, still hashed and counted; a second event when its last user lets go of it."""
    root, used = world.page(1, 4), world.kvm.n_used_mmu_pages
    zapped_before = world.kvm.stat.mmu_shadow_zapped
    number, zapped = prepare(world, root)
    assert (number, zapped) == (0, [])
    assert root.role & ROLE_INVALID
    assert not root.on_list
    assert any(sp is root for sp in world.kvm.hashed_pages(1))
    assert world.kvm.n_used_mmu_pages == used
    assert world.vcpu.requests & REQ_MMU_FREE_OBSOLETE_ROOTS
    world.player.log.take()
    events = world.ok("read 0x400000")
    assert names(events)[0] == "kvm_mmu_prepare_zap_page"
    assert events[0].role & ROLE_INVALID
    assert world.kvm.stat.mmu_shadow_zapped == zapped_before + 2
    assert world.page(1, 4) is not root


def test_a_page_zapped_from_its_parents_side_first(world: World) -> None:
    """Emptying a directory takes the link out of the child's parents."""
    _, zapped = prepare(world, world.page(2, 3))
    kvm_mmu_commit_zap_page(world.kvm, zapped)
    assert world.page(3, 2).parent_ptes == 0
    world.ok("read 0x401000")


# -- by age ----------------------------------------------------------------------------------------------


def test_the_oldest_go_first_but_roots_stay(world: World) -> None:
    pages = world.pages()[::-1]
    assert pages[0].root_count == 1
    assert kvm_mmu_zap_oldest_mmu_pages(world.kvm, 2) == 2
    assert world.pages()[::-1] == [pages[0], *pages[3:]]
    assert world.kvm.stat.mmu_recycled == 2
    world.ok("read 0x400000")


def test_using_a_page_does_not_make_it_younger() -> None:
    world = World("long4", "map 0x1000 0x40000000 0x800000 0x67 n=4 stride=0x200000 gstride=0")
    many(world, 4)
    order = world.pages()
    world.ok("write 0x40000000 1")
    assert world.pages() == order


def test_less_than_five_available_pages_are_filled_up_to_twenty_five() -> None:
    world = World("long4", "map 0x1000 0x40000000 0x800000 0x67 n=70 stride=0x200000 gstride=0")
    many(world, 20)
    kvm = world.kvm
    kvm_mmu_change_mmu_pages(kvm, kvm.n_used_mmu_pages + 5)
    assert make_mmu_pages_available(kvm)
    assert kvm.stat.mmu_recycled == 0
    kvm_mmu_change_mmu_pages(kvm, kvm.n_used_mmu_pages + 4)
    assert make_mmu_pages_available(kvm)
    assert kvm.stat.mmu_recycled == 21
    assert available_mmu_pages(kvm) == 25
    world.ok("read 0x40000000")


def test_a_lower_limit_zaps_the_oldest_and_what_stays_is_the_limit() -> None:
    world = World("long4", "map 0x1000 0x40000000 0x800000 0x67 n=70 stride=0x200000 gstride=0")
    many(world, 70)
    world.ok("nrmmu 64")
    assert world.kvm.n_used_mmu_pages == world.kvm.n_max_mmu_pages == 64
    world.ok("nrmmu 100")
    assert (world.kvm.n_max_mmu_pages, world.kvm.n_requested_mmu_pages) == (100, 100)
    assert world.do("nrmmu 63").result == {"outcome": "error", "errno": "EINVAL"}


def test_a_guest_may_live_with_the_least_pages() -> None:
    world = World("long4", "map 0x1000 0x40000000 0x800000 0x67 n=120 stride=0x200000 gstride=0")
    world.ok("nrmmu 64")
    many(world, 120)
    assert world.kvm.n_used_mmu_pages <= 64
    assert world.kvm.stat.mmu_recycled
    world.ok("read 0x40000000")


# -- by generation ---------------------------------------------------------------------------------------


def test_zap_all_switches_the_generation_and_empties_everything(world: World) -> None:
    count = len(world.pages())
    world.player.log.take()
    kvm_mmu_zap_all_fast(world.kvm)
    events = list(world.player.log.take())
    assert names(events) == ["kvm_mmu_zap_all_fast", *["kvm_mmu_prepare_zap_page"] * count]
    assert (events[0].mmu_valid_gen, events[0].mmu_used_pages) == (0, count)
    assert [event.gfn for event in events[1:3]] == [1, 0xF0004], "the oldest first"
    assert world.pages() == []
    assert world.kvm.mmu_valid_gen == 1
    assert world.kvm.n_used_mmu_pages == 1, "the root in use"
    world.ok("read 0x400000")
    kvm_mmu_zap_all_fast(world.kvm)
    assert world.kvm.mmu_valid_gen == 0


def test_zapping_by_generation_pauses_after_ten_pages() -> None:
    """11.4: new pages come in front meanwhile; the walk from the oldest ends at the first of them."""
    world = World("long4", "map 0x1000 0x40000000 0x800000 0x67 n=30 stride=0x200000 gstride=0")
    many(world, 30)
    count = len(world.pages())
    zap = kvm_mmu_start_zap_all_fast(world.kvm)
    assert zap.step()
    assert len(world.pages()) == count - 11, "ten pages and the root"
    assert zap.step()
    assert len(world.pages()) == count - 21
    world.quick("read 0x40000000")
    new = [sp for sp in world.pages() if sp.mmu_valid_gen == world.kvm.mmu_valid_gen]
    assert len(new) == 4 + 3
    while zap.step():
        pass
    assert not zap.step()
    assert {sp.hpa for sp in world.pages()} == {sp.hpa for sp in new}
    world.ok("read 0x40200000")


def test_obsolete_pages_are_not_found(world: World) -> None:
    leaf = world.page(4, 1)
    zap = kvm_mmu_start_zap_all_fast(world.kvm)
    assert world.kvm.is_obsolete(leaf)
    assert world.kvm.first_sp_with_gptes(4) is None
    world.quick("read 0x400000")
    assert world.kvm.first_sp_with_gptes(4) is not leaf
    while zap.step():
        pass
    world.ok("read 0x400000")


def test_every_vcpu_lets_go_of_its_roots() -> None:
    world = World("long4", "vcpus 2", "map 0x1000 0x400000 0x800000 0x67", "tramp 0x9000")
    world.ok("read 0x400000", "@1 read 0x400000", "cr3 0x9000")
    assert world.pages(1, 4)[0].root_count == 2
    kvm_mmu_zap_all_fast(world.kvm)
    world.ok("nop")
    assert world.page(9, 4).root_count == 1
    world.ok("@1 nop")
    assert world.page(1, 4).root_count == 1
