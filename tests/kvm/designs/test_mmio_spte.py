"""Mail 002, patches 4 and 7: MMIO by SPTEs with a reserved bit, and what makes those stale."""

from collections.abc import Mapping

import pytest
from kvm.designs.side_by_side import PAGING
from kvm.world import World, names

from shadowmmu.kvm.spte.mmio import get_mmio_spte_generation, is_mmio_spte
from shadowmmu.x86.bits import PFERR_RSVD

GVA, HOLE, DATA = 0x400000, 0xD0000000, 0x600000
BOTH = pytest.mark.parametrize("value", ["yes", "no"])
WAYS = pytest.mark.parametrize("way", PAGING)


def mmio_world(design: Mapping[str, str], way: str = "npt=0") -> World:
    """A guest with four pages of MMIO at GVA and memory at DATA; the first of each was read."""
    world = World(
        "long4",
        *PAGING[way],
        f"map 0x1000 {GVA:#x} {HOLE:#x} 0x67 n=4",
        f"map 0x1000 {DATA:#x} 0x800000 0x67",
        design=design,
    )
    world.ok(f"read {GVA:#x}", f"read {DATA:#x}")
    return world


def mmio_sptes(world: World) -> list[int]:
    """Every MMIO SPTE that there is."""
    tables = [sp for sp in world.kvm.owners if sp is not None]
    return [spte for sp in tables for spte in world.kvm.read_table(sp.hpa) if is_mmio_spte(world.kvm, spte)]


# -- mmio_caching ----------------------------------------------------------------------------------------


@WAYS
def test_with_mmio_sptes_the_error_code_says_mmio(way: str) -> None:
    world = mmio_world({"vcpu_mmio_cache": "no"}, way)
    assert len(mmio_sptes(world)) == 1
    taken = world.stats["pf_taken"]
    events = world.ok(f"read {GVA:#x}")
    (fault,) = (event for event in events if event.name == "kvm_page_fault")
    assert fault.error_code & PFERR_RSVD
    assert "handle_mmio_page_fault" in names(events)
    assert world.stats["pf_taken"] == taken


@WAYS
def test_without_each_access_is_a_not_present_fault(way: str) -> None:
    world = mmio_world({"vcpu_mmio_cache": "no", "mmio_caching": "no"}, way)
    for n in range(1, 4):
        events = world.ok(f"read {GVA:#x}")
        (fault,) = (event for event in events if event.name == "kvm_page_fault")
        assert not fault.error_code & (PFERR_RSVD | 1)
        assert not {"mark_mmio_spte", "check_mmio_spte", "handle_mmio_page_fault"} & set(names(events))
        assert world.stats["pf_emulate"] == n + 1
    assert mmio_sptes(world) == []
    assert world.stats["pf_mmio_spte_created"] == 0


def test_the_slow_way_walks_the_guest_s_tables_once_more() -> None:
    walks = {}
    for value in ("yes", "no"):
        world = mmio_world({"vcpu_mmio_cache": "no", "mmio_caching": value})
        walks[value] = names(world.ok(f"read {GVA:#x}")).count("kvm_mmu_pagetable_walk")
    assert walks["no"] == walks["yes"] + 1


@BOTH
def test_rights_of_mmio_are_the_guest_s(value: str) -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} {HOLE:#x} 0x61", design={"mmio_caching": value})
    world.ok(f"read {GVA:#x}")
    result = world.do(f"uread {GVA:#x}").result
    assert (result["vector"], result["error_code"]) == (14, "0x5")


# -- vcpu_mmio_cache -------------------------------------------------------------------------------------


@BOTH
def test_the_vcpu_s_last_access(value: str) -> None:
    """It spares the walk of the shadow that finds the SPTE, and the emulator's of the guest's tables."""
    world = mmio_world({"vcpu_mmio_cache": value})
    events = names(world.ok(f"read {GVA:#x}"))
    known = value == "yes"
    assert ("check_mmio_spte" in events) == (not known)
    assert ("vcpu_match_mmio" in events) == known
    assert events.count("kvm_mmu_pagetable_walk") == (1 if known else 2), "one finds the instruction"


@BOTH
def test_a_read_leaves_the_guest_s_dirty_bit(value: str) -> None:
    """Only what is not MMIO is tried again after unprotecting, which walks the tables as a write does."""
    line = f"map 0x1000 {GVA:#x} {HOLE:#x} 0x27"
    world = World("pae", line, design={"vcpu_mmio_cache": value}, kernel="6.1.176")
    for _ in range(2):
        assert world.do(f"read {GVA:#x}").gptes == []


# -- mmio_invalidation -----------------------------------------------------------------------------------


@WAYS
def test_by_generation_mmio_sptes_stay_and_are_stale(way: str) -> None:
    world = mmio_world({}, way)
    (old,) = mmio_sptes(world)
    zapped = world.stats["mmu_shadow_zapped"]
    world.ok("slot 5 0x50000000 64K")
    assert mmio_sptes(world) == [old]
    assert world.stats["mmu_shadow_zapped"] == zapped
    events = world.ok(f"read {GVA:#x}")
    (check,) = (event for event in events if event.name == "check_mmio_spte")
    assert check.kvm_gen != check.spte_gen
    assert get_mmio_spte_generation(world.kvm, mmio_sptes(world)[0]) == check.kvm_gen


@pytest.mark.parametrize("way", ["npt=0", "npt=1 tdp_mmu=0"])
def test_by_a_walk_the_pages_that_hold_one_are_zapped(way: str) -> None:
    world = mmio_world({"mmio_invalidation": "walk"}, way)
    pages, zapped = world.pages(), world.stats["mmu_shadow_zapped"]
    holding = [
        sp for sp in pages if any(is_mmio_spte(world.kvm, spte) for spte in world.kvm.read_table(sp.hpa))
    ]
    events = names(world.ok("slot 5 0x50000000 64K"))
    assert events.count("kvm_mmu_prepare_zap_page") == world.stats["mmu_shadow_zapped"] - zapped == 1
    assert [sp for sp in pages if not sp.on_list] == holding
    assert mmio_sptes(world) == []
    assert world.is_mapped(0x800000 if "npt=1" in way else DATA), "other pages stay"
    events = names(world.ok(f"read {GVA:#x}"))
    assert "check_mmio_spte" not in events
    assert "mark_mmio_spte" in events


def test_a_walk_over_the_tdp_mmu_empties_the_sptes_only() -> None:
    world = mmio_world({"mmio_invalidation": "walk"}, "npt=1 tdp_mmu=1")
    tables = world.kvm.tdp_mmu_pages
    assert mmio_sptes(world)
    world.ok("slot 5 0x50000000 64K")
    assert mmio_sptes(world) == []
    assert world.kvm.tdp_mmu_pages == tables
    assert world.is_mapped(0x800000)
    assert "check_mmio_spte" not in names(world.ok(f"read {GVA:#x}"))


@WAYS
@pytest.mark.parametrize("invalidation", ["generation", "walk"])
@pytest.mark.parametrize("line", [f"slot 5 {HOLE:#x} 64K", f"movslot 5 {HOLE:#x}"])
def test_memory_comes_where_there_was_none(way: str, invalidation: str, line: str) -> None:
    """A new slot, and one that is moved there: the next access is to memory."""
    before = "slot 5 0x50000000 64K" if line.startswith("mov") else "nop"
    world = mmio_world({"mmio_invalidation": invalidation}, way)
    world.ok(before, f"read {GVA:#x}", line, f"write {GVA:#x} 7")
    assert world.do(f"read {GVA:#x}").result["value"] == "0x7"
    assert world.machine.host_read(HOLE, 8) == 7


def test_flags_and_deleting_do_not_walk() -> None:
    """Only a slot that is made or moved puts memory where there was none."""
    world = mmio_world({"mmio_invalidation": "walk"})
    world.ok("slot 5 0x50000000 64K", f"read {GVA:#x}", "dirtylog on 5")
    assert mmio_sptes(world)
    assert "check_mmio_spte" not in names(world.ok(f"read {GVA:#x}"))


# -- mmio_generation_bits --------------------------------------------------------------------------------


@WAYS
@pytest.mark.parametrize("bits", [3, 4, 7])
def test_a_narrow_generation_wraps_and_zaps_everything(way: str, bits: int) -> None:
    """Generations are even, and every change of a slot's flags takes one: the one that comes to 0 zaps."""
    world = mmio_world({"mmio_generation_bits": str(bits)}, way)
    changes = 2 << bits
    zaps = 0
    for n in range(changes):
        events = names(world.ok(f"dirtylog {'off' if n % 2 else 'on'} 0"))
        wrapped = world.kvm.memslots_generation % (1 << bits) == 0
        assert ("kvm_mmu_zap_all_fast" in events) == wrapped
        assert not wrapped or not mmio_sptes(world)
        zaps += wrapped
        world.ok(f"read {GVA:#x}")
        assert {get_mmio_spte_generation(world.kvm, spte) for spte in mmio_sptes(world)} == {
            world.kvm.memslots_generation % (1 << bits)
        }
    assert zaps == 4, "twice as many changes as generations, each of two"


@pytest.mark.parametrize("invalidation", ["generation", "walk"])
def test_what_carries_no_generation_does_not_wrap(invalidation: str) -> None:
    world = mmio_world({"mmio_generation_bits": "3", "mmio_invalidation": invalidation})
    seen = [name for n in range(8) for name in names(world.ok(f"dirtylog {'off' if n % 2 else 'on'} 0"))]
    assert seen.count("kvm_mmu_zap_all_fast") == (2 if invalidation == "generation" else 0)


def test_nineteen_bits_do_not_wrap_soon() -> None:
    world = mmio_world({})
    seen = [name for n in range(40) for name in names(world.ok(f"dirtylog {'off' if n % 2 else 'on'} 0"))]
    assert "kvm_mmu_zap_all_fast" not in seen
