"""Ageing: the host's questions through the notifier."""

import pytest
from kvm.tdp_world import BIG, PHYSICAL, huge_world
from kvm.world import World, names

from shadowmmu.kvm.memory.notifier import MmuNotifier
from shadowmmu.x86.bits import A


@pytest.fixture
def world() -> World:
    return huge_world()


def hva(world: World, offset: int = 0) -> int:
    return world.machine.slots[1].mapping.hva + offset


def test_young_once(world: World) -> None:
    notifier = MmuNotifier(world.kvm)
    world.player.log.take()
    assert notifier.clear_young(hva(world), hva(world, 0x1000))
    assert not world.spte(BIG) & A
    assert world.spte(BIG + 0x200000) & A
    assert not notifier.clear_young(hva(world), hva(world, 0x1000))
    assert not notifier.test_young(hva(world))
    assert notifier.test_young(hva(world, 0x200000))
    assert notifier.test_young(hva(world, 0x200000)), "asking does not forget"
    told = names(list(world.player.log.take()))
    assert told.count("kvm_age_hva") == 2
    assert told.count("kvm_test_age_hva") == 3
    assert told.count("kvm_tdp_mmu_spte_changed") == 1
    world.ok(f"read {PHYSICAL + BIG:#x}")
    assert notifier.test_young(hva(world)), "the processor sets Accessed"


def test_only_one_of_the_questions_flushes(world: World) -> None:
    notifier = MmuNotifier(world.kvm)
    requests = world.kvm.stat.remote_tlb_flush_requests
    assert notifier.clear_young(hva(world), hva(world, 0x1000))
    assert world.kvm.stat.remote_tlb_flush_requests == requests
    assert notifier.clear_flush_young(hva(world, 0x200000), hva(world, 0x400000))
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    assert not notifier.clear_flush_young(hva(world, 0x200000), hva(world, 0x400000))
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    world.ok("nop")


@pytest.mark.parametrize("mode", ["long4", "nopaging"])
def test_shadow_pages_age_too(mode: str) -> None:
    setup = () if mode == "nopaging" else ("map 0x1000 0x800000 0x800000 0x67",)
    world = World(mode, *setup)
    world.ok("read 0x800000")
    notifier = MmuNotifier(world.kvm)
    page = world.machine.hva(0x800000)
    assert notifier.test_young(page)
    assert notifier.clear_flush_young(page, page + 0x1000)
    assert not notifier.test_young(page)
    world.ok("read 0x800000")
    assert notifier.test_young(page)
