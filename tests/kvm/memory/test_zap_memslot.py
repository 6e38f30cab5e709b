"""Deleting or moving a slot zaps everything, or with KVM_X86_QUIRK_SLOT_ZAP_ALL off what is the slot's."""

import pytest
from kvm.world import World, names

GVA, SLOT = 0x40000000, 0x10000000
PAGING = {
    "npt=0": [], "tdp": ["param kvm_amd npt=1"], "direct": ["param kvm_amd npt=1", "param kvm tdp_mmu=0"],
}  # fmt: skip


def slot_world(*setup: str, quirk: bool = False, kernel: str = "6.12.111") -> World:
    world = World(
        "long4", *setup, f"slot 1 {SLOT:#x} 4M", *([] if quirk else ["cap 116 128"]),
        f"map 0x1000 {GVA:#x} {SLOT:#x} 0x67 n=8", "map 0x1000 0x400000 0x800000 0x67 n=8", kernel=kernel,
    )  # fmt: skip
    world.ok(f"write {GVA:#x} 1", "write 0x400000 2")
    return world


@pytest.mark.parametrize("paging", PAGING)
@pytest.mark.parametrize("line", ["delslot 1", "movslot 1 0x18000000"])
def test_only_the_slot_s_mappings_are_zapped(paging: str, line: str) -> None:
    world = slot_world(*PAGING[paging])
    generation, requests = world.kvm.mmu_valid_gen, world.kvm.stat.remote_tlb_flush_requests
    pages = world.kvm.stat.pages_4k
    played = world.do(line)
    assert played.result == {"outcome": "ok"}
    assert "kvm_mmu_zap_all_fast" not in names(played.events)
    assert world.kvm.mmu_valid_gen == generation
    assert 0 < world.kvm.stat.pages_4k < pages
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    faults = world.stats["pf_taken"]
    assert world.do("read 0x400000").result["value"] == "0x2"
    assert world.stats["pf_taken"] == faults, "it is still mapped"
    assert "mmio" in world.do(f"read {GVA:#x}").result
    world.check()


@pytest.mark.parametrize("paging", PAGING)
def test_with_the_quirk_everything_is_zapped(paging: str) -> None:
    world = slot_world(*PAGING[paging], quirk=True)
    assert "kvm_mmu_zap_all_fast" in names(world.ok("delslot 1"))


def test_a_kernel_without_the_quirk_zaps_everything() -> None:
    assert "kvm_mmu_zap_all_fast" in names(slot_world(kernel="6.1.176").ok("delslot 1"))


def test_pages_that_shadow_tables_in_the_slot_go_with_it() -> None:
    """Their accounting is the slot's: what lives on would count down in memory that is freed."""
    world = World(
        "long4", f"slot 1 {SLOT:#x} 2M", "cap 213 128", f"alloc {SLOT:#x}",
        f"map 0x1000 {GVA:#x} 0x800000 0x67 n=8", "map 0x1000 0x50000000 0x900000 0x67 n=2",
    )  # fmt: skip
    world.ok(f"read {GVA:#x}", "read 0x50000000")
    inside = [sp for sp in world.pages() if SLOT >> 12 <= sp.gfn < SLOT + (2 << 20) >> 12]
    assert len(inside) > 2
    world.ok("delslot 1")
    assert not [sp for sp in world.pages() if sp in inside]
    world.check()
    world.ok(f"slot 1 {SLOT:#x} 2M keep")
    assert world.do(f"read {GVA:#x}").result["outcome"] == "ok"


def test_a_slot_that_nothing_maps_needs_no_flush() -> None:
    world = slot_world()
    world.ok("slot 2 0x30000000 1M")
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok("delslot 2")
    assert world.kvm.stat.remote_tlb_flush_requests == requests
