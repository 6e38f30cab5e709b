"""Roots: loading, the cache of previous ones, letting go (specification 4)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import (
    INVALID_PAGE,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_SYNC,
    REQ_TLB_FLUSH_CURRENT,
    ROLE_INVALID,
)
from shadowmmu.kvm.pages.roots import fast_pgd_switch, kvm_mmu_free_roots, kvm_mmu_new_pgd, kvm_mmu_unload
from shadowmmu.kvm.pages.zap import kvm_mmu_prepare_zap_page

ROOTS = [0x1000, 0x9000, 0xA000, 0xB000, 0xC000]


@pytest.fixture
def world() -> World:
    world = World("long4", *(f"tramp {root:#x}" for root in ROOTS[1:]))
    world.ok("nop")
    return world


def cache(world: World) -> list[int | None]:
    """CR3 of the current and the previous roots."""
    mmu = world.vcpu.mmu
    slots = [(mmu.root_pgd, mmu.root_hpa), *(mmu.prev_root(i) for i in range(3))]
    return [None if hpa == INVALID_PAGE else pgd for pgd, hpa in slots]


def test_the_last_three_are_kept_most_recent_first(world: World) -> None:
    for root in ROOTS[1:]:
        world.ok(f"cr3 {root:#x}")
    assert cache(world) == [0xC000, 0xB000, 0xA000, 0x9000]
    assert world.page(1, 4).root_count == 0, "the oldest fell out; it stays in the hash"
    assert world.page(0xC, 4).root_count == 1


@pytest.mark.parametrize(
    ("back", "after"),
    [
        (0xB000, [0xB000, 0xC000, 0xA000, 0x9000]),
        (0xA000, [0xA000, 0xC000, 0xB000, 0x9000]),
        (0x9000, [0x9000, 0xC000, 0xB000, 0xA000]),
        (0x1000, [0x1000, 0xC000, 0xB000, 0xA000]),
    ],
)
def test_a_hit_moves_to_the_front(world: World, back: int, after: list[int]) -> None:
    for root in ROOTS[1:]:
        world.ok(f"cr3 {root:#x}")
    events = world.ok(f"cr3 {back:#x}")
    assert cache(world) == after
    assert ("kvm_mmu_get_page" in names(events)) == (back == 0x1000)


def test_a_hit_without_a_current_root_closes_the_gap(world: World) -> None:
    """4.8.4: after the current one was freed, later ones move left."""
    for root in ROOTS[1:4]:
        world.ok(f"cr3 {root:#x}")
    kvm_mmu_free_roots(world.kvm, world.vcpu.mmu, 1)
    assert cache(world) == [None, 0xA000, 0x9000, 0x1000]
    assert fast_pgd_switch(world.vcpu, 0x9000)
    assert cache(world) == [0x9000, 0xA000, 0x1000, None]
    kvm_mmu_free_roots(world.kvm, world.vcpu.mmu, 1)
    assert not fast_pgd_switch(world.vcpu, 0xB000)
    assert cache(world) == [None, 0xA000, 0x1000, None]
    world.ok("hostsregs cr3=0x1000", "nop")


def test_a_hit_asks_for_the_root_only(world: World) -> None:
    world.ok("cr3 0x9000")
    world.vcpu.requests = 0
    world.vcpu.mmio_gva = 0x5000
    world.page(1, 4).write_flooding_count = 2
    kvm_mmu_new_pgd(world.vcpu, 0x1000)
    assert world.vcpu.requests == REQ_LOAD_MMU_PGD
    assert world.vcpu.mmio_gva == 0
    assert world.page(1, 4).write_flooding_count == 0
    world.kvm.parameters.flush_on_reuse = True
    kvm_mmu_new_pgd(world.vcpu, 0x9000)
    assert world.vcpu.requests == REQ_LOAD_MMU_PGD | REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT
    kvm_mmu_new_pgd(world.vcpu, 0x1000)
    world.ok("nop")


def test_a_miss_asks_for_nothing(world: World) -> None:
    world.vcpu.requests = 0
    kvm_mmu_new_pgd(world.vcpu, 0x9000)
    assert world.vcpu.requests == 0
    assert cache(world) == [None, 0x1000, None, None]
    kvm_mmu_unload(world.vcpu)
    world.ok("nop")


def test_a_root_of_another_role_is_no_hit(world: World) -> None:
    world.ok("cr3 0x9000", "hostsregs cr4=0x30")
    assert cache(world) == [None] * 4, "the role changed: all are gone"
    world.ok("nop")
    sp = world.page(9, 4)
    sp.role ^= 1 << 13
    assert not fast_pgd_switch(world.vcpu, 0x9000)
    sp.role ^= 1 << 13
    kvm_mmu_unload(world.vcpu)
    world.ok("nop")


def test_an_invalid_root_is_no_hit(world: World) -> None:
    world.ok("cr3 0x9000")
    old = world.page(1, 4)
    kvm_mmu_prepare_zap_page(world.kvm, old, [])
    events = world.ok("cr3 0x1000")
    assert world.page(1, 4) is not old
    assert "kvm_mmu_get_page" in names(events)


def test_letting_go_frees_only_what_was_zapped(world: World) -> None:
    world.ok("cr3 0x9000")
    kept, gone = world.page(9, 4), world.page(1, 4)
    kvm_mmu_prepare_zap_page(world.kvm, gone, [])
    used = world.kvm.n_used_mmu_pages
    kvm_mmu_free_roots(world.kvm, world.vcpu.mmu, 0xF)
    assert cache(world) == [None] * 4
    assert kept in world.pages()
    assert kept.root_count == 0
    assert world.kvm.n_used_mmu_pages == used - 1
    with pytest.raises(LookupError):
        world.kvm.sptep_to_sp(gone.hpa)
    world.ok("nop")


def test_masks_choose_the_roots(world: World) -> None:
    for root in ROOTS[1:4]:
        world.ok(f"cr3 {root:#x}")
    kvm_mmu_free_roots(world.kvm, world.vcpu.mmu, 0b0100)
    assert cache(world) == [0xB000, 0xA000, None, 0x1000]
    kvm_mmu_free_roots(world.kvm, world.vcpu.mmu, 0b1010)
    assert cache(world) == [0xB000, None, None, None]
    world.ok("nop")


def test_four_directories_are_one_root() -> None:
    """PAE roots have no page and are never cached."""
    world = World("32", "tramp 0x9000")
    events = world.ok("nop")
    made = [(e.gfn, e.role >> 5 & 3, e.created) for e in events if e.name == "kvm_mmu_get_page"][:4]
    assert made == [(1, 0, 1), (1, 1, 1), (1, 2, 1), (1, 3, 1)]
    assert dict(world.kvm.memslots[0].tracked())[1] == 4
    assert world.vcpu.mmu.root_is_special()
    world.ok("cr3 0x9000")
    assert cache(world)[1:] == [None] * 3
    assert [sp.root_count for sp in world.pages(1, 2)] == [0] * 4
    assert [sp.root_count for sp in world.pages(9, 2)] == [1] * 4


def test_directories_of_a_pae_guest() -> None:
    """Absent and invisible ones are 0, not INVALID."""
    world = World("pae", "pt 0x1000 1 0x50000001", "pt 0x1000 2 0x9001")
    world.ok("nop")
    mmu = world.vcpu.mmu
    entries = [world.kvm.read_spte(mmu.pae_root + 8 * i) for i in range(4)]
    assert entries[:2] == [0, 0]
    assert entries[2] == world.page(9, 2).hpa | 1
    assert world.kvm.sptep_to_sp(entries[3] & ~0xFFF).gfn == 0xF0003


def test_a_root_outside_memory_is_the_dummy(world: World) -> None:
    """Every walk ends at once; user space may add the memory."""
    world.ok("hostsregs cr3=0x50000000")
    events = world.do("nop").events
    assert world.vcpu.mmu.root_hpa == 0
    assert "kvm_mmu_get_page" not in names(events)


def test_loading_syncs_what_the_root_reaches() -> None:
    world = World(
        "long4", "map 0x1000 0x400000 0x800000 0x67", "map 0x1000 0x7f0000000000 0x4000 0x67", "tramp 0x9000"
    )
    world.ok("read 0x400000", "write 0x7f0000000800 0", "cr3 0x9000")
    assert world.page(4, 1).unsync
    kvm_mmu_free_roots(world.kvm, world.vcpu.mmu, 0xE)
    events = world.ok("cr3 0x1000")
    assert "kvm_mmu_sync_page" in names(events)
    assert not world.page(4, 1).unsync


def test_a_zap_of_one_vcpu_s_root_reaches_the_others() -> None:
    world = World("long4", "vcpus 2")
    world.ok("nop", "@1 nop")
    root = world.page(1, 4)
    assert root.root_count == 2
    kvm_mmu_prepare_zap_page(world.kvm, root, [])
    world.ok("nop")
    assert root.root_count == 1
    assert root.role & ROLE_INVALID
    world.ok("@1 nop")
    assert world.page(1, 4).root_count == 2
