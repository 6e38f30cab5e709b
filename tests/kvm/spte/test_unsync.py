"""Unsync pages: becoming one, the marks on the way to it, the walk of 16 pages (specification 8.1 to 8.3)."""

import pytest
from kvm.world import World, names

WINDOW = 0x7F0000000000
LEAF_TABLES = 0x4000
"""The first leaf table of the mappings below: the way there is 0x1000, 0x2000, 0x3000."""


def many(count: int) -> World:
    """A guest whose leaf tables 0x4000, 0x5000, ... map one page each and are all in a window."""
    return World(
        "long4",
        f"map 0x1000 0x40000000 0x800000 0x67 n={count} stride=0x200000 gstride=0",
        f"map 0x1000 {WINDOW:#x} {LEAF_TABLES:#x} 0x67 n={count}",
    )


def unsync(world: World, numbers: range) -> None:
    """Use each leaf table, then write to it."""
    for n in numbers:
        world.ok(f"read {0x40000000 + 0x200000 * n:#x}", f"write {WINDOW + 0x1000 * n + 0x800:#x} 0")


def test_the_first_write_to_a_leaf_table_makes_it_unsync() -> None:
    world = many(1)
    world.ok(f"read {WINDOW:#x}", "read 0x40000000")
    assert world.spte(WINDOW) & 0x402 == 0, "a shadowed table is write-protected"
    events = world.ok(f"write {WINDOW + 8:#x} 0")
    assert names(events)[-3:] == ["kvm_mmu_spte_requested", "kvm_mmu_unsync_page", "kvm_mmu_set_spte"]
    assert world.page(4, 1).unsync
    assert world.spte(WINDOW) & 0x402 == 0x402
    assert (world.page(3, 2).unsync_children, world.page(2, 3).unsync_children) == (1, 1)
    assert world.page(1, 4).marked_children() == [0]
    assert world.stats["mmu_unsync"] == 1
    assert names(world.ok(f"write {WINDOW + 8:#x} 0x801067")) == []


def test_an_upper_table_never_becomes_unsync() -> None:
    world = World("long4", "map 0x1000 0x40000000 0x800000 0x67", f"map 0x1000 {WINDOW:#x} 0x3000 0x67")
    world.ok("read 0x40000000", f"write {WINDOW + 0x800:#x} 0")
    assert world.spte(WINDOW) & 0x402 == 0
    assert world.stats["mmu_unsync"] == 0
    assert world.stats["pf_emulate"] == 1
    assert world.page(3, 2).write_flooding_count == 1


def test_all_pages_of_a_table_become_unsync_together_newest_first() -> None:
    """Two roles of one table: reached with and without W in the levels above."""
    world = World(
        "long4",
        "map 0x1000 0x40000000 0x800000 0x67",
        "pt 0x1000 1 0x2025",
        f"map 0x1000 {WINDOW:#x} 0x4000 0x67",
    )
    world.ok("read 0x40000000", "read 0x8040000000")
    newest, oldest = world.pages(4, 1)
    assert (newest.role, oldest.role) == (0x3501, 0x3701)
    events = world.ok(f"write {WINDOW + 0x800:#x} 0")
    roles = [event.role for event in events if event.name == "kvm_mmu_unsync_page"]
    assert roles == [0x3501, 0x3701]
    assert world.stats["mmu_unsync"] == 2


def test_prefetch_does_not_make_a_table_unsync() -> None:
    """8.1 c: a neighbour that maps a table in sync is mapped read-only; the write fault unsyncs it."""
    world = World(
        "long4",
        "map 0x1000 0x40000000 0x800000 0x67",
        f"map 0x1000 {WINDOW:#x} 0x800000 0x67",
        f"map 0x1000 {WINDOW + 0x1000:#x} 0x4000 0x67",
        f"map 0x1000 {WINDOW + 0x2000:#x} 0x801000 0x67",
    )
    world.ok("read 0x40000000", f"write {WINDOW:#x} 1")
    assert world.spte(WINDOW + 0x1000) & 0xE02 == 0xA00 & ~0x400
    assert world.spte(WINDOW + 0x2000) & 0x402 == 0x402
    assert not world.page(4, 1).unsync


@pytest.mark.parametrize(("count", "rounds"), [(1, 1), (13, 1), (14, 2), (26, 2), (27, 3)])
def test_the_walk_collects_sixteen_pages(count: int, rounds: int) -> None:
    """Three pages of the way and thirteen leaves fill the array; a round protects its leaves, and flushes."""
    world = many(count)
    unsync(world, range(count))
    assert world.stats["mmu_unsync"] == count
    requests = world.kvm.stat.remote_tlb_flush_requests
    events = world.ok("cr3 0x1000")
    assert names(events).count("kvm_mmu_sync_page") == count
    assert world.kvm.stat.remote_tlb_flush_requests == requests + rounds
    assert world.stats["mmu_unsync"] == 0
    assert not any(sp.unsync_children for sp in world.pages())
    assert all(world.spte(WINDOW + 0x1000 * n) & 0x402 == 0 for n in range(count))


def test_marks_that_lead_nowhere_are_taken_back() -> None:
    """8.3: a bit whose SPTE is gone is cleared by the walk, and the marks above it with it."""
    world = World(
        "long4",
        "map 0x1000 0x40000000 0x800000 0x67 n=2 stride=0x200000 gstride=0",
        f"map 0x1000 {WINDOW:#x} 0x3000 0x67 n=3",
    )
    for n in range(2):
        world.ok(f"read {0x40000000 + 0x200000 * n:#x}", f"write {WINDOW + 0x1000 * (n + 1) + 0x800:#x} 0")
    directory = world.page(3, 2)
    assert directory.marked_children() == [0, 1]
    world.ok(f"write {WINDOW:#x} 0")
    assert directory.marked_children() == [0, 1], "the mark of the emptied entry is still there"
    events = world.ok("cr3 0x1000")
    assert names(events).count("kvm_mmu_sync_page") == 1
    assert directory.unsync_children == 0
    assert world.page(1, 4).marked_children() == []


def test_marking_stops_where_a_mark_is() -> None:
    world = many(3)
    unsync(world, range(3))
    assert world.page(3, 2).unsync_children == 3
    assert world.page(2, 3).unsync_children == 1
    assert world.page(1, 4).unsync_children == 1


def test_a_page_linked_while_unsync_marks_its_new_parent() -> None:
    """5.11: a second directory that points to an unsync table is marked when it is linked."""
    world = World(
        "long4",
        "map 0x1000 0x40000000 0x800000 0x67",
        "pt 0x2000 2 0x9027",
        "pt 0x9000 0 0x4027",
        f"map 0x1000 {WINDOW:#x} 0x4000 0x67",
    )
    unsync(world, range(1))
    world.ok("read 0x80000000")
    assert world.page(9, 2).marked_children() == [0]
    assert world.page(4, 1).unsync
    assert world.page(2, 3).marked_children() == [1, 2]


def test_a_read_fault_makes_a_table_unsync_too() -> None:
    """A page is mapped with all rights it may have, also by a read."""
    world = many(1)
    world.ok("read 0x40000000", f"read {WINDOW:#x}")
    assert world.page(4, 1).unsync
    assert world.spte(WINDOW) & 0x402 == 0x402
