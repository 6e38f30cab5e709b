"""Eager splitting of huge pages in shadow pages for L2 (kvm_mmu_try_split_huge_pages)."""

import pytest
from kvm.nested_world import HUGE, L2_HUGE, NPT, nested_spte, nested_walk, nested_world
from kvm.world import World

from shadowmmu.kvm.bits import MIN_FREE_MMU_PAGES, ROLE_DIRECT, ROLE_GUEST_MODE, SPTE_MMU_WRITABLE
from shadowmmu.kvm.memory.split_huge_page import DESCS_FOR_SPLIT, SplitCaches, SplitShadowHugePages
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.x86.bits import ADDR, A, D, W

EAGAIN, ENOSPC = -11, -28
LARGE = 0x200000


def split_world(*setup: str, pages: int = 4, **options: object) -> World:
    """The first large pages of L2 are mapped and written."""
    world = nested_world(*setup, **options)
    world.ok(*(f"l2write {L2_HUGE + LARGE * n:#x} 1" for n in range(pages)))
    return world


def splits(events: list[Event]) -> list[tuple[int, int, int]]:
    """(gfn, level, errno) of each attempt on the rmaps; the TDP MMU's own come later."""
    found = [event for event in events if event.name == "kvm_mmu_split_huge_page"]
    return [(event.gfn, event.level, event.errno) for event in found]


def lower(world: World, ngpa: int) -> ShadowPage:
    """The page with the last SPTE on the walk for an address of L2."""
    return world.kvm.sptep_to_sp(nested_walk(world, ngpa)[-1])


def test_the_first_split_fills_the_caches_and_starts_anew() -> None:
    world = split_world()
    gfn = HUGE >> 12
    events = world.ok("dirtylog on 1")
    assert splits(events)[:5] == [(gfn, 2, EAGAIN), *((gfn + 512 * n, 2, 0) for n in range(4))]
    for n in range(4):
        sp = lower(world, L2_HUGE + LARGE * n)
        assert sp.role & (ROLE_DIRECT | ROLE_GUEST_MODE) == ROLE_DIRECT | ROLE_GUEST_MODE
        assert sp.gfn == gfn + 512 * n
        spte = nested_spte(world, L2_HUGE + LARGE * n + 0x5000)
        assert spte & ADDR == world.hpa(HUGE + LARGE * n + 0x5000)
        assert spte & (A | D | W | SPTE_MMU_WRITABLE) == A | D | SPTE_MMU_WRITABLE, "split, then protected"
    assert world.stats["pages_4k"] >= 4 * 512


def test_one_flush_for_each_split_and_one_for_the_protection() -> None:
    for pages in (1, 2, 4):
        world = split_world(pages=pages)
        before = world.stats["remote_tlb_flush_requests"]
        world.ok("dirtylog on 1")
        assert world.stats["remote_tlb_flush_requests"] - before == pages + 1


def test_afterwards_a_write_is_a_fast_one() -> None:
    """The pages are small already: the write faults, but nothing is split and no page is made."""
    world = split_world()
    world.ok("dirtylog on 1")
    made = len(world.pages())
    world.ok(f"l2write {L2_HUGE + 0x3000:#x} 1")
    assert len(world.pages()) == made
    assert nested_spte(world, L2_HUGE + 0x3000) & W
    assert not nested_spte(world, L2_HUGE + 0x4000) & W
    assert world.do("getdirty 1").result["dirty"] == [f"{HUGE + 0x3000:#x}"]


@pytest.mark.parametrize("setup", [("param kvm eager_page_split=0",), ("cap 168 3",)])
def test_not_without_the_parameter_nor_while_all_is_dirty_from_the_start(setup: tuple[str, ...]) -> None:
    world = split_world(*setup)
    assert splits(world.ok("dirtylog on 1")) == []
    assert nested_spte(world, L2_HUGE) & 0x80


def test_not_without_the_tdp_mmu() -> None:
    world = split_world(tdp_mmu=0)
    assert splits(world.ok("dirtylog on 1")) == []
    assert nested_spte(world, L2_HUGE) & (0x80 | W) == 0x80


def test_clear_splits_what_its_mask_touches() -> None:
    world = split_world("cap 168 3")
    world.ok("dirtylog on 1")
    events = world.ok("cleardirty 1 512 64")
    assert {(gfn, error) for gfn, _, error in splits(events)[:2]} == {
        (HUGE + LARGE >> 12, EAGAIN),
        (HUGE + LARGE >> 12, 0),
    }
    assert [bool(nested_spte(world, L2_HUGE + LARGE * n) & 0x80) for n in range(4)] == [
        True,
        False,
        True,
        True,
    ]


def test_aliases_of_the_same_rights_share_a_page_read_only_ones_do_not() -> None:
    first, second, third = (f"npt map {NPT:#x} {gva} {HUGE:#x} {flags} level=2" for gva, flags in
        (("0x58000000", "0x67"), ("0x59000000", "0x65"), ("0x5a000000", "0x65")))  # fmt: skip
    world = split_world(first, second, third, pages=1)
    world.ok("l2write 0x58000000 1", "l2read 0x59000000", "l2read 0x5a000000")
    world.ok("dirtylog on 1")
    pages = [lower(world, ngpa) for ngpa in (L2_HUGE, 0x58000000, 0x59000000, 0x5A000000)]
    assert pages[0] is pages[1]
    assert pages[2] is pages[3]
    assert pages[0] is not pages[2]
    assert pages[0].role ^ pages[2].role == 2 << 8, "only the access differs"
    slot = world.kvm.memslot_of(HUGE >> 12)
    (entries,) = [head for gfn, head in slot.rmap_entries(1) if gfn == HUGE >> 12]
    assert entries & 1, "two small SPTEs, and none for each of four aliases"


def test_a_lower_page_that_exists_keeps_what_it_has() -> None:
    """After logging the emptied page waits; the next split finds it, and fills empty entries only."""
    world = split_world(pages=1)
    world.ok("dirtylog on 1")
    sp = lower(world, L2_HUGE)
    world.ok("dirtylog off 1")
    assert not any(value & 1 and value >> 51 & 1 == 0 for value in world.kvm.read_table(sp.hpa))
    world.ok(f"l2write {L2_HUGE:#x} 1")
    assert nested_spte(world, L2_HUGE) & 0x80
    events = world.ok("dirtylog on 1")
    got = [event for event in events if event.name == "kvm_mmu_get_page" and event.gfn == HUGE >> 12]
    assert [event.created for event in got] == [False]
    assert lower(world, L2_HUGE) is sp


def test_no_split_when_few_pages_are_left() -> None:
    world = split_world()
    kvm = world.kvm
    kvm.n_max_mmu_pages = kvm.n_used_mmu_pages + MIN_FREE_MMU_PAGES
    events = world.ok("dirtylog on 1")
    gfn = HUGE >> 12
    assert splits(events)[:4] == [(gfn + 512 * n, 2, ENOSPC) for n in range(4)]
    for n in range(4):
        assert nested_spte(world, L2_HUGE + LARGE * n) & (0x80 | W) == 0x80, "protected as it is"
    world = split_world()
    world.kvm.n_max_mmu_pages = world.kvm.n_used_mmu_pages + MIN_FREE_MMU_PAGES + 1
    errors = [error for _, _, error in splits(world.ok("dirtylog on 1"))[:5]]
    assert errors == [EAGAIN, 0, ENOSPC, ENOSPC, ENOSPC]


def test_caches() -> None:
    caches = SplitCaches(split_world().kvm)
    assert caches.need_topup()
    caches.top_up()
    assert not caches.need_topup()
    assert (caches.descs, len(caches.shadow_pages.objects)) == (DESCS_FOR_SPLIT + 40, 40)
    caches.descs = DESCS_FOR_SPLIT - 1
    assert caches.need_topup()
    caches.top_up()
    assert len(caches.shadow_pages.objects) == 40
    while caches.shadow_pages.objects:
        assert not caches.need_topup()
        caches.shadow_pages.take()
    assert caches.need_topup()


def test_a_split_pauses_where_the_lock_is_dropped_and_others_may_come_in() -> None:
    world = split_world()
    kvm = world.kvm
    slot = kvm.memslot_of(HUGE >> 12)
    walk = SplitShadowHugePages(kvm, slot, slot.base_gfn, slot.base_gfn + slot.npages, 1)
    assert walk.step(), "to fill the caches"
    world.quick(f"madvise_dontneed {HUGE:#x} 0x200000")
    world.quick("l2read 0x800000")
    while walk.step():
        pass
    for n in range(1, 4):
        assert not nested_spte(world, L2_HUGE + LARGE * n) & 0x80
    world.ok(f"l2write {L2_HUGE:#x} 1", f"l2write {L2_HUGE + LARGE:#x} 1")


def test_a_target_level_of_two_leaves_two_mib_pages() -> None:
    world = split_world()
    kvm = world.kvm
    slot = kvm.memslot_of(HUGE >> 12)
    walk = SplitShadowHugePages(kvm, slot, slot.base_gfn, slot.base_gfn + slot.npages, 2)
    assert not walk.step()
    assert nested_spte(world, L2_HUGE) & 0x80
