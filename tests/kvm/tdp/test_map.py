"""Nested page faults: tables on the way, huge pages, MMIO, losing a race."""

import pytest
from kvm.tdp_world import BIG, PHYSICAL, huge_world, tdp_world
from kvm.world import World, names

from shadowmmu.kvm.bits import RET_PF_FIXED, RET_PF_RETRY, RET_PF_SPURIOUS, SPTE_EMPTY
from shadowmmu.kvm.fault.page_fault import kvm_mmu_do_page_fault
from shadowmmu.kvm.spte.mmio import is_mmio_spte
from shadowmmu.x86.bits import NX, PFERR_P, PFERR_U, PFERR_W, PS, A, D, U, W

GPA = 0x800000
WRITE = PFERR_W | PFERR_U


@pytest.fixture
def world() -> World:
    return tdp_world()


def fault(world: World, gpa: int, error: int = WRITE) -> int:
    return int(kvm_mmu_do_page_fault(world.vcpu, gpa, error, 0))


def test_a_fault_makes_the_tables_and_maps_one_page(world: World) -> None:
    world.player.log.take()
    assert fault(world, GPA) == RET_PF_FIXED
    expected = ["kvm_mmu_spte_requested"]
    expected += ["kvm_mmu_get_page", "kvm_tdp_mmu_spte_changed"]
    expected += ["kvm_tdp_mmu_spte_changed", "kvm_mmu_set_spte"]
    assert names(list(world.player.log.take())) == expected, "one table was missing; no prefetch"
    assert world.spte(GPA) & 0xFFF == 0xE67


def test_the_same_again_is_spurious_but_drops_dirty_first(world: World) -> None:
    assert fault(world, GPA) == RET_PF_FIXED
    assert fault(world, GPA) == RET_PF_FIXED, "make_spte's short cut leaves D out"
    assert not world.spte(GPA) & D
    assert fault(world, GPA) == RET_PF_SPURIOUS
    assert fault(world, GPA, WRITE | PFERR_P) == RET_PF_SPURIOUS, "the fast path sees it too"


def test_a_frozen_entry_means_try_again(world: World) -> None:
    assert fault(world, GPA) == RET_PF_FIXED
    sptep, words = world.sptep(GPA), world.machine.arena.view()
    pages = world.kvm.stat.pages_4k
    old, words[sptep >> 3] = words[sptep >> 3], world.kvm.frozen_spte
    assert fault(world, GPA) == RET_PF_RETRY
    assert words[sptep >> 3] == world.kvm.frozen_spte
    assert world.kvm.stat.pages_4k == pages
    words[sptep >> 3] = old


def test_2_mib_pages() -> None:
    world = huge_world()
    assert world.kvm.stat.pages_2m == 2
    assert world.spte(BIG) & PS
    assert world.spte(BIG + 0x200000) & 0xFFF == 0xEE7


def test_no_memory_is_an_mmio_spte_whose_second_fault_counts_too(world: World) -> None:
    created = world.vcpu.stat.pf_mmio_spte_created
    world.ok(f"read {PHYSICAL + 0x30000000:#x}", f"read {PHYSICAL + 0x30001000:#x}")
    assert is_mmio_spte(world.kvm, world.spte(0x30000000))
    assert world.vcpu.stat.pf_mmio_spte_created == created + 2
    fault(world, 0x30000000)
    assert world.vcpu.stat.pf_mmio_spte_created == created + 3
    world.ok("nop")


def test_code_splits_a_huge_page_of_data() -> None:
    world = huge_world("param kvm nx_huge_pages=Y", "code 0x10005000")
    assert world.spte(BIG) & (PS | NX) == PS | NX
    events = world.ok(f"exec {PHYSICAL + BIG + 0x5000:#x}")
    assert names(events).count("kvm_mmu_split_huge_page") == 1
    assert not world.spte(BIG) & (PS | NX), "small pages may hold code"
    assert world.spte(BIG) & (A | D | W | U) == A | D | W | U, "the others keep what the huge page had"
    assert world.kvm.stat.nx_lpage_splits == 1
    assert world.kvm.stat.pages_4k >= 512


def test_a_huge_page_replaces_a_table_with_a_flush() -> None:
    world = huge_world()
    world.ok("dirtylog on 1", f"write {PHYSICAL + BIG:#x} 1", "dirtylog off 1")
    assert world.spte(BIG) == SPTE_EMPTY, "the table was dropped when logging ended"
    world.ok(f"write {PHYSICAL + BIG:#x} 1")
    assert world.spte(BIG) & PS


def test_a_write_to_a_huge_page_of_a_logging_slot_splits_it() -> None:
    world = huge_world("param kvm eager_page_split=N")
    world.ok("dirtylog on 1")
    assert world.spte(BIG) & (PS | W) == PS
    events = world.ok(f"write {PHYSICAL + BIG + 0x7000:#x} 1")
    assert names(events).count("kvm_mmu_split_huge_page") == 1
    assert world.spte(BIG + 0x7000) & W
    assert not world.spte(BIG + 0x6000) & W, "the rest still waits for its first write"
    assert world.spte(BIG + 0x6000) & ~0xFFF
