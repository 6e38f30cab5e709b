"""Splitting huge pages before they are written to."""

import pytest
from kvm.tdp_world import BIG, PHYSICAL, huge_world, tables
from kvm.world import World

from shadowmmu.kvm.tdp.split import SplitHugePages, kvm_tdp_mmu_try_split_huge_pages
from shadowmmu.kvm.tracepoints.mmu import SplitHugePage
from shadowmmu.x86.bits import ADDR, NX, PS, A

GFN = BIG >> 12


@pytest.fixture
def world() -> World:
    return huge_world()


def test_the_parts_have_the_bits_of_the_whole(world: World) -> None:
    huge, requests = world.spte(BIG), world.kvm.stat.remote_tlb_flush_requests
    kvm_tdp_mmu_try_split_huge_pages(world.kvm, GFN, GFN + 512, 1, 1)
    for page in (0, 1, 511):
        small = world.spte(BIG + 0x1000 * page)
        assert small & ADDR == (huge & ADDR) + 0x1000 * page
        assert small & ~ADDR == huge & ~ADDR & ~PS
    assert world.spte(BIG + 0x200000) & PS, "outside the range"
    assert (world.kvm.stat.pages_2m, world.kvm.stat.remote_tlb_flush_requests) == (1, requests)
    world.ok("nop")


def test_a_gigabyte_is_split_level_by_level() -> None:
    world = huge_world("slot 3 0x40000000 1G huge1g")
    world.ok(f"write {PHYSICAL + 0x40000000:#x} 1")
    assert world.kvm.stat.pages_1g == 1
    world.player.log.take()
    kvm_tdp_mmu_try_split_huge_pages(world.kvm, 0x40000, 0x40000 + 600, 1, 1)
    told = [(e.level, e.gfn) for e in world.player.log.take() if isinstance(e, SplitHugePage)]
    assert told == [(3, 0x40000), (2, 0x40000), (2, 0x40200)]
    assert world.kvm.stat.pages_1g == 0
    assert world.kvm.stat.pages_2m == 510 + 2
    world.ok("nop")


def test_small_pages_may_hold_code_again() -> None:
    world = huge_world("param kvm nx_huge_pages=Y")
    assert world.spte(BIG) & NX
    kvm_tdp_mmu_try_split_huge_pages(world.kvm, GFN, GFN + 512, 1, 1)
    assert not world.spte(BIG) & NX
    world.ok("nop")


def test_it_lets_go_of_the_lock_for_each_frame(world: World) -> None:
    walk = SplitHugePages(world.kvm, GFN, GFN + 2048, 1, 1)
    assert walk.step(), "to get a frame"
    assert world.kvm.stat.pages_2m == 2
    world.quick(f"read {PHYSICAL + BIG:#x}")
    assert walk.step()
    assert world.kvm.stat.pages_2m == 1
    assert not walk.step()
    assert world.kvm.stat.pages_2m == 0
    world.ok("nop")


def test_a_frame_for_a_page_that_is_gone_is_given_back(world: World) -> None:
    walk = SplitHugePages(world.kvm, GFN, GFN + 512, 1, 1)
    assert walk.step()
    world.quick("madvise_dontneed 0x10000000 0x200000")
    before = tables(world, 1)
    assert not walk.step()
    assert tables(world, 1) == before
    world.ok("nop")


def test_a_split_that_loses_is_told_and_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import shadowmmu
    from shadowmmu.kvm.tdp import split

    if shadowmmu.native:
        pytest.skip("a compiled function cannot be replaced")
    real = split.tdp_mmu_set_spte_atomic
    calls: list[int] = []

    def lose_first(kvm: object, it: object, new: int) -> bool:
        calls.append(new)
        if len(calls) == 1:
            sptep = world.sptep(BIG)
            world.machine.arena.view()[sptep >> 3] &= ~A
        return real(kvm, it, new)

    monkeypatch.setattr(split, "tdp_mmu_set_spte_atomic", lose_first)
    world.player.log.take()
    kvm_tdp_mmu_try_split_huge_pages(world.kvm, GFN, GFN + 512, 1, 1)
    assert [e.errno for e in world.player.log.take() if isinstance(e, SplitHugePage)] == [-16, 0]
    assert not world.spte(BIG) & A, "made from what the huge page was at last"
    world.ok("nop")


def test_logging_splits_if_it_is_wanted() -> None:
    for eager, count in (("Y", 0), ("N", 2)):
        world = huge_world(f"param kvm eager_page_split={eager}")
        world.ok("dirtylog on 1")
        assert world.kvm.stat.pages_2m == count
