"""Reverse maps: encoding, growth at the head, holes, recycling (specification 7)."""

import random

import pytest
from hypothesis import given, strategies as st
from kvm.world import World

from shadowmmu.kvm.spte.rmap import (
    pte_list,
    pte_list_add,
    pte_list_count,
    pte_list_free,
    pte_list_remove,
    spte_write_protect,
)
from shadowmmu.kvm.state.vm import Kvm

SPTES = [0x10000 + 8 * n for n in range(100)]


@pytest.fixture
def kvm() -> Kvm:
    return World("long4").kvm


def build(kvm: Kvm, count: int) -> int:
    head = 0
    for sptep in SPTES[:count]:
        head = pte_list_add(kvm, head, sptep)
    return head


def descriptors(kvm: Kvm, head: int) -> list[tuple[int, int, list[int]]]:
    """(number here, number behind, SPTEs) of each descriptor from the head on."""
    found, desc = [], head & ~1
    while desc:
        counts = kvm.read_spte(desc + 8)
        here = counts & 0xFFFFFFFF
        found.append((here, counts >> 32, [kvm.read_spte(desc + 16 + 8 * i) for i in range(here)]))
        desc = kvm.read_spte(desc)
    return found


def test_one_is_its_address(kvm: Kvm) -> None:
    head = build(kvm, 1)
    assert head == SPTES[0]
    assert (pte_list_count(kvm, 0), pte_list_count(kvm, head)) == (0, 1)
    assert pte_list(kvm, 0) == []
    assert pte_list(kvm, head) == SPTES[:1]
    assert pte_list_remove(kvm, head, SPTES[0]) == 0


def test_two_to_fourteen_are_one_descriptor(kvm: Kvm) -> None:
    assert descriptors(kvm, build(kvm, 2)) == [(2, 0, SPTES[:2])]
    head = build(kvm, 14)
    assert head & 1
    assert descriptors(kvm, head) == [(14, 0, SPTES[:14])]


def test_the_fifteenth_starts_a_new_head(kvm: Kvm) -> None:
    """6.12 grows at the head: iteration finds the newest descriptor first, in it the oldest SPTE."""
    assert descriptors(kvm, build(kvm, 15)) == [(1, 14, SPTES[14:15]), (14, 0, SPTES[:14])]
    head = build(kvm, 31)
    assert descriptors(kvm, head) == [(3, 28, SPTES[28:31]), (14, 14, SPTES[14:28]), (14, 0, SPTES[:14])]
    assert pte_list(kvm, head) == SPTES[28:31] + SPTES[14:28] + SPTES[:14]
    assert pte_list_count(kvm, head) == 31


def test_the_head_s_last_entry_fills_the_hole(kvm: Kvm) -> None:
    head = build(kvm, 17)
    assert pte_list_remove(kvm, head, SPTES[3]) == head
    assert descriptors(kvm, head) == [
        (2, 14, SPTES[14:16]),
        (14, 0, [*SPTES[:3], SPTES[16], *SPTES[4:14]]),
    ]
    assert pte_list_remove(kvm, head, SPTES[14]) == head
    assert descriptors(kvm, head)[0] == (1, 14, SPTES[15:16])


def test_an_empty_head_goes_away(kvm: Kvm) -> None:
    head = build(kvm, 15)
    second = pte_list_remove(kvm, head, SPTES[2])
    assert second & 1
    assert second != head
    assert descriptors(kvm, second) == [(14, 0, [*SPTES[:2], SPTES[14], *SPTES[3:14]])]


def test_a_descriptor_with_one_entry_stays_one(kvm: Kvm) -> None:
    head = build(kvm, 2)
    head = pte_list_remove(kvm, head, SPTES[0])
    assert descriptors(kvm, head) == [(1, 0, [SPTES[1]])]
    assert pte_list_remove(kvm, head, SPTES[1]) == 0


def test_what_is_not_there_is_corruption(kvm: Kvm) -> None:
    for count in (0, 1, 2, 20):
        with pytest.raises(LookupError):
            pte_list_remove(kvm, build(kvm, count), 0x99990)


def test_freed_descriptors_are_used_again(kvm: Kvm) -> None:
    pte_list_free(kvm, build(kvm, 100))
    before = kvm.arena.next_table
    for _ in range(20):
        pte_list_free(kvm, build(kvm, 100))
    assert kvm.arena.next_table == before


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=200))
def test_holds_what_was_added_and_not_removed(operations: list[tuple[bool, int]]) -> None:
    kvm = World("nopaging").kvm
    head, model = 0, []
    for add, number in operations:
        sptep = 0x10000 + 8 * number
        if add and sptep not in model:
            head = pte_list_add(kvm, head, sptep)
            model.append(sptep)
        elif not add and sptep in model:
            head = pte_list_remove(kvm, head, sptep)
            model.remove(sptep)
        assert sorted(pte_list(kvm, head)) == sorted(model)
        assert pte_list_count(kvm, head) == len(model)
        full = descriptors(kvm, head)[1:] if head & 1 else []
        assert all(here == 14 for here, _, _ in full)


# -- of frames -------------------------------------------------------------------------------------------


def test_more_than_a_thousand_mappings_are_dropped() -> None:
    """7.3: the maximum is of counts before adding; at more than 1000 all of the frame go, the new one too."""
    world = World("long4", "map 0x1000 0x10000000 0x800000 0x67 n=1100 gstride=0")
    slot = world.kvm.memslots[0]
    mapped = 0
    for number in range(0, 1002, 8):
        world.do(f"read {0x10000000 + 0x1000 * number:#x}") if number % 250 == 0 else world.quick(
            f"read {0x10000000 + 0x1000 * number:#x}"
        )
        mapped = max(mapped, len(pte_list(world.kvm, slot.rmap_head(0x800, 1))))
    assert mapped == 1000
    requests = world.kvm.stat.remote_tlb_flush_requests
    assert world.kvm.stat.max_mmu_rmap_size == 1001
    assert len(pte_list(world.kvm, slot.rmap_head(0x800, 1))) == 8, "those of the fault that was taken again"
    assert requests == 1
    world.ok("read 0x10000000")


@pytest.mark.parametrize(
    ("spte", "pt_protect", "left", "flush"),
    [
        (0xE67, 1, 0xA65, True),
        (0xE67, 0, 0xE65, True),
        (0xE65, 1, 0xA65, True),
        (0xE65, 0, 0xE65, False),
        (0xA65, 1, 0xA65, False),
    ],
)
def test_write_protection_of_one_spte(spte: int, pt_protect: int, left: int, flush: bool) -> None:
    """7.6: W goes, for page tables MMU-writable too; a flush is due if it was MMU-writable."""
    world = World("long4", "map 0x1000 0x400000 0x800000 0x67")
    world.ok("read 0x400000")
    sptep = world.sptep(0x400000)
    world.machine.arena.view()[sptep >> 3] = spte
    assert spte_write_protect(world.kvm, sptep, pt_protect) == flush
    assert world.kvm.read_spte(sptep) == left


def test_a_new_shadow_page_protects_every_mapping_of_its_table() -> None:
    gvas = [0x10000000 + 0x200000 * n for n in range(40)]
    world = World(
        "long4",
        "map 0x1000 0x10000000 0x800000 0x67 n=40 stride=0x200000 gstride=0",
        "alloc 0x800000",
        "map 0x1000 0x8000000000 0x900000 0x67",
    )
    for gva in random.Random(1).sample(gvas, 40):
        world.ok(f"write {gva + 0x100:#x} 0")
    assert all(world.spte(gva) & 0x402 == 0x402 for gva in gvas)
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok("read 0x8000000000")
    assert all(world.spte(gva) & 0x402 == 0 for gva in gvas)
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
