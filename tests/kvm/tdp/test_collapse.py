"""Tables go when logging ends, if a huge page may take their place."""

import pytest
from kvm.tdp_world import BIG, PHYSICAL, huge_world
from kvm.world import World

from shadowmmu.kvm.bits import SPTE_EMPTY
from shadowmmu.x86.bits import PS


@pytest.fixture
def world() -> World:
    world = huge_world()
    world.ok("dirtylog on 1")
    return world


def test_each_table_costs_a_flush(world: World) -> None:
    stat = world.kvm.stat
    requests, small = stat.remote_tlb_flush_requests, stat.pages_4k
    world.ok("dirtylog off 1")
    assert stat.remote_tlb_flush_requests == requests + 2
    assert stat.pages_4k == small - 1024
    assert world.spte(BIG) == SPTE_EMPTY
    world.ok(f"read {PHYSICAL + BIG:#x}")
    assert world.spte(BIG) & PS


def test_only_where_the_host_has_huge_pages() -> None:
    world = huge_world("slot 2 0x20000000 4M")
    world.ok("dirtylog on 2", f"write {PHYSICAL + 0x20000000:#x} 1")
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok("dirtylog off 2")
    assert world.kvm.stat.remote_tlb_flush_requests == requests
    assert world.spte(0x20000000) != SPTE_EMPTY
