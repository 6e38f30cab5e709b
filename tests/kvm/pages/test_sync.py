"""Syncing: what a leaf page keeps of its SPTEs, when, and what is flushed (specification 8.4 to 8.6, 10)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import SPTE_EMPTY

WINDOW = 0x7F0000000000
GVA = 0x400000


def entry(n: int) -> int:
    """Where the gpte of page n is in the window."""
    return WINDOW + 8 * n


@pytest.fixture
def world() -> World:
    """Eight pages from 0x400000 on, their table 0x4000 unsync, all mapped."""
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67 n=8", f"map 0x1000 {WINDOW:#x} 0x4000 0x67")
    world.ok(f"write {GVA:#x} 1", f"write {entry(100):#x} 0")
    assert world.page(4, 1).unsync
    return world


SYNC = "cr3 0x1000"


@pytest.mark.parametrize(
    ("gpte", "kept"),
    [
        (0x800067, True),
        (0, False),
        (0x800066, False),
        (0x800047, False),  # not accessed
        (0x801067, False),  # another frame
        (0x800067 | 1 << 45, False),  # reserved
        (0x800065, True),
        (0x800027, True),
        (0x800063, True),
        (0x800067 | 1 << 63, True),
    ],
)
def test_an_spte_stays_if_the_frame_is_the_same(world: World, gpte: int, kept: bool) -> None:
    world.ok(f"write {entry(0):#x} {gpte:#x}", SYNC)
    assert world.is_mapped(GVA) == kept
    if not kept:
        assert world.spte(GVA) == SPTE_EMPTY


def test_rights_follow_the_gpte(world: World) -> None:
    """A rebuilt SPTE has lost A, and D with the W it had before; one of the same rights is left alone."""
    before = world.spte(GVA + 0x3000)
    for n, flags in ((0, 0x65), (1, 0x63), (2, 0x67 | 1 << 63)):
        world.ok(f"write {entry(n):#x} {0x800000 + 0x1000 * n | flags:#x}")
    world.ok(SYNC)
    data = world.hpa(0x800000)
    assert world.spte(GVA) == data | 0xA05
    assert world.spte(GVA + 0x1000) == data + 0x1000 | 0xE03
    assert world.spte(GVA + 0x2000) == data + 0x2000 | 0xE07 | 1 << 63
    assert world.spte(GVA + 0x3000) == before


def test_sync_never_maps_anew(world: World) -> None:
    world.ok(f"write {entry(8):#x} 0x808067", SYNC)
    assert not world.is_mapped(GVA + 0x8000)


def test_sync_emits_no_set_spte(world: World) -> None:
    world.ok(f"write {entry(0):#x} 0x800065")
    events = world.ok(SYNC)
    assert "kvm_mmu_sync_page" in names(events)
    assert "kvm_mmu_set_spte" not in names(events)[: names(events).index("kvm_mmu_sync_page") + 1]


@pytest.mark.parametrize(("gpte", "flushes"), [(0x800067, 1), (0x801067, 2), (0x800065, 2), (0x0, 2)])
def test_a_flush_follows_protection_and_another_one_lost_rights(
    world: World, gpte: int, flushes: int
) -> None:
    world.ok(f"write {entry(0):#x} {gpte:#x}")
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok(SYNC)
    assert world.kvm.stat.remote_tlb_flush_requests == requests + flushes


def test_a_new_right_needs_no_flush_but_gets_its_page_rebuilt() -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x61", f"map 0x1000 {WINDOW:#x} 0x4000 0x67")
    world.ok(f"read {GVA:#x}", f"write {entry(100):#x} 0", f"write {entry(0):#x} 0x800067")
    world.ok(SYNC)
    assert world.spte(GVA) & 0xFFF == 0xE47


def test_a_page_that_maps_a_shadowed_table_stays_read_only() -> None:
    """can_unsync is false in a sync: W for a frame that is a table comes with the next write fault."""
    window_table = 0x7000
    world = World(
        "long4",
        f"map 0x1000 {GVA:#x} 0x800000 0x67",
        f"map 0x1000 {WINDOW:#x} 0x4000 0x65",
        f"map 0x1000 0x600000 {window_table:#x} 0x67",
    )
    world.ok(f"read {WINDOW:#x}", f"read {GVA:#x}", "write 0x600800 0", "write 0x600000 0x4067")
    assert world.page(window_table >> 12, 1).unsync
    world.ok(SYNC)
    assert world.spte(WINDOW) & 0x806 == 0x804
    assert not world.page(4, 1).unsync
    world.ok(f"write {WINDOW + 0x900:#x} 0")
    assert world.page(4, 1).unsync


def test_finding_an_unsync_page_syncs_it_but_leaves_it_unsync(world: World) -> None:
    """3.2: no protection, no event; only what is stale goes. A new directory entry needs the page again."""
    world.ok(f"write {entry(0):#x} 0x801067", f"write {entry(1):#x} 0x801065")
    assert world.is_mapped(GVA)
    world.ok(f"hostwrite 0x3028 {0x4027:#x} size=8")
    events = world.ok(f"read {GVA + 0x602000:#x}")
    (found,) = (event for event in events if event.name == "kvm_mmu_get_page")
    assert (found.gfn, found.created) == (4, 0)
    assert world.page(4, 1).unsync
    assert "kvm_mmu_sync_page" not in names(events)
    assert world.spte(GVA) == world.hpa(0x801000) | 0xE47, "prefetched anew, from the gpte as it is now"
    assert world.spte(GVA + 0x1000) & 0x402 == 0
    assert world.spte(entry(0)) & 0x402 == 0x402


@pytest.mark.parametrize("line", [f"invlpg {GVA:#x}", f"invlpg {GVA | 0xFFF:#x}"])
def test_invlpg_syncs_one_spte_and_leaves_the_page_unsync(world: World, line: str) -> None:
    world.ok(f"write {entry(0):#x} 0x801067", f"write {entry(1):#x} 0")
    requests = world.kvm.stat.remote_tlb_flush_requests
    events = world.ok(line)
    assert not world.is_mapped(GVA)
    assert world.is_mapped(GVA + 0x1000), "another address"
    assert world.page(4, 1).unsync
    assert "kvm_mmu_sync_page" not in names(events)
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    assert world.stats["invlpg"] == 1


def test_invlpg_of_what_is_in_sync_does_nothing() -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67")
    world.ok(f"read {GVA:#x}")
    requests, spte = world.kvm.stat.remote_tlb_flush_requests, world.spte(GVA)
    world.ok(f"invlpg {GVA:#x}", "invlpg 0x8000000000000000")
    assert world.stats["invlpg"] == 1, "the emulator does not pass on what is not canonical"
    assert (world.kvm.stat.remote_tlb_flush_requests, world.spte(GVA)) == (requests, spte)


def test_invlpg_reaches_previous_roots() -> None:
    """10.2: the page is synced below every cached root: a global mapping may be used under any of them."""
    world = World(
        "long4",
        f"map 0x1000 {GVA:#x} 0x800000 0x67",
        f"map 0x1000 {WINDOW:#x} 0x4000 0x67",
        "tramp 0x9000",
        "pt 0x9000 0 0x2027",
    )
    world.ok(f"read {GVA:#x}", f"write {entry(100):#x} 0", f"write {entry(0):#x} 0x801067", "cr3 0x9000")
    assert world.page(4, 1).unsync
    world.ok(f"invlpg {GVA:#x}")
    world.ok("cr3 0x1000")
    assert world.do(f"read {GVA:#x}").result["outcome"] == "ok"


def test_a_sync_request_without_unsync_pages_does_nothing() -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67")
    world.ok(f"read {GVA:#x}")
    requests = world.kvm.stat.remote_tlb_flush_requests
    events = world.ok(SYNC)
    assert not {"kvm_mmu_sync_page", "kvm_mmu_get_page"} & set(names(events))
    assert world.kvm.stat.remote_tlb_flush_requests == requests


def test_a_page_of_another_role_is_zapped_instead() -> None:
    """8.4: a page made under another CR0.WP cannot be synced by a vCPU of this one."""
    world = World(
        "long4", "vcpus 2", f"map 0x1000 {GVA:#x} 0x800000 0x67", f"map 0x1000 {WINDOW:#x} 0x4000 0x67"
    )
    world.ok(f"read {GVA:#x}", "@1 nop", "@1 cr0 0x80000033", f"@1 read {GVA:#x}", f"write {entry(100):#x} 0")
    assert len(world.pages(4, 1)) == 2
    assert all(sp.unsync for sp in world.pages(4, 1))
    world.ok("@1 cr3 0x1000")
    assert sum(bool(sp.unsync) for sp in world.pages(4, 1)) == 1


def test_mmio_sptes_are_synced_too() -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0xd0000000 0x67 n=2", f"map 0x1000 {WINDOW:#x} 0x4000 0x67")
    world.ok(f"read {GVA:#x}", f"read {GVA + 0x1000:#x}", f"write {entry(100):#x} 0")
    world.ok(f"write {entry(0):#x} 0xd0000065", f"write {entry(1):#x} 0xd0005067")
    events = world.ok(SYNC)
    assert names(events).count("mark_mmio_spte") == 1
    assert world.spte(GVA) & 7 == 5
    assert world.spte(GVA + 0x1000) == SPTE_EMPTY


def test_pages_below_a_found_upper_page_are_synced_before_it_is_linked() -> None:
    """5.10 4e: what becomes reachable is in sync."""
    world = World(
        "long4",
        f"map 0x1000 {GVA:#x} 0x800000 0x67",
        "pt 0x2000 1 0x9027",
        "map 0x1000 0x8000000000 0x900000 0x67",
        f"map 0x1000 {WINDOW:#x} 0x4000 0x67",
        "pt 0x1000 2 0x2027",
    )
    world.ok(f"read {GVA:#x}", f"write {entry(100):#x} 0", f"write {entry(0):#x} 0x801067")
    assert world.page(4, 1).unsync
    events = world.ok(f"read {GVA + 0x10000000000:#x}")
    assert "kvm_mmu_sync_page" in names(events)
    assert not world.page(4, 1).unsync
