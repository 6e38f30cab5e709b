"""Finding and making shadow pages (specification 3, appendix E)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import SPTE_EMPTY
from shadowmmu.kvm.pages.get_page import kvm_mmu_get_shadow_page

WINDOW = 0x7F0000000000


@pytest.mark.parametrize(
    ("gfn", "bucket"),
    [
        (0, 0),
        (1, 1564),
        (2, 3129),
        (3, 597),
        (0x100, 3208),
        (0x1000, 2182),
        (0x12345, 1210),
        (0x40000, 401),
        (0x80000, 803),
        (0xFFFFF, 41),
    ],
)
def test_hash(gfn: int, bucket: int) -> None:
    assert World("long4").kvm.hash_bucket(gfn) == bucket


@pytest.fixture
def world() -> World:
    world = World("long4", "map 0x1000 0x400000 0x800000 0x67 n=4", f"map 0x1000 {WINDOW:#x} 0x4000 0x67")
    world.ok("read 0x400000")
    return world


def test_gfn_and_role_name_a_page(world: World) -> None:
    misses = world.kvm.stat.mmu_cache_miss
    leaf = world.page(4, 1)
    assert kvm_mmu_get_shadow_page(world.vcpu, 4, 0x3701) is leaf
    assert world.kvm.stat.mmu_cache_miss == misses
    other = kvm_mmu_get_shadow_page(world.vcpu, 4, 0x3501)
    assert other is not leaf
    assert world.kvm.stat.mmu_cache_miss == misses + 1
    assert world.pages(4, 1) == [other, leaf]
    assert world.kvm.hashed_pages(4)[:2] == [other, leaf]


def test_a_new_page_is_empty_young_and_of_this_generation(world: World) -> None:
    used, indirect = world.kvm.n_used_mmu_pages, world.kvm.indirect_shadow_pages
    sp = kvm_mmu_get_shadow_page(world.vcpu, 0x800, 0x3701)
    assert world.kvm.read_table(sp.hpa) == [SPTE_EMPTY] * 512
    assert world.kvm.read_table(sp.translations) == [0] * 512
    assert world.pages()[0] is sp
    assert sp.mmu_valid_gen == world.kvm.mmu_valid_gen
    assert (world.kvm.n_used_mmu_pages, world.kvm.indirect_shadow_pages) == (used + 1, indirect + 1)


@pytest.mark.parametrize(("role", "has"), [(0x3701, True), (0x3703, True), (0x3704, False), (0x3781, False)])
def test_only_indirect_pages_up_to_level_3_have_translations(world: World, role: int, has: bool) -> None:
    assert bool(kvm_mmu_get_shadow_page(world.vcpu, 0x900, role).translations) == has


def test_a_direct_page_shadows_no_table(world: World) -> None:
    slot, indirect = world.kvm.memslots[0], world.kvm.indirect_shadow_pages
    kvm_mmu_get_shadow_page(world.vcpu, 0x600, 0x3782)
    assert world.kvm.indirect_shadow_pages == indirect
    assert 0x600 not in dict(slot.tracked())


def test_a_shadowed_table_is_protected_tracked_and_rules_huge_pages_out(world: World) -> None:
    """3.4: upper levels are tracked, leaf tables only write-protected; both count against huge pages."""
    slot = world.kvm.memslots[0]
    world.ok("write 0x400000 1", "write 0x401000 1")
    assert 0x800 not in dict(slot.lpage_entries(2))
    requests = world.kvm.stat.remote_tlb_flush_requests
    kvm_mmu_get_shadow_page(world.vcpu, 0x800, 0x3702)
    assert dict(slot.tracked())[0x800] == 1
    kvm_mmu_get_shadow_page(world.vcpu, 0x801, 0x3701)
    assert 0x801 not in dict(slot.tracked())
    assert dict(slot.lpage_entries(2))[0x800] == 2
    assert world.spte(0x400000) & 0x402 == 0
    assert world.spte(0x401000) & 0x402 == 0
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 2


def test_collisions_are_other_tables_in_the_bucket(world: World) -> None:
    """Same gfn and another role is none; pages behind the match are not looked at."""
    first = 0x900
    bucket = world.kvm.hash_bucket(first)
    same = [gfn for gfn in range(first + 1, first + 0x40000) if world.kvm.hash_bucket(gfn) == bucket][:2]
    for gfn in same:
        kvm_mmu_get_shadow_page(world.vcpu, gfn, 0x3781)
    assert world.kvm.stat.max_mmu_page_hash_collisions == 1
    kvm_mmu_get_shadow_page(world.vcpu, first, 0x3781)
    assert world.kvm.stat.max_mmu_page_hash_collisions == 2
    kvm_mmu_get_shadow_page(world.vcpu, first, 0x3782)
    assert world.kvm.stat.max_mmu_page_hash_collisions == 2


def test_asking_for_an_upper_level_page_zaps_the_unsync_ones(world: World) -> None:
    """3.2: a table that is used at an upper level must not be writable unseen."""
    world.ok(f"write {WINDOW + 0x800:#x} 0")
    leaf = world.page(4, 1)
    assert leaf.unsync
    world.player.log.take()
    kvm_mmu_get_shadow_page(world.vcpu, 4, 0x3702)
    assert names(list(world.player.log.take())) == [
        "kvm_mmu_prepare_zap_page",
        "kvm_mmu_sync_page",
        "kvm_mmu_get_page",
    ]
    assert leaf not in world.pages()


def test_a_table_found_in_use_has_its_flood_counter_reset() -> None:
    world = World("long4", "map 0x1000 0x400000 0x800000 0x67", f"map 0x1000 {WINDOW:#x} 0x3000 0x67")
    world.ok("read 0x400000", f"write {WINDOW + 0x800:#x} 0", f"write {WINDOW + 0x808:#x} 0")
    directory = world.page(3, 2)
    assert directory.write_flooding_count == 2
    assert kvm_mmu_get_shadow_page(world.vcpu, 3, 0x3702) is directory
    assert directory.write_flooding_count == 0


def test_a_child_of_another_table_is_replaced(world: World) -> None:
    """5.11: the gpte points elsewhere unseen; what was linked is unlinked, flushed, and stays cached."""
    old = world.page(4, 1)
    world.ok("hostwrite 0x3010 0x9027 size=8", "hostwrite 0x9020 0x805067 size=8")
    requests = world.kvm.stat.remote_tlb_flush_requests
    assert world.do("read 0x404000").result["outcome"] == "ok"
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    assert world.sptep(0x404000) >> 12 << 12 == world.page(9, 1).hpa
    assert old in world.pages()
    assert old.parent_ptes == 0


def test_an_unsync_child_found_again_is_marked_in_its_new_parent(world: World) -> None:
    world.ok(f"write {WINDOW + 0x800:#x} 0", "hostwrite 0x3018 0x4027 size=8", "read 0x600000")
    assert world.page(3, 2).marked_children() == [2, 3]


def test_a_huge_mapping_is_replaced_by_a_table() -> None:
    """A table that comes where a huge SPTE was drops it and always flushes."""
    world = World(
        "long4",
        "slot 1 0x10000000 4M huge2m",
        "map 0x1000 0x400000 0x10000000 0xe7 level=2",
        f"map 0x1000 {WINDOW:#x} 0x3000 0x67",
    )
    world.ok("write 0x400000 1")
    assert world.level(0x400000) == 2
    world.ok("dirtylog on 1")
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok("write 0x401000 1")
    assert world.level(0x401000) == 1
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    assert world.kvm.stat.pages_2m == 0
    assert not world.is_mapped(0x400000)
