"""Emulated writes to shadowed tables (specification 9, appendix E)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import SPTE_EMPTY
from shadowmmu.kvm.exits.track_write import (
    detect_write_misaligned,
    get_written_sptes,
    kvm_mmu_track_write,
)
from shadowmmu.kvm.state.shadow_page import ShadowPage

WINDOW = 0x7F0000000000


def page(level: int, *, four_byte: bool, quadrant: int = 0) -> ShadowPage:
    return ShadowPage(1, level | four_byte << 4 | quadrant << 5 | 0x700, 0x7000, 0)


@pytest.mark.parametrize(
    ("offset", "four_byte", "level", "quadrant", "first", "count"),
    [
        (2800, True, 1, 1, 188, 1),
        (2800, True, 2, 2, 376, 2),
        (4092, True, 1, 1, 511, 1),
        (4092, True, 2, 3, 510, 2),
        (2, True, 2, 0, 0, 2),
        (2040, False, 1, 0, 255, 1),
        (2040, False, 2, 0, 255, 1),
        (2040, False, 4, 0, 255, 1),
    ],
)
def test_written_sptes(
    offset: int, four_byte: bool, level: int, quadrant: int, first: int, count: int
) -> None:
    sp = page(level, four_byte=four_byte, quadrant=quadrant)
    assert get_written_sptes(sp, 0x5000 + offset) == [0x7000 + 8 * (first + n) for n in range(count)]
    if four_byte:
        others = [q for q in range(2 if level == 1 else 4) if q != quadrant]
        for other in others:
            assert get_written_sptes(page(level, four_byte=True, quadrant=other), 0x5000 + offset) == []


@pytest.mark.parametrize(
    ("offset", "size", "entry", "misaligned"),
    [
        (0, 8, 8, False),
        (0, 4, 8, False),
        (4, 8, 8, True),
        (0, 8, 4, True),
        (0, 1, 8, False),
        (1, 1, 8, True),
        (4, 4, 4, False),
        (0, 2, 8, True),
        (4, 4, 8, False),
        (6, 4, 8, True),
        (0xFFC, 8, 8, True),
        (4, 1, 4, False),
        (4, 1, 8, True),
        (2, 4, 4, True),
    ],
)
def test_misaligned(offset: int, size: int, entry: int, misaligned: bool) -> None:
    assert detect_write_misaligned(page(1, four_byte=entry == 4), 0x5000 + offset, size) == misaligned


@pytest.fixture
def world() -> World:
    """The directory 0x3000 of 0x400000 is in a window."""
    world = World("long4", "map 0x1000 0x400000 0x800000 0x67", f"map 0x1000 {WINDOW:#x} 0x3000 0x67")
    world.ok("read 0x400000")
    return world


def test_a_write_zaps_the_entry_and_maps_nothing(world: World) -> None:
    leaf, stats = world.page(4, 1), world.stats
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok(f"write {WINDOW + 0x10:#x} 0x5027")
    directory = world.page(3, 2)
    assert world.kvm.read_spte(directory.hpa + 0x10) == SPTE_EMPTY
    assert leaf.parent_ptes == 0
    assert world.stats["mmu_pte_write"] == stats["mmu_pte_write"] + 1
    assert world.stats["mmu_pde_zapped"] == stats["mmu_pde_zapped"] + 1
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    assert directory.write_flooding_count == 1


def test_an_empty_entry_counts_as_zapped_if_the_new_gpte_is_not_zero(world: World) -> None:
    """F.8; no flush for what was not present."""
    world.ok(f"write {WINDOW + 0x800:#x} 0x5027")
    assert world.stats["mmu_pde_zapped"] == 1
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok("read 0x400000", f"write {WINDOW + 0x808:#x} 0")
    assert world.stats["mmu_pde_zapped"] == 1
    assert world.kvm.stat.remote_tlb_flush_requests == requests


def test_the_third_write_zaps_the_page(world: World) -> None:
    directory = world.page(3, 2)
    for n in range(2):
        world.ok(f"write {WINDOW + 0x800:#x} 0")
        assert (directory in world.pages(), directory.write_flooding_count) == (True, n + 1)
    events = world.ok(f"write {WINDOW + 0x800:#x} 0")
    assert "kvm_mmu_prepare_zap_page" in names(events)
    assert directory not in world.pages()
    assert world.stats["mmu_flooded"] == 1


def test_using_the_page_in_between_is_no_flood(world: World) -> None:
    directory = world.page(3, 2)
    for _ in range(4):
        world.ok(f"write {WINDOW + 0x10:#x} 0x4027")
        assert directory.write_flooding_count == 1
        world.ok("read 0x400000")
        assert directory.write_flooding_count == 0
    assert directory in world.pages()
    assert world.stats["mmu_flooded"] == 0


@pytest.mark.parametrize(
    "line",
    [
        f"write {WINDOW + 0x800:#x} 0 size=2",
        f"write {WINDOW + 0x801:#x} 0 size=1",
        f"write {WINDOW + 0x804:#x} 0 size=8",
    ],
)
def test_an_odd_write_zaps_the_page_at_once(world: World, line: str) -> None:
    """Misaligned writes do not count as flooding, but as flooded."""
    directory = world.page(3, 2)
    world.ok(line)
    assert directory not in world.pages()
    assert (world.stats["mmu_flooded"], directory.write_flooding_count) == (1, 0)


@pytest.mark.parametrize("offset", [0x10, 0x14])
def test_four_bytes_are_widened_to_the_gpte(world: World, offset: int) -> None:
    """F.7: half a gpte written by a 64-bit guest is a write of the whole."""
    directory = world.page(3, 2)
    world.ok(f"write {WINDOW + offset:#x} 0 size=4")
    assert directory in world.pages()
    assert world.kvm.read_spte(directory.hpa + 0x10) == SPTE_EMPTY


def test_a_four_byte_directory_entry_has_two_sptes() -> None:
    world = World("32", "map 0x1000 0x40000000 0x800000 0x67 n=513", "map 0x1000 0x50000000 0x1000 0x67")
    world.ok("read 0x40000000", "read 0x40200000")
    directory = next(sp for sp in world.pages(1, 2) if sp.role >> 5 & 3 == 1)
    assert [world.kvm.read_spte(directory.hpa + 8 * n) & 0x800 for n in range(3)] == [0x800, 0x800, 0]
    zapped = world.stats["mmu_pde_zapped"]
    world.ok("write 0x50000400 0x2067 size=4")
    assert [world.kvm.read_spte(directory.hpa + 8 * n) for n in range(2)] == [SPTE_EMPTY] * 2
    assert world.stats["mmu_pde_zapped"] == zapped + 2


def test_writes_to_what_is_no_table_cost_nothing() -> None:
    world = World("nopaging")
    world.ok("read 0x800000")
    kvm_mmu_track_write(world.vcpu, 0x800000, 8)
    assert world.stats["mmu_pte_write"] == 0, "not even a look: no table is shadowed"


def test_instructions_that_write_no_tables_give_the_shadow_up(world: World) -> None:
    """5.4b: for ADD the page is zapped and the instruction retried, not emulated."""
    directory = world.page(3, 2)
    stats = world.stats
    world.ok(f"add {WINDOW + 0x800:#x} 0")
    assert directory not in world.pages()
    assert world.stats["mmu_pte_write"] == stats["mmu_pte_write"]
    assert world.vcpu.last_retry_addr == WINDOW + 0x800


def test_a_write_of_a_page_in_use_on_its_own_way_is_emulated_every_time() -> None:
    """F: write_fault_to_shadow_pgtable; the page that maps the table is reached through the table itself."""
    world = World("long4", "map 0x1000 0x400000 0x3000 0x67")
    world.ok("write 0x400800 0")
    assert world.stats["pf_emulate"] == 1
    world.ok("write 0x400800 0x5027")
    assert world.do("read 0x400800").result["value"] == "0x5027"
