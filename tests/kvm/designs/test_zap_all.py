"""Mail 002, patch 6: zapping all pages, by generation in steps or by a walk under one hold of mmu_lock."""

import pytest
from kvm.designs.side_by_side import PAGING
from kvm.world import World, names

from shadowmmu.kvm.bits import ROLE_INVALID
from shadowmmu.kvm.pages.zap import kvm_mmu_start_zap_all_fast
from shadowmmu.kvm.pages.zap_all import kvm_mmu_zap_all, zap_all

GVA, PAGES = 0x40000000, 30
SHADOW = pytest.mark.parametrize("way", ["npt=0", "npt=1 tdp_mmu=0"])
WAYS = pytest.mark.parametrize("way", PAGING)
BOTH = pytest.mark.parametrize("value", ["generation", "walk"])


def many_pages(value: str, way: str = "npt=0", *setup: str) -> World:
    """A guest with memory in slot 1, mapped by many leaf tables of the shadow."""
    world = World(
        "long4", *PAGING[way], "vcpus 2", "slot 1 0x10000000 64M", *setup, "tramp 0x100000",
        f"map 0x1000 {GVA:#x} 0x10000000 0x67 n={PAGES} stride=0x200000",
        design={"zap_all": value},
    )  # fmt: skip
    for n in range(PAGES):
        world.quick(f"write {GVA + (n << 21):#x} {n + 1}")
    world.ok("@1 nop")
    return world


@SHADOW
def test_by_generation_the_oldest_go_first(way: str) -> None:
    world = many_pages("generation", way)
    pages, generation = world.pages(), world.kvm.mmu_valid_gen
    events = world.ok("delslot 1")
    assert names(events)[0] == "kvm_mmu_zap_all_fast"
    assert [event.gfn for event in events[1:]] == [sp.gfn for sp in reversed(pages)]
    assert world.kvm.mmu_valid_gen != generation


@SHADOW
def test_by_a_walk_the_newest_go_first_and_nothing_is_obsolete(way: str) -> None:
    world = many_pages("walk", way)
    pages, generation = world.pages(), world.kvm.mmu_valid_gen
    events = world.ok("delslot 1")
    assert "kvm_mmu_zap_all_fast" not in names(events)
    assert [event.gfn for event in events] == [sp.gfn for sp in pages]
    assert world.kvm.mmu_valid_gen == generation
    assert world.pages() == []


def test_only_by_generation_others_come_in_between() -> None:
    """A vCPU that runs after ten pages has its new pages kept; the walk leaves no moment for that."""
    world = many_pages("generation")
    zap = kvm_mmu_start_zap_all_fast(world.kvm)
    breaks = 0
    while zap.step():
        breaks += 1
        world.quick(f"read {GVA:#x}")
    assert breaks == (PAGES + 8) // 10
    assert world.is_mapped(GVA)
    world = many_pages("walk")
    kvm_mmu_zap_all(world.kvm)
    assert world.pages() == []


@BOTH
@WAYS
def test_every_vcpu_gets_a_root_anew(value: str, way: str) -> None:
    world = many_pages(value, way)
    world.ok("cr3 0x100000", "cr3 0x1000")
    zap_all(world.kvm)
    assert all(
        sp.role & ROLE_INVALID for sp in world.kvm.owners if sp and sp.root_count and not sp.tdp_mmu_page
    )
    world.ok("nop", "@1 nop")
    world.ok(f"read {GVA:#x}", f"@1 read {GVA:#x}")
    assert not any(sp.role & ROLE_INVALID for sp in world.kvm.owners if sp)
    assert world.stats["pages_4k"] < PAGES


@BOTH
@WAYS
def test_a_slot_is_deleted_and_comes_back(value: str, way: str) -> None:
    world = many_pages(value, way)
    world.ok("delslot 1")
    for vcpu in ("", "@1 "):
        assert world.do(f"{vcpu}read {GVA + 0x200000:#x}").result["mmio"]
    world.ok("slot 1 0x10000000 64M keep")
    for vcpu in ("", "@1 "):
        assert world.do(f"{vcpu}read {GVA + 0x200000:#x}").result["value"] == "0x2"


@BOTH
@WAYS
def test_a_slot_is_moved(value: str, way: str) -> None:
    world = many_pages(value, way)
    world.ok("movslot 1 0x20000000")
    assert world.do(f"read {GVA + 0x200000:#x}").result["mmio"]
    assert world.do(f"@1 read {GVA:#x}").result["mmio"]
    world.ok("movslot 1 0x10000000")
    assert world.do(f"@1 read {GVA + 0x200000:#x}").result["value"] == "0x2"
    assert world.machine.host_read(0x10001000, 8) == 2


@BOTH
def test_the_tdp_mmu_maps_nothing_afterwards(value: str) -> None:
    """By generation its roots go, and others are made; a walk empties them, and they stay."""
    world = many_pages(value, "npt=1 tdp_mmu=1")
    roots = list(world.kvm.tdp_mmu_roots)
    zap_all(world.kvm)
    assert (world.kvm.tdp_mmu_pages, world.stats["pages_4k"]) == (0, 0)
    world.ok("nop", "@1 nop")
    assert (world.kvm.tdp_mmu_roots == roots) == (value == "walk")
