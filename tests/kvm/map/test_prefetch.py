"""Prefetching the neighbours of a fault (specification 6)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import SPTE_EMPTY

GVA = 0x400000


def mapped(world: World, base: int = GVA, count: int = 24) -> list[int]:
    return [n for n in range(count) if world.kvm.read_spte((world.sptep(base) & ~0xFFF) + 8 * n) & 0x800]


def world_of(*lines: str, n: int = 24) -> World:
    return World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67 n={n}", *lines)


@pytest.mark.parametrize(
    ("touched", "window"), [(0, range(8)), (5, range(8)), (8, range(8, 16)), (15, range(8, 16))]
)
def test_the_window_is_the_aligned_eight(touched: int, window: range) -> None:
    world = world_of()
    world.ok("nop")
    events = world.ok(f"read {GVA + 0x1000 * touched:#x}")
    assert mapped(world) == list(window)
    assert names(events).count("kvm_mmu_set_spte") == 8
    assert [world.spte(GVA + 0x1000 * n) & 0x20 for n in window] == [0x20 * (n == touched) for n in window]


@pytest.mark.parametrize("gpte", [0, 0x803066, 0x803047, 0x803067 | 1 << 45])
def test_the_first_bad_gpte_ends_it(gpte: int) -> None:
    """F.5: also for those behind the faulting one, and what is in its place is dropped."""
    world = world_of(f"pt 0x4000 3 {gpte:#x}")
    world.ok(f"read {GVA + 0x6000:#x}")
    assert mapped(world) == [0, 1, 2, 6]


def test_what_is_mapped_is_left_alone() -> None:
    world = world_of("pt 0x4000 6 0")
    world.ok(f"read {GVA:#x}")
    assert mapped(world) == [0, 1, 2, 3, 4, 5]
    before = [world.spte(GVA + 0x1000 * n) for n in range(6)]
    world.ok("hostwrite 0x4030 0x806067 size=8", f"read {GVA + 0x7000:#x}")
    assert [world.spte(GVA + 0x1000 * n) for n in range(6)] == before
    assert mapped(world) == list(range(8))


def test_a_stale_mmio_neighbour_is_dropped() -> None:
    world = world_of("pt 0x4000 3 0xd0000067", "pt 0x4000 4 0")
    world.ok(f"read {GVA + 0x3000:#x}")
    assert world.spte(GVA + 0x3000) & 1 << 51
    assert mapped(world) == [0, 1, 2], "an MMIO fault prefetches as well"
    world.ok("hostwrite 0x4018 0 size=8", f"read {GVA + 0x6000:#x}")
    assert world.kvm.read_spte((world.sptep(GVA) & ~0xFFF) + 24) == SPTE_EMPTY
    assert mapped(world) == [0, 1, 2, 6]


def test_a_hole_ends_it_too() -> None:
    world = world_of("pt 0x4000 3 0xd0000067")
    world.ok(f"read {GVA + 0x6000:#x}")
    assert mapped(world) == [0, 1, 2, 6]
    assert world.stats["pf_mmio_spte_created"] == 0


def test_rights_are_those_of_the_gpte() -> None:
    world = world_of("pt 0x4000 1 0x801065", "pt 0x4000 2 0x802027", "pt 0x4000 3 0x803063")
    world.ok(f"read {GVA:#x}")
    assert [world.spte(GVA + 0x1000 * n) & 6 for n in range(4)] == [6, 4, 4, 2]


def test_pages_the_host_has_not_got_end_it() -> None:
    world = World("long4", "slot 1 0x2000000 1M lazy", f"map 0x1000 {GVA:#x} 0x2000000 0x67 n=8")
    world.ok("hosttouch 0x2000000 0x2000", "hosttouch 0x2003000 0x5000")
    world.ok(f"read {GVA + 0x6000:#x}")
    assert mapped(world) == [0, 1, 6]


def test_read_only_slots_are_not_prefetched() -> None:
    world = World("long4", "slot 1 0x2000000 1M ro", f"map 0x1000 {GVA:#x} 0x2000000 0x67 n=8")
    world.ok(f"read {GVA:#x}")
    assert mapped(world) == [0]


@pytest.mark.parametrize(
    ("flags", "expected"), [(0x67, [2]), (0x65, [0, 1, 2, 3, 4, 5, 6, 7]), (0x27, list(range(8)))]
)
def test_a_logging_slot_is_prefetched_only_read_only(flags: int, expected: list[int]) -> None:
    """Otherwise the page would be writable without being dirty."""
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 {flags:#x} n=8")
    world.ok("dirtylog on 0", f"read {GVA + 0x2000:#x}")
    assert mapped(world) == expected


def test_not_while_the_host_invalidates() -> None:
    world = world_of()
    world.kvm.mmu_invalidate_in_progress = 1
    world.kvm.mmu_invalidate_start, world.kvm.mmu_invalidate_end = 0x10000, 0x10001
    world.ok(f"read {GVA:#x}")
    assert mapped(world) == [0]
    world.kvm.mmu_invalidate_in_progress = 0


def test_in_a_split_huge_page_the_window_is_direct() -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0xe7 level=2")
    world.ok(f"read {GVA + 0x3000:#x}")
    assert mapped(world) == list(range(8))


def test_not_above_level_1() -> None:
    world = World("long4", "slot 1 0x10000000 8M huge2m", f"map 0x1000 {GVA:#x} 0x10000000 0xe7 level=2 n=4")
    world.ok(f"read {GVA:#x}")
    assert world.level(GVA) == 2
    assert not world.is_mapped(GVA + 0x200000)


# -- without paging --------------------------------------------------------------------------------------


def test_direct_pages_prefetch_run_by_run() -> None:
    """6.1: the faulting entry splits the window into two runs; both are mapped."""
    world = World("nopaging")
    world.ok("nop")
    events = world.ok("read 0x803000")
    assert mapped(world, 0x800000) == list(range(8))
    order = [e.gfn for e in events if e.name == "kvm_mmu_set_spte"]
    assert order == [0x803, 0x800, 0x801, 0x802, 0x804, 0x805, 0x806, 0x807]


def test_a_run_across_the_slot_s_end_is_not_mapped() -> None:
    world = World("nopaging", "slot 1 0x2000000 20K")
    world.ok("read 0x2001000")
    assert mapped(world, 0x2000000, 8) == [0, 1]
    world.ok("read 0x2004000")
    assert mapped(world, 0x2000000, 8) == [0, 1, 2, 3, 4]


def test_a_run_stops_where_the_host_has_no_page_and_the_next_goes_on() -> None:
    world = World("nopaging", "slot 1 0x2000000 1M lazy")
    world.ok("hosttouch 0x2000000 0x1000", "hosttouch 0x2002000 0x6000", "read 0x2003000")
    assert mapped(world, 0x2000000, 8) == [0, 3, 4, 5, 6, 7]


def test_a_run_that_maps_nothing_ends_it() -> None:
    world = World("nopaging", "slot 1 0x2000000 1M lazy")
    world.ok("hosttouch 0x2002000 0x6000", "read 0x2003000")
    assert mapped(world, 0x2000000, 8) == [3]


def test_a_logging_slot_has_no_direct_prefetch() -> None:
    world = World("nopaging")
    world.ok("dirtylog on 0", "read 0x803000")
    assert mapped(world, 0x803000 & ~0x1FFFFF, 8) == [3]
