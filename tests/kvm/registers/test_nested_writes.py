"""L1 writes its nested tables: protection, sync, zaps."""

import pytest
from kvm.nested_world import L2_HUGE, NPT, PT, WINDOW, nested_spte, nested_world, pt

from shadowmmu.kvm.bits import (
    ROLE_GUEST_MODE,
    SPTE_MMU_WRITABLE,
)
from shadowmmu.x86.bits import P, W


@pytest.mark.parametrize("tdp_mmu", [0, 1])
def test_l1_s_tables_are_write_protected_in_both_mmus(tdp_mmu: int) -> None:
    """L1 reaches them through the TDP MMU (or direct shadow pages), L2 through an alias in its own tables."""
    pd = NPT + 0x2000
    world = nested_world(f"npt pt {PT:#x} 3 {pd | 0x67:#x}", tdp_mmu=tdp_mmu)
    world.ok(f"write {WINDOW + 0x2800:#x} 0")
    l1_spte = world.sptep(pd)
    writable = W | SPTE_MMU_WRITABLE
    assert world.kvm.read_spte(l1_spte) & writable == writable
    world.ok("l2read 0x803000")
    for spte in (world.kvm.read_spte(l1_spte), nested_spte(world, 0x803000)):
        assert spte & P
        assert not spte & writable
    emulated = world.stats["insn_emulation"]
    world.ok("l2write 0x803800 0x67")
    assert world.stats["insn_emulation"] == emulated + 1
    assert world.vcpu.guest_mode, "L2 may edit the tables it runs on, if L1 lets it"


def test_a_synced_table_is_not_for_the_fast_path() -> None:
    """The sync takes MMU-writable too: L1's next write tries the fast path in vain, then unsyncs again."""
    world = nested_world()
    world.ok("l2read 0x800000")
    world.do("l2exit")
    world.ok(pt(1, 0x801067))
    sptep = world.sptep(PT)
    assert world.kvm.read_spte(sptep) & (W | SPTE_MMU_WRITABLE) == W | SPTE_MMU_WRITABLE
    assert world.page(PT >> 12, 1).unsync
    world.ok("l2nop")
    assert not world.page(PT >> 12, 1).unsync
    assert not world.kvm.read_spte(sptep) & (W | SPTE_MMU_WRITABLE)
    world.do("l2exit")
    played = world.do(pt(1, 0x801067))
    assert [event.fixed for event in played.events if event.name == "fast_page_fault"] == [False]
    assert world.page(PT >> 12, 1).unsync


def test_zapping_a_page_for_l2_takes_what_hung_below_it() -> None:
    """Flooded, it goes with all that lose their last parent, recursively; a write alone leaves an orphan."""
    world = nested_world()
    world.ok("l2read 0x800000", f"l2read {L2_HUGE:#x}")
    world.do("l2exit")
    below = [sp for sp in world.pages() if sp.role & ROLE_GUEST_MODE and sp.gfn != NPT >> 12]
    assert {(NPT >> 12) + n for n in (1, 2, 3)} <= {sp.gfn for sp in below}
    zapped = world.stats["mmu_shadow_zapped"]
    world.ok(f"write {WINDOW + 0x1000:#x} 0")
    assert world.stats["mmu_shadow_zapped"] == zapped
    assert not world.page((NPT >> 12) + 2, 2).parent_ptes
    assert world.page((NPT >> 12) + 3, 1).parent_ptes
    world.ok(f"write {WINDOW + 0x1000:#x} {NPT + 0x2000 | 0x27:#x}", "l2read 0x800000")
    world.do("l2exit")
    for _ in range(3):
        world.ok(f"write {WINDOW + 0x1800:#x} 0")
    assert world.stats["mmu_flooded"] == 1
    assert {sp.gfn for sp in world.pages() if sp.role & ROLE_GUEST_MODE} == {NPT >> 12}
    assert world.stats["mmu_shadow_zapped"] - zapped == len(below)


def test_a_table_of_two_levels_is_zapped_once_by_a_write_flood() -> None:
    """Its older page, of level 2, goes with the newer one, of level 3, below which it hangs: nothing zaps it
    again when its turn comes.
    """
    table = NPT + 0x7000
    world = nested_world(
        f"npt pt {NPT + 0x1000:#x} 2 {table | 0x67:#x}",
        f"npt pt 0x30000 0 {table | 0x67:#x}",
        f"npt pt {table:#x} 0 {NPT + 0x2000 | 0x67:#x}",
        f"npt pt {table:#x} 1 {table | 0x67:#x}",
        f"npt pt {table:#x} 3 0xf010e067",
    )
    world.ok("l2read 0x80004000")
    world.do("l2exit")
    world.ok("ncr3 0x30000", "l2read 0x40004000")
    world.do("l2exit")
    world.ok(f"write {WINDOW + 0x1010:#x} 0")
    assert [sp.level() for sp in world.kvm.hashed_pages(table >> 12) if sp.gfn == table >> 12] == [3, 2]
    world.ok(*[f"write {WINDOW + 0x7048:#x} {value:#x}" for value in (0, 0x1000, 0)])
    assert not [sp for sp in world.pages() if sp.gfn == table >> 12]
    assert world.stats["mmu_flooded"] == 1
    world.check()


def test_a_page_with_another_parent_stays() -> None:
    entry = NPT + 0x1000 | 0x27
    world = nested_world(f"npt pt 0x30000 0 {entry:#x}")
    world.ok("l2read 0x800000")
    world.do("l2exit")
    world.ok("ncr3 0x30000", "l2read 0x800000")
    world.do("l2exit")
    world.ok(f"write {WINDOW:#x} 0")
    assert world.page((NPT >> 12) + 1, 3).parent_ptes
    world.ok("l2read 0x800000")
