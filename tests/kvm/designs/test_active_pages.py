"""Mail 000: the order of the active pages, which zapping by generation depends on (`active_pages`)."""

import pytest
from kvm.designs.guests import OPS, by_default, play
from kvm.random_scenarios import MODES, random_scenario
from kvm.world import World, names

from shadowmmu.kvm.pages.zap import (
    kvm_mmu_start_zap_all_fast,
    kvm_mmu_zap_all_fast,
    kvm_mmu_zap_oldest_mmu_pages,
)

ORDERS = ("fifo", "lifo")
TABLE_WINDOW = 0x7F0000000000
BASE = 0x40000000
COUNT = 30


def many_tables(order: str) -> World:
    """The shadows of COUNT leaf tables; the first is that of BASE, and has a window."""
    world = World(
        "long4",
        f"map 0x1000 {BASE:#x} 0x800000 0x67 n={COUNT} stride=0x200000",
        f"map 0x1000 {TABLE_WINDOW:#x} 0x4000 0x67",
        "poke 0x800000 0x1111",
        "poke 0x80f000 0x2222",
        design={"active_pages": order},
    )
    for n in range(COUNT):
        world.quick(f"read {BASE + n * 0x200000:#x}")
    world.ok("nop")
    return world


def old_pages(world: World) -> int:
    """Pages of the last generation that are still there."""
    return sum(sp.mmu_valid_gen != world.kvm.mmu_valid_gen for sp in world.pages())


@pytest.mark.parametrize(("order", "kept"), [("fifo", False), ("lifo", True)])
def test_which_pages_make_room(order: str, kept: bool) -> None:
    world = many_tables(order)
    kvm_mmu_zap_oldest_mmu_pages(world.kvm, 10)
    assert bool(world.pages(4, 1)) == kept, "the first leaf table's"
    assert bool(world.pages(4 + COUNT - 1, 1)) == (not kept), "the last one's"


@pytest.mark.parametrize("order", ORDERS)
def test_without_a_break_all_old_pages_go(order: str) -> None:
    world = many_tables(order)
    kvm_mmu_zap_all_fast(world.kvm)
    assert world.pages() == []
    world.ok(f"read {BASE:#x}")


@pytest.mark.parametrize("order", ORDERS)
def test_new_pages_while_the_lock_is_free(order: str) -> None:
    """kvm_zap_obsolete_pages stops at the first page of the new generation: none may be among old ones."""
    world = many_tables(order)
    zap = kvm_mmu_start_zap_all_fast(world.kvm)
    assert zap.step(), "some are left"
    world.quick(f"read {BASE + COUNT * 0x200000:#x}")
    while zap.step():
        pass
    assert bool(old_pages(world)) == (order == "lifo")
    if order == "fifo":
        world.ok("nop")


@pytest.mark.parametrize(("order", "value"), [("fifo", 0x2222), ("lifo", 0x1111)])
def test_pages_that_were_left_come_back(order: str, value: int) -> None:
    """The generation is one bit: the next zap-all makes them valid again, whatever the guest has changed."""
    world = many_tables(order)
    zap = kvm_mmu_start_zap_all_fast(world.kvm)
    assert zap.step()
    world.quick(f"read {BASE + COUNT * 0x200000:#x}")
    while zap.step():
        pass
    world.quick(f"write {TABLE_WINDOW:#x} 0x80f067")
    kvm_mmu_zap_all_fast(world.kvm)
    played = world.quick(f"read {BASE:#x}")
    assert int(played.result["value"], 16) == value
    assert ("kvm_mmu_spte_requested" in names(played.events)) == (order == "fifo")


@pytest.mark.parametrize("mode", MODES)
def test_guests_do_not_notice_as_long_as_the_lock_is_kept(mode: str) -> None:
    text = random_scenario(mode, 72, OPS)
    assert play(text, {"active_pages": "lifo"}, checked=True) == by_default(text)
