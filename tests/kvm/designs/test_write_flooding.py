"""Mail 002, patch 3: how many emulated writes to a table without a use between them zap its page."""

import pytest
from kvm.world import World, names

ENTRIES = 8


def flood(limit: str) -> tuple[World, list[list[str]]]:
    """Entries of a directory are written one by one through a window elsewhere; names of the events."""
    world = World(
        "long4",
        "map 0x1000 0x400000 0x800000 0x67 n=16",
        "map 0x1000 0x40000000 0x3000 0x67",
        design={"write_flooding": limit},
    )
    world.ok("read 0x400000", "read 0x40000000")
    events = [names(world.ok(f"write {0x40000800 + 8 * n:#x} 0")) for n in range(ENTRIES)]
    return world, events


@pytest.mark.parametrize(("limit", "last"), [("1", 0), ("2", 1), ("3", 2), ("5", 4), ("8", 7)])
def test_the_last_write_of_the_limit_zaps_the_page(limit: str, last: int) -> None:
    world, events = flood(limit)
    zaps = [n for n, seen in enumerate(events) if "kvm_mmu_prepare_zap_page" in seen]
    assert zaps == [last]
    assert world.stats["mmu_flooded"] == 1
    assert world.stats["mmu_pte_write"] == last + 1, "the writes after it are not emulated"
    assert world.pages(3, 2) == []


@pytest.mark.parametrize("limit", ["off", "9", "64"])
def test_below_the_limit_every_write_is_emulated(limit: str) -> None:
    world, events = flood(limit)
    assert not any("kvm_mmu_prepare_zap_page" in seen for seen in events)
    assert world.stats["mmu_flooded"] == 0
    assert world.stats["mmu_pte_write"] == ENTRIES
    assert world.page(3, 2).write_flooding_count == ENTRIES


def test_a_use_starts_the_count_anew() -> None:
    world, _ = flood("off")
    world.ok("read 0x401000", "read 0x409000")
    assert world.page(3, 2).write_flooding_count == 0


def test_a_misaligned_write_zaps_at_any_limit() -> None:
    world, _ = flood("off")
    world.ok("write 0x40000804 0 size=2")
    assert world.stats["mmu_flooded"] == 1
