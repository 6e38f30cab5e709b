"""Leaf tables, or nested ones, that never get out of sync: the baseline for telling bugs apart."""

import pytest
from kvm.nested_world import DATA, nested_text, pt
from kvm.world import World, names

from shadowmmu.x86.bits import W

WINDOW, TABLE = 0x7F0000000000, 0x4000
EDIT = f"write {WINDOW:#x} 0x801067"
"""The guest's entry for 0x400000 names the page at 0x801000 from now on."""


def edited(unsync: str, mode: str = "long4") -> World:
    """A guest with a window on its leaf table, both used."""
    world = World(
        mode,
        "map 0x1000 0x400000 0x800000 0x67 n=2",
        f"map 0x1000 {WINDOW:#x} {TABLE:#x} 0x67",
        design={"unsync": unsync},
    )
    world.ok("write 0x400000 1", "write 0x401000 2")
    return world


def test_a_leaf_table_gets_out_of_sync_until_a_flush() -> None:
    world = edited("leaf")
    events = names(world.ok(EDIT))
    assert "kvm_mmu_unsync_page" in events
    assert "kvm_emulate_insn" not in events
    assert world.page(4, 1).unsync
    assert world.stats["mmu_pte_write"] == 0
    assert world.spte(WINDOW) & W
    assert world.do("read 0x400000").result["value"] == "0x1", "the old page"
    world.ok("invlpg 0x400000")
    assert world.do("read 0x400000").result["value"] == "0x2"


def test_or_every_write_to_it_is_emulated_and_seen_at_once() -> None:
    world = edited("never")
    for n in range(5):
        events = names(world.ok(EDIT))
        assert "kvm_mmu_unsync_page" not in events
        assert "kvm_emulate_insn" in events
        assert world.stats["mmu_pte_write"] == n + 1
    assert not world.page(4, 1).unsync
    assert world.page(1, 4).unsync_children == 0
    assert world.stats["mmu_flooded"] == 0, "writes to leaf tables are no flood"
    assert not world.spte(WINDOW) & W
    assert world.do("read 0x400000").result["value"] == "0x2", "without a flush"


def test_a_flush_has_nothing_to_sync() -> None:
    world = edited("never")
    world.ok(EDIT)
    assert "kvm_mmu_sync_page" not in names(world.ok("cr3 0x1000"))


def test_the_table_is_writable_again_when_its_page_goes() -> None:
    world = edited("never")
    world.ok("write 0x400000 1", EDIT)
    world.ok(f"write {WINDOW + 3:#x} 0 size=2")
    assert world.pages(4, 1) == [], "a write that is none of an entry"
    world.ok(f"write {WINDOW + 8:#x} 0x800067")
    assert world.spte(WINDOW) & W


@pytest.mark.parametrize("unsync", ["leaf", "never"])
def test_upper_tables_are_tracked_in_both(unsync: str) -> None:
    world = edited(unsync)
    shadowed = {sp.gfn: sp.level() for sp in world.pages() if sp.has_gptes()}
    upper = {gfn for gfn, level in shadowed.items() if level > 1}
    tracked = {gfn for slot in world.kvm.memslots for gfn, _ in slot.tracked()}
    assert upper < shadowed.keys()
    assert tracked == (upper if unsync == "leaf" else shadowed.keys())


def test_only_nested_tables_stay_write_protected() -> None:
    assert "kvm_mmu_unsync_page" in names(edited("not_nested").ok(EDIT)), "the guest is no hypervisor"
    for unsync, emulated in (("leaf", False), ("not_nested", True), ("never", True)):
        world = World.of(nested_text(), design={"unsync": unsync})
        world.ok("nop", f"l2read {DATA:#x}")
        world.do("l2exit")
        events = names(world.ok(pt(0, DATA + 0x1067)))
        assert ("kvm_mmu_unsync_page" in events) != emulated
        assert world.stats["mmu_pte_write"] == emulated
