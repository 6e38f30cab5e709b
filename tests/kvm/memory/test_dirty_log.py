"""Dirty logging (sptes-and-logging 2)."""

import pytest
from kvm.world import World

GVA = 0x400000


@pytest.fixture
def world() -> World:
    world = World("long4", "slot 1 0x2000000 1M", f"map 0x1000 {GVA:#x} 0x2000000 0x67 n=200")
    world.ok(f"write {GVA:#x} 1", "dirtylog on 1")
    return world


def dirty(world: World, slot: int = 1) -> list[int]:
    """Numbers of the dirty pages."""
    return [(int(gpa, 16) - 0x2000000) >> 12 for gpa in world.do(f"getdirty {slot}").result["dirty"]]


def test_switching_it_on_takes_w_but_not_mmu_writable(world: World) -> None:
    assert world.spte(GVA) & 0xE02 == 0xE00
    assert dirty(world) == []


def test_switching_it_on_flushes_once() -> None:
    world = World("long4", "slot 1 0x2000000 1M")
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok("dirtylog on 1")
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1, "unconditionally"


def test_a_write_marks_its_page_and_a_read_none(world: World) -> None:
    world.ok(f"read {GVA + 0x3000:#x}", f"write {GVA + 0x5000:#x} 1", f"write {GVA + 0x64000:#x} 1")
    assert dirty(world) == [5, 100] or dirty(world) == []
    assert not world.spte(GVA + 0x5000) & 2


def test_reading_the_log_protects_the_pages_again(world: World) -> None:
    world.ok(f"write {GVA + 0x5000:#x} 1")
    assert world.spte(GVA + 0x5000) & 2
    requests = world.kvm.stat.remote_tlb_flush_requests
    assert dirty(world) == [5]
    assert world.spte(GVA + 0x5000) & 0xE02 == 0xE00
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    assert dirty(world) == []
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1, "nothing was dirty"
    world.ok(f"write {GVA + 0x5000:#x} 2")
    assert dirty(world) == [5]


def test_with_manual_protection_only_clearing_protects() -> None:
    world = World("long4", "cap 168 1", "slot 1 0x2000000 1M", f"map 0x1000 {GVA:#x} 0x2000000 0x67 n=200")
    world.ok("dirtylog on 1", f"write {GVA + 0x5000:#x} 1", f"write {GVA + 0x46000:#x} 1")
    requests = world.kvm.stat.remote_tlb_flush_requests
    assert dirty(world) == dirty(world) == [5, 70]
    assert world.spte(GVA + 0x5000) & 2
    assert world.kvm.stat.remote_tlb_flush_requests == requests
    world.ok("cleardirty 1 64 64")
    assert dirty(world) == [5]
    assert not world.spte(GVA + 0x46000) & 2
    assert world.spte(GVA + 0x5000) & 2
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    world.ok("cleardirty 1 64 64")
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1


@pytest.mark.parametrize(
    "line", ["cleardirty 1 1 64", "cleardirty 1 0 63", "cleardirty 1 0 512", "cleardirty 1 320 64"]
)
def test_clearing_is_by_whole_words_inside_the_slot(world: World, line: str) -> None:
    assert world.do(line).result == {"outcome": "error", "errno": "EINVAL"}


@pytest.mark.parametrize(("size", "pages"), [("300K", 75), ("256K", 64), ("512K", 128)])
def test_initially_all_set_protects_nothing_at_first(size: str, pages: int) -> None:
    world = World("long4", "cap 168 3", f"slot 1 0x2000000 {size}", f"map 0x1000 {GVA:#x} 0x2000000 0x67 n=8")
    world.ok(f"write {GVA:#x} 1")
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok("dirtylog on 1")
    assert world.spte(GVA) & 2
    assert world.kvm.stat.remote_tlb_flush_requests == requests
    assert dirty(world) == list(range(pages))
    world.ok(f"cleardirty 1 0 {pages}")
    assert not world.spte(GVA) & 2
    assert dirty(world) == []


def test_initially_all_set_protects_huge_pages_when_cleared() -> None:
    """2.6: huge SPTEs over the first and last page lose MMU-writable as well."""
    world = World(
        "long4",
        "cap 168 3",
        "slot 1 0x10000000 8M huge2m",
        f"map 0x1000 {GVA:#x} 0x10000000 0xe7 level=2 n=4",
    )
    for n in range(4):
        world.ok(f"write {GVA + 0x200000 * n:#x} 1")
    world.ok("dirtylog on 1", "cleardirty 1 512 64")
    assert [world.spte(GVA + 0x200000 * n) & 0x402 for n in range(4)] == [0x402, 0, 0x402, 0x402]


def test_a_logging_slot_is_mapped_small() -> None:
    world = World("long4", "slot 1 0x10000000 4M huge2m", f"map 0x1000 {GVA:#x} 0x10000000 0xe7 level=2")
    world.ok(f"write {GVA:#x} 1")
    assert world.level(GVA) == 2
    world.ok("dirtylog on 1")
    assert world.spte(GVA) & 0x402 == 0x400
    world.ok(f"write {GVA + 0x7000:#x} 1")
    assert world.level(GVA + 0x7000) == 1
    assert not world.is_mapped(GVA + 0x100000), "the huge SPTE is replaced by a table of one page"


def test_switching_it_off_collapses_direct_pages() -> None:
    """2.8: small SPTEs of direct pages go where a huge one is possible; others stay writable as they are."""
    world = World(
        "long4",
        "slot 1 0x10000000 4M huge2m",
        f"map 0x1000 {GVA:#x} 0x10000000 0xe7 level=2",
        "map 0x1000 0x800000 0x10200000 0x67 n=4",
    )
    world.ok("dirtylog on 1", f"write {GVA + 0x7000:#x} 1", "write 0x800000 1")
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok("dirtylog off 1")
    assert not world.is_mapped(GVA + 0x7000)
    assert world.is_mapped(0x800000), "an indirect page is never collapsed"
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    world.ok(f"write {GVA + 0x7000:#x} 2")
    assert world.level(GVA + 0x7000) == 2


def test_the_log_is_gone_when_it_is_switched_off(world: World) -> None:
    world.ok(f"write {GVA + 0x5000:#x} 1", "dirtylog off 1")
    assert world.do("getdirty 1").result == {"outcome": "error", "errno": "ENOENT", "dirty": []}
    world.ok("dirtylog on 1")
    assert dirty(world) == []


def test_the_guest_s_tables_get_dirty_by_accessed_and_dirty_bits() -> None:
    """2.7: the walker writes guest memory."""
    world = World("long4", "slot 1 0x2000000 1M", "alloc 0x2000000", f"map 0x1000 {GVA:#x} 0x800000 0x7")
    world.ok("dirtylog on 1", f"write {GVA:#x} 1")
    assert dirty(world) == [2]


def test_emulated_writes_get_dirty_too() -> None:
    world = World(
        "long4",
        "slot 1 0x2000000 1M",
        "alloc 0x2000000",
        f"map 0x1000 {GVA:#x} 0x800000 0x67",
        "map 0x1000 0x600000 0x2001000 0x67",
    )
    world.ok(f"read {GVA:#x}", "dirtylog on 1", "write 0x600800 0")
    assert dirty(world) == [1]


# -- fast faults -----------------------------------------------------------------------------------------


def test_without_paging_a_logged_page_is_fixed_without_the_lock() -> None:
    """5.9: the SPTE is MMU-writable, the page gets dirty, and pf_fast counts besides pf_fixed."""
    world = World("nopaging", "slot 1 0x2000000 1M")
    world.ok("write 0x2005000 1", "dirtylog on 1")
    stats = world.stats
    events = world.ok("write 0x2005000 2")
    (event,) = (event for event in events if event.name == "fast_page_fault")
    assert (event.fixed, event.spurious, event.old_spte & 2, event.new_spte & 2) == (1, 0, 0, 2)
    assert dirty(world) == [5]
    assert world.stats["pf_fast"] == stats["pf_fast"] + 1
    assert world.stats["pf_fixed"] == stats["pf_fixed"] + 1


def test_a_huge_page_of_a_logging_slot_is_not_fixed_fast() -> None:
    world = World("nopaging", "slot 1 0x10000000 4M huge2m")
    world.ok("write 0x10000000 1")
    assert world.level(0x10000000) == 2
    world.ok("dirtylog on 1")
    events = world.ok("write 0x10005000 2")
    (event,) = (event for event in events if event.name == "fast_page_fault")
    assert (event.fixed, event.spurious) == (0, 0)
    assert world.level(0x10005000) == 1
    assert [int(gpa, 16) for gpa in world.do("getdirty 1").result["dirty"]] == [0x10005000]


def test_paging_guests_have_no_fast_faults(world: World) -> None:
    world.ok(f"write {GVA:#x} 2")
    assert world.stats["pf_fast"] == 0
