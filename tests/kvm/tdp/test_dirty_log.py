"""Dirty logging in the TDP MMU: write protection, Dirty bits, huge pages, the log's interface."""

import pytest
from kvm.ept_world import ept_world
from kvm.tdp_world import BIG, PHYSICAL, huge_world, tdp_world
from kvm.world import World, names

from shadowmmu.kvm.bits import SPTE_MMU_WRITABLE
from shadowmmu.kvm.memory.dirty_log import cpu_dirty_log_size, kvm_arch_mmu_enable_log_dirty_pt_masked
from shadowmmu.kvm.memory.memory_region import id_to_memslot
from shadowmmu.kvm.state.memslots import MemSlot
from shadowmmu.kvm.tdp.dirty_log import (
    WriteProtectSlot,
    kvm_tdp_mmu_clear_dirty_pt_masked,
    kvm_tdp_mmu_clear_dirty_slot,
    kvm_tdp_mmu_write_protect_gfn,
)
from shadowmmu.x86.bits import EPT_D, PS, W

GFN = BIG >> 12


def small_world(*setup: str) -> World:
    return written(tdp_world("slot 1 0x10000000 8M", *setup))


def written(world: World) -> World:
    for page in (0, 1, 63, 64, 70, 512):
        world.quick(f"write {PHYSICAL + BIG + 0x1000 * page:#x} 1")
    return world


def slot(world: World) -> MemSlot:
    found = id_to_memslot(world.kvm, 1)
    assert found is not None
    return found


def bits(world: World, bit: int) -> list[int]:
    """Which of the mapped pages have the bit."""
    return [page for page in (0, 1, 63, 64, 70, 512) if world.spte(BIG + 0x1000 * page) & bit]


def dirty(world: World) -> list[int]:
    return [(int(gpa, 16) - BIG) >> 12 for gpa in world.do("getdirty 1").result["dirty"]]


def test_switching_it_on_and_writing() -> None:
    world = small_world()
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok("dirtylog on 1")
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    assert bits(world, W) == []
    assert len(bits(world, SPTE_MMU_WRITABLE)) == 6
    events = world.ok(f"write {PHYSICAL + BIG + 0x40000:#x} 2")
    assert "fast_page_fault" in names(events)
    assert dirty(world) == [64]
    assert bits(world, W) == []


def test_the_mask_names_pages() -> None:
    world = small_world()
    kvm_tdp_mmu_clear_dirty_pt_masked(world.kvm, GFN, 0b10, 1)
    assert bits(world, W) == [0, 63, 64, 70, 512]
    kvm_tdp_mmu_clear_dirty_pt_masked(world.kvm, GFN + 64, 1 << 6 | 1 << 9 | 1 << 63, 1)
    assert bits(world, W) == [0, 63, 64, 512]
    kvm_tdp_mmu_clear_dirty_pt_masked(world.kvm, GFN, 1 << 63, 1)
    assert bits(world, W) == [0, 64, 512]
    world.ok("nop")


def test_huge_pages_are_not_touched_by_a_mask() -> None:
    world = huge_world()
    kvm_tdp_mmu_clear_dirty_pt_masked(world.kvm, GFN, (1 << 64) - 1, 1)
    assert world.spte(BIG) & (PS | W) == PS | W


def test_protection_as_for_a_page_table_takes_mmu_writable_too() -> None:
    world = huge_world()
    assert kvm_tdp_mmu_write_protect_gfn(world.kvm, GFN + 5, 2)
    assert not world.spte(BIG) & (W | SPTE_MMU_WRITABLE)
    assert not kvm_tdp_mmu_write_protect_gfn(world.kvm, GFN + 5, 2), "done before"
    assert world.spte(BIG + 0x200000) & W
    small = small_world()
    assert not kvm_tdp_mmu_write_protect_gfn(small.kvm, GFN, 2), "no huge page there"


def test_the_walk_may_be_interrupted_and_others_map_meanwhile() -> None:
    world = small_world()
    world.ok("dirtylog on 1")
    for page in (0, 1, 63, 64, 70, 512):
        world.quick(f"write {PHYSICAL + BIG + 0x1000 * page:#x} 2")
    world.kvm.need_resched = True
    walk = WriteProtectSlot(world.kvm, GFN, GFN + 2048, 1)
    assert walk.step()
    assert bits(world, W) == [1, 63, 64, 70, 512], "the first break comes after the first page"
    steps = 1
    while walk.step():
        steps += 1
        world.quick(f"read {PHYSICAL + BIG + 0x1000 * (1000 + steps % 500):#x}")
    world.kvm.need_resched = False
    assert steps > 500
    assert walk.changed
    assert bits(world, W) == []
    world.ok("nop")


# -- Dirty bits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", ["vmx", "ept", "ept_ad_bits", "pml"])
def test_pml_needs_all_of_its_conditions(off: str) -> None:
    conditions = dict.fromkeys(("vmx", "ept", "ept_ad_bits", "pml"), True)
    assert cpu_dirty_log_size(**conditions) == 512
    assert cpu_dirty_log_size(**{**conditions, off: False}) == 0


def test_with_pml_switching_it_on_clears_dirty_and_keeps_w() -> None:
    world = written(ept_world("slot 1 0x10000000 8M"))
    world.ok("dirtylog on 1")
    assert bits(world, EPT_D) == []
    assert len(bits(world, W)) == 6
    world.ok(f"write {PHYSICAL + BIG + 0x1000:#x} 2")
    assert bits(world, EPT_D) == [1], "the processor sets it, and reports the page"
    kvm_arch_mmu_enable_log_dirty_pt_masked(world.kvm, slot(world), 0, 0b10)
    assert bits(world, EPT_D) == []
    assert not kvm_tdp_mmu_clear_dirty_slot(world.kvm, slot(world)), "nothing left"


def test_with_pml_huge_pages_are_write_protected_all_the_same() -> None:
    world = ept_world("param kvm eager_page_split=N", "slot 1 0x10000000 8M huge2m")
    world.ok(f"write {PHYSICAL + BIG:#x} 1")
    assert world.spte(BIG) & (PS | W | EPT_D) == PS | W | EPT_D
    world.ok("dirtylog on 1")
    assert world.spte(BIG) & (PS | W | EPT_D) == PS


# -- initially all set ------------------------------------------------------------------------------------


@pytest.mark.parametrize("eager", ["Y", "N"])
def test_clearing_splits_or_protects_the_huge_pages_of_the_mask(eager: str) -> None:
    world = huge_world(f"param kvm eager_page_split={eager}", "cap 168 3")
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok("dirtylog on 1")
    assert world.kvm.stat.remote_tlb_flush_requests == requests
    assert world.spte(BIG) & (PS | W) == PS | W
    world.ok("cleardirty 1 0 64")
    assert world.spte(BIG + 0x200000) & (PS | W) == PS | W
    if eager == "Y":
        assert not world.spte(BIG) & (PS | W)
        assert world.spte(BIG + 0x40000) & W, "not in the mask"
    else:
        assert world.spte(BIG) & (PS | W | SPTE_MMU_WRITABLE) == PS
