"""Changing SPTEs: who wins, the books, removed tables."""

import pytest
from kvm.tdp_world import BIG, PHYSICAL, huge_world, tables, tdp_world
from kvm.world import World, names

from shadowmmu.kvm.bits import (
    SPTE_EMPTY,
    SPTE_HOST_WRITABLE,
    SPTE_MMU_PRESENT,
    SPTE_MMU_WRITABLE,
)
from shadowmmu.kvm.state.tdp_iter import TdpIter
from shadowmmu.kvm.tdp.rcu import rcu_read_lock, rcu_read_unlock
from shadowmmu.kvm.tdp.spte_changed import (
    InvalidSpteChange,
    handle_changed_spte,
    spte_has_volatile_bits,
    tdp_mmu_set_spte,
    tdp_mmu_set_spte_atomic,
    tdp_mmu_zap_spte_atomic,
)
from shadowmmu.x86.bits import A, D, P, U, W

PAGE = 0x800000


@pytest.fixture
def world() -> World:
    world = tdp_world()
    world.ok(f"write {PHYSICAL + PAGE:#x} 1")
    return world


def at(world: World, gpa: int, level: int = 1) -> TdpIter:
    """A walk that stands on the SPTE of `level` for gpa."""
    it = TdpIter(world.kvm)
    it.start(world.kvm.sptep_to_sp(world.vcpu.mmu.root_hpa), level, gpa >> 12)
    while it.level > level:
        it.next()
    return it


def test_the_loser_of_a_race_changes_nothing_and_sees_the_winner(world: World) -> None:
    it = at(world, PAGE)
    mine = it.old_spte & ~D
    words = world.machine.arena.view()
    words[it.sptep >> 3] = it.old_spte & ~A
    before = world.stats
    assert not tdp_mmu_set_spte_atomic(world.kvm, it, mine)
    assert it.old_spte == world.kvm.read_spte(it.sptep) != mine
    assert not tdp_mmu_zap_spte_atomic(world.kvm, at_stale(it))
    assert world.stats == before
    assert tdp_mmu_set_spte_atomic(world.kvm, it, mine), "with the fresh value it works"


def at_stale(it: TdpIter) -> TdpIter:
    it.old_spte ^= D
    return it


def test_statistics_count_leaves(world: World) -> None:
    pages = world.kvm.stat.pages_4k
    it = at(world, PAGE)
    assert tdp_mmu_set_spte_atomic(world.kvm, it, it.old_spte & ~W)
    assert world.kvm.stat.pages_4k == pages
    tdp_mmu_set_spte(world.kvm, it.sptep, world.kvm.read_spte(it.sptep), SPTE_EMPTY, it.gfn, 1)
    assert world.kvm.stat.pages_4k == pages - 1


def test_zapping_with_a_freeze_flushes_before_the_entry_is_free(world: World) -> None:
    it = at(world, PAGE)
    requests = world.kvm.stat.remote_tlb_flush_requests
    assert tdp_mmu_zap_spte_atomic(world.kvm, it)
    assert world.kvm.read_spte(it.sptep) == SPTE_EMPTY
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    (event,) = (e for e in world.player.log.take() if e.name == "kvm_tdp_mmu_spte_changed")
    assert event.new_spte == SPTE_EMPTY, "the freeze is not told"


def test_a_page_must_not_replace_another(world: World) -> None:
    old = world.spte(PAGE)
    with pytest.raises(InvalidSpteChange):
        handle_changed_spte(world.kvm, PAGE >> 12, old, old + 0x1000, 1, 1)


@pytest.mark.parametrize("shared", [0, 1])
def test_a_removed_table_is_frozen_until_its_last_reader_leaves(world: World, shared: int) -> None:
    (leaf,) = (sp for sp in tables(world, 1) if sp.gfn == PAGE >> 12)
    it = at(world, PAGE, 2)
    rcu_read_lock(world.kvm)
    if shared:
        assert tdp_mmu_set_spte_atomic(world.kvm, it, SPTE_EMPTY)
    else:
        tdp_mmu_set_spte(world.kvm, it.sptep, it.old_spte, SPTE_EMPTY, it.gfn, 2)
    entries = world.kvm.read_table(leaf.hpa)
    frozen = world.kvm.frozen_spte
    assert entries[0] == frozen
    assert set(entries[1:]) == {frozen if shared else SPTE_EMPTY}
    assert world.kvm.sptep_to_sp(leaf.hpa) is leaf, "a reader may be in it"
    late = TdpIter(world.kvm)
    late.start(leaf, 1, PAGE >> 12)
    assert late.old_spte == frozen, "whoever is in the table gives up"
    rcu_read_unlock(world.kvm)
    with pytest.raises(LookupError):
        world.kvm.sptep_to_sp(leaf.hpa)
    world.ok("nop")


def test_what_is_below_goes_too() -> None:
    world = huge_world(f"map 0x1000 {2 * PHYSICAL:#x} 0x0 0x67 level=3")
    world.ok(f"read {PHYSICAL + PAGE:#x}")
    before, stat = len(world.kvm.owners), world.kvm.stat
    count = world.kvm.tdp_mmu_pages
    it = at(world, BIG, 3)
    world.player.log.take()
    assert tdp_mmu_set_spte_atomic(world.kvm, it, SPTE_EMPTY)
    assert stat.pages_2m == 0
    assert world.kvm.tdp_mmu_pages < count
    assert (
        names(list(world.player.log.take())).count("kvm_mmu_prepare_zap_page")
        == count - world.kvm.tdp_mmu_pages
    )
    assert len(world.kvm.owners) == before
    world.ok(f"read {PHYSICAL + BIG:#x}")


READ_ONLY = SPTE_MMU_PRESENT | P | U | A | SPTE_HOST_WRITABLE


@pytest.mark.parametrize(
    ("spte", "volatile"),
    [
        (READ_ONLY, False),
        (READ_ONLY & ~A, True),
        (READ_ONLY | SPTE_MMU_WRITABLE, True),
        (READ_ONLY | SPTE_MMU_WRITABLE | W, True),
        (READ_ONLY | SPTE_MMU_WRITABLE | W | D, False),
    ],
)
def test_what_may_change_without_the_lock(spte: int, volatile: bool) -> None:
    """A fast fault sets W where MMU-writable is set, the processor sets A, and D where W is set."""
    assert spte_has_volatile_bits(tdp_world().kvm, spte) == volatile
