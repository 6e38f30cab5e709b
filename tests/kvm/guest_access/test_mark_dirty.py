"""When the host learns that a page is dirty: memory freed lazily is lost, or kept (mark_dirty.py)."""

import pytest
from kvm.world import World

FREE, PAGEOUT = 8, 21
PAGES = range(10)


@pytest.mark.parametrize(("kernel", "kept"), [("6.12.111", 0), ("7.3.4", 8)])
def test_pages_that_the_guest_may_only_read(kernel: str, kept: int) -> None:
    """In 7.3 those that are mapped are dirty, with the group of eight that is prefetched."""
    slot = "slot 1 0x10000000 64K"
    world = World("long4", slot, "map 0x1000 0x40000000 0x10000000 0x65 n=16", kernel=kernel)
    world.ok("nop", *(f"hostwrite {0x10000000 + 0x1000 * page:#x} {page + 1}" for page in PAGES))
    world.ok(f"madvise 0x10000000 0x10000 {FREE}", "read 0x40000000")
    world.ok(f"madvise 0x10000000 0x10000 {PAGEOUT}")
    found = [world.do(f"hostread {0x10000000 + 0x1000 * page:#x}").result["value"] for page in PAGES]
    assert found == [f"{page + 1 if page < kept else 0:#x}" for page in PAGES]


@pytest.mark.parametrize("kernel", ["6.12.111", "7.3.4"])
def test_a_page_mapped_writable_is_kept_by_all(kernel: str) -> None:
    world = World("long4", "slot 1 0x10000000 64K", "map 0x1000 0x40000000 0x10000000 0x67", kernel=kernel)
    world.ok("nop", "hostwrite 0x10000000 1", f"madvise 0x10000000 0x10000 {FREE}", "read 0x40000000")
    world.ok(f"madvise 0x10000000 0x10000 {PAGEOUT}")
    assert world.do("hostread 0x10000000").result["value"] == "0x1"
