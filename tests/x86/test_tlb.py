import pytest

from shadowmmu.x86.bits import FAULT, NX, D, G, P, U, W
from shadowmmu.x86.tlb import Tlb, TranslationCache

ENTRY = 0x5000 | P | W | U | D


@pytest.fixture
def cache() -> TranslationCache:
    return TranslationCache(12, 2, 2)


def test_an_entry_serves_its_page_and_pcid_only(cache: TranslationCache) -> None:
    cache.insert(0x7123, 3, ENTRY)
    assert cache.lookup(0x7FFF, 3, P, 0) == ENTRY
    assert cache.lookup(0x8000, 3, P, 0) == 0
    assert cache.lookup(0x7000, 4, P, 0) == 0
    assert cache.entries() == [(0x7000, 3, ENTRY)]


def test_an_entry_serves_what_it_allows(cache: TranslationCache) -> None:
    cache.insert(0, 0, 0x5000 | P | U | NX)
    assert cache.lookup(0, 0, P | U, 0)
    assert not cache.lookup(0, 0, P | W, 0)
    assert not cache.lookup(0, 0, P | D, 0)
    assert not cache.lookup(0, 0, P, NX)
    assert not cache.lookup(0, 0, P, U)


def test_a_global_entry_serves_every_pcid(cache: TranslationCache) -> None:
    cache.insert(0x7000, 3, ENTRY | G)
    assert cache.lookup(0x7000, 9, P, 0) == ENTRY | G
    cache.insert(0x7000, 9, ENTRY)
    assert cache.entries() == [(0x7000, 9, ENTRY)], "the new translation takes the place of the global one"


def test_the_oldest_way_is_replaced(cache: TranslationCache) -> None:
    cache.insert(0x0000, 0, 0x1000 | P)
    cache.insert(0x2000, 0, 0x2000 | P)
    cache.lookup(0x0000, 0, P, 0)
    cache.insert(0x4000, 0, 0x3000 | P)
    assert sorted(gva for gva, _, _ in cache.entries()) == [0x2000, 0x4000]


def test_a_flushed_way_is_used_before_a_live_one(cache: TranslationCache) -> None:
    cache.insert(0x0000, 0, 0x1000 | P)
    cache.insert(0x2000, 0, 0x2000 | P)
    cache.flush_page(0x2000, 0)
    cache.insert(0x4000, 0, 0x3000 | P)
    assert [gva for gva, _, _ in cache.entries()] == [0x0000, 0x4000]


def test_nothing_is_remembered_at_first_nor_after_a_full_flush(cache: TranslationCache) -> None:
    assert cache.lookup(0, 0, P, 0) == 0
    cache.insert(0, 0, ENTRY | G)
    cache.flush_all()
    assert cache.lookup(0, 0, P, 0) == 0
    assert cache.entries() == []
    cache.insert(0x1000, 0, ENTRY)
    assert cache.entries() == [(0x1000, 0, ENTRY)]


@pytest.mark.parametrize("others", [[], [(0x2000, 2, ENTRY)], [(0x3000, 1, ENTRY | G)]])
def test_flush_nonglobal_keeps_global_entries_and_other_pcids(
    cache: TranslationCache, others: list[tuple[int, int, int]]
) -> None:
    for gva, pcid, entry in [(0x1000, 1, ENTRY), *others]:
        cache.insert(gva, pcid, entry)
    cache.flush_nonglobal(5)
    assert len(cache.entries()) == 1 + len(others)
    cache.flush_nonglobal(1)
    assert cache.entries() == others


def test_flush_page_drops_global_entries_too_but_not_other_pages(cache: TranslationCache) -> None:
    cache.insert(0x1000, 1, ENTRY | G)
    cache.insert(0x3000, 1, ENTRY)
    cache.flush_page(0x1FFF, 2)
    assert cache.entries() == [(0x3000, 1, ENTRY)]
    cache.flush_page(0x3000, 2)
    assert cache.entries() == [(0x3000, 1, ENTRY)]


@pytest.mark.parametrize(("sets", "ways"), [(3, 4), (0, 4), (4, 0)])
def test_a_cache_needs_a_power_of_two_sets_and_a_way(sets: int, ways: int) -> None:
    with pytest.raises(ValueError, match="must be a power of two"):
        TranslationCache(12, sets, ways)


@pytest.mark.parametrize(
    ("level", "size", "gva", "hpa"),
    [
        (2, 0x20_0000, 0x20_0000 * 5 + 0x1_2345, 0x4000_0000 + 0x1_2345),
        (3, 0x4000_0000, 0x4000_0000 * 5 + 0x12_3456, 0x4000_0000 + 0x12_3456),
    ],
)
def test_a_large_page_is_one_entry(level: int, size: int, gva: int, hpa: int) -> None:
    tlb = Tlb()
    tlb.insert(gva & -size, 0, 0x4000_0000 | P, level)
    assert tlb.lookup_beyond(gva, 0, P, 0) == hpa
    assert tlb.lookup_beyond(gva + size, 0, P, 0) == FAULT
    assert tlb.translations() == [(gva & -size, 0, level, 0x4000_0000 | P)] * 2
    assert (tlb.l1_hits, tlb.l2_hits) == (1, 0)


def test_the_second_level_serves_what_the_first_lost_and_refills_it() -> None:
    tlb = Tlb()
    for page in range(128):
        tlb.insert(page << 12, 0, page << 12 | P, 1)
    assert len(tlb.l1_4k.entries()) == 64
    assert tlb.l1_4k.lookup(0, 0, P, 0) == 0
    assert tlb.lookup_beyond(0x123, 0, P, 0) == 0x123
    assert tlb.l2_hits == 1
    assert tlb.l1_4k.lookup(0, 0, P, 0) == P


@pytest.mark.parametrize("level", [1, 2, 3])
def test_every_flush_reaches_both_levels_of_every_size(level: int) -> None:
    tlb = Tlb()
    for flush in (tlb.flush_all, lambda: tlb.flush_nonglobal(3), lambda: tlb.flush_page(0x123, 3)):
        tlb.insert(0, 3, ENTRY, level)
        assert len(tlb.translations()) == 2
        flush()
        assert tlb.translations() == []


@pytest.mark.parametrize(("level", "array"), [(2, "l1_2m"), (3, "l1_1g")])
def test_the_second_level_refills_the_first_for_large_pages(level: int, array: str) -> None:
    tlb = Tlb()
    tlb.insert(0, 0, P, level)
    first = getattr(tlb, array)
    first.flush_all()
    assert tlb.lookup_beyond(0x1_2345, 0, P, 0) == 0x1_2345
    assert first.entries() == [(0, 0, P)]
    assert tlb.l2_hits == 1


def test_frames_are_flushed_for_all_addresses_and_pcids(cache: TranslationCache) -> None:
    cache.insert(0x1000, 1, 0x5000 | P | G)
    cache.insert(0x2000, 2, 0x5000 | P)
    cache.insert(0x3000, 1, 0x6000 | P)
    cache.flush_frames(0x4000, 0x1000)
    assert len(cache.entries()) == 3
    cache.flush_frames(0x5000, 0x1000)
    assert [gva for gva, _, _ in cache.entries()] == [0x3000]
    cache.flush_frames(0x6800, 1)
    assert cache.entries() == []


@pytest.mark.parametrize(
    ("hpa", "size", "kept"),
    [(0x3FF000, 0x1000, False), (0x200000, 0x1000, False), (0x0, 0x1000000, False), (0x400000, 0x1000, True)],
)
def test_a_large_page_goes_with_any_of_its_frames(hpa: int, size: int, kept: bool) -> None:
    tlb = Tlb()
    tlb.insert(0x40000000, 0, 0x200000 | P, 2)
    tlb.flush_frames(hpa, size)
    assert bool(tlb.translations()) == kept
