"""Mail 002, patch 5: write faults fixed without mmu_lock."""

import pytest
from kvm.designs.side_by_side import PAGING
from kvm.world import World, names

GPA = 0x2000000
MODES = {
    "a guest without paging": ("nopaging", PAGING["npt=0"], GPA),
    "nested paging, shadow MMU": ("long4", PAGING["npt=1 tdp_mmu=0"], 0x400000),
    "nested paging, TDP MMU": ("long4", PAGING["npt=1 tdp_mmu=1"], 0x400000),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("value", "fast"), [("yes", 1), ("no", 0)])
def test_a_write_to_a_page_that_logs(mode: str, value: str, fast: int) -> None:
    """Fast: an event of its own, no SPTE is built. Without: a fault as any other, with the same end."""
    guest, parameters, gva = MODES[mode]
    setup = [*parameters, f"slot 1 {GPA:#x} 1M"]
    if guest != "nopaging":
        setup.append(f"map 0x1000 {gva:#x} {GPA:#x} 0x67 n=4")
    world = World(guest, *setup, design={"fast_page_fault": value})
    world.ok(f"write {gva:#x} 1", "dirtylog on 1")
    before = world.stats
    events = names(world.ok(f"write {gva:#x} 2"))
    assert ("fast_page_fault" in events) == bool(fast)
    assert ("kvm_mmu_set_spte" in events) == (not fast)
    assert world.stats["pf_fast"] - before["pf_fast"] == fast
    assert world.stats["pf_fixed"] - before["pf_fixed"] == 1
    assert world.do("getdirty 1").result["dirty"] == [f"{GPA:#x}"]


@pytest.mark.parametrize("value", ["yes", "no"])
def test_paging_guests_of_the_shadow_mmu_have_none(value: str) -> None:
    world = World("long4", f"slot 1 {GPA:#x} 1M", f"map 0x1000 0x400000 {GPA:#x} 0x67",
                  design={"fast_page_fault": value})  # fmt: skip
    world.ok("write 0x400000 1", "dirtylog on 1")
    assert "fast_page_fault" not in names(world.ok("write 0x400000 2"))
