"""The walk over a tree: order, limits, what happens where it lets go of mmu_lock."""

from collections.abc import Iterator

import pytest
from kvm.tdp_world import BIG, PHYSICAL, huge_world
from kvm.world import World

from shadowmmu.kvm.bits import SPTE_EMPTY, SPTE_MMU_PRESENT
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.kvm.state.tdp_iter import TdpIter
from shadowmmu.x86.bits import ADDR, PS

GFN = BIG >> 12


@pytest.fixture
def world() -> World:
    world = huge_world("slot 2 0x20000000 1M")
    world.ok(f"write {PHYSICAL + 0x20003000:#x} 1", f"read {PHYSICAL + 0x200FF000:#x}")
    return world


def root(world: World) -> ShadowPage:
    return world.kvm.sptep_to_sp(world.vcpu.mmu.root_hpa)


def expected(world: World, sp: ShadowPage, minimum: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(level, gfn) in pre-order of what overlaps [start, end), said recursively."""
    level = sp.level()
    size = 512 ** (level - 1)
    for index, spte in enumerate(world.kvm.read_table(sp.hpa)):
        gfn = sp.gfn + index * size
        if gfn + size <= start or gfn >= end:
            continue
        yield level, gfn
        if level > minimum and spte & SPTE_MMU_PRESENT and not spte & PS:
            yield from expected(world, world.kvm.sptep_to_sp(spte & ADDR), minimum, start, end)


def visited(world: World, minimum: int, start: int, end: int, *, yield_at: int = 0) -> list[tuple[int, int]]:
    it = TdpIter(world.kvm)
    it.start(root(world), minimum, start)
    found = []
    while it.valid and it.gfn < end:
        found.append((it.level, it.gfn))
        assert it.old_spte == world.kvm.read_spte(it.sptep)
        if yield_at and len(found) == yield_at:
            it.yielded = True
        it.next()
    return found


RANGES = [(0, 1 << 36), (GFN, GFN + 1024), (GFN + 3, GFN + 4), (0x20000, 0x20100), (0x1FFFF, 0x20004), (0, 1)]


@pytest.mark.parametrize("minimum", [1, 2, 3, 4])
@pytest.mark.parametrize(("start", "end"), RANGES)
def test_pre_order(world: World, minimum: int, start: int, end: int) -> None:
    assert visited(world, minimum, start, end) == list(expected(world, root(world), minimum, start, end))


@pytest.mark.parametrize("at", [1, 2, 3, 5, 40, 300])
def test_after_letting_go_it_comes_down_from_the_root_to_the_same_page(world: World, at: int) -> None:
    plain = visited(world, 1, GFN, 0x20100)
    broken = visited(world, 1, GFN, 0x20100, yield_at=at)
    assert broken[:at] == plain[:at]
    again = broken[at:]
    level, gfn = plain[at - 1]
    assert again[0][0] == 4, "from the root"
    assert (level, gfn) in again, "not past it"
    assert again[-len(plain[at:]) :] == plain[at:]


def test_a_table_that_is_gone_is_not_entered(world: World) -> None:
    it = TdpIter(world.kvm)
    it.start(root(world), 1, GFN)
    while it.level > 2:
        it.next()
    table = it.sptep & ~0xFFF
    it.start(root(world), 1, 0x20000)
    while it.level > 2:
        it.next()
    assert it.sptep & ~0xFFF == table
    words = world.machine.arena.view()
    link, words[it.sptep >> 3] = it.old_spte, SPTE_EMPTY
    it.next()
    assert (it.level, it.gfn) == (2, 0x20200), "the entry is read again before the step down"
    words[(table + 8 * 256) >> 3] = link


def test_it_lets_go_only_after_progress(world: World) -> None:
    it = TdpIter(world.kvm)
    it.start(root(world), 1, GFN)
    assert not it.should_yield()
    world.kvm.need_resched = True
    assert not it.should_yield(), "nothing has been done"
    while it.gfn <= GFN:
        it.next()
    assert it.should_yield()
    it.yielded = True
    it.next()
    assert not it.should_yield()
