"""SPTEs: bits, and the three ways of writing one (sptes-and-logging 1.2, 1.5, 1.6)."""

import pytest
from kvm.world import World

from shadowmmu.kvm.bits import SPTE_EMPTY
from shadowmmu.kvm.spte.spte import (
    is_executable,
    is_last_spte,
    is_shadow_present,
    make_nonleaf_spte,
    mmu_spte_clear_no_track,
    mmu_spte_clear_track_bits,
    mmu_spte_update,
    page_access,
    page_gfn,
    set_page_translation,
    spte_index,
    spte_to_pfn,
)
from shadowmmu.kvm.state.shadow_page import ShadowPage

P, W, U, A, D, PS, HW, MW, PRESENT = 1, 2, 4, 0x20, 0x40, 0x80, 0x200, 0x400, 0x800
NX = 1 << 63
WRITABLE = P | W | U | A | D | HW | MW | PRESENT
LOGGED = P | U | A | HW | MW | PRESENT
SHADOWED = P | U | A | HW | PRESENT
HOST_READ_ONLY = P | U | A | PRESENT


@pytest.fixture
def world() -> World:
    world = World("long4", "map 0x1000 0x400000 0x800000 0x67 n=8")
    world.ok("write 0x400000 1")
    return world


def test_predicates(world: World) -> None:
    assert not is_shadow_present(SPTE_EMPTY)
    assert not is_shadow_present(P)
    assert is_shadow_present(PRESENT)
    assert is_last_spte(PRESENT, 1)
    assert not is_last_spte(PRESENT, 2)
    assert is_last_spte(PRESENT | PS, 2)
    assert spte_index(0x5FF8) == 511
    assert spte_to_pfn(0x12345000 | WRITABLE | NX) == 0x12345
    assert is_executable(world.kvm, WRITABLE)
    assert not is_executable(world.kvm, WRITABLE | NX)


def test_nonleaf_allows_all(world: World) -> None:
    child = ShadowPage(1, 0x3701, 0x7000, 0)
    assert make_nonleaf_spte(world.kvm, child) == 0x7000 | PRESENT | P | W | U | A


@pytest.mark.parametrize(
    ("old", "new", "flush"),
    [
        (SPTE_EMPTY, WRITABLE, False),
        (WRITABLE, WRITABLE, False),
        (WRITABLE, LOGGED, True),
        (LOGGED, LOGGED, True),  # MMU-writable: the flush of the first protection may still be due
        (LOGGED, SHADOWED, True),
        (SHADOWED, SHADOWED, False),
        (SHADOWED, WRITABLE, False),
        (LOGGED, WRITABLE, False),
        (SHADOWED, SHADOWED & ~A, True),
        (WRITABLE, WRITABLE & ~D, True),
        (SHADOWED | D, SHADOWED, True),
        (HOST_READ_ONLY, HOST_READ_ONLY | NX, False),
    ],
)
def test_update_asks_for_a_flush_when_rights_are_lost(world: World, old: int, new: int, flush: bool) -> None:
    sptep = world.sptep(0x400000)
    words = world.machine.arena.view()
    words[sptep >> 3] = old
    assert mmu_spte_update(world.kvm, sptep, new) == flush
    assert world.kvm.read_spte(sptep) == new


def test_clearing_counts_what_was_present(world: World) -> None:
    sptep = world.sptep(0x400000)
    before = world.kvm.stat.pages_4k
    assert mmu_spte_clear_track_bits(world.kvm, sptep)
    assert world.kvm.stat.pages_4k == before - 1
    assert world.kvm.read_spte(sptep) == SPTE_EMPTY
    assert not mmu_spte_clear_track_bits(world.kvm, sptep)
    assert world.kvm.stat.pages_4k == before - 1
    world.machine.arena.view()[sptep >> 3] = 0x80000FEE00017
    mmu_spte_clear_no_track(world.kvm, sptep)
    assert world.kvm.read_spte(sptep) == SPTE_EMPTY


def test_translations_of_an_indirect_page(world: World) -> None:
    sp = world.page(4, 1)
    assert page_gfn(world.kvm, sp, 0) == 0x800
    assert page_access(world.kvm, sp, 0) == 7
    set_page_translation(world.kvm, sp, 5, 0xABCDE, 3)
    assert (page_gfn(world.kvm, sp, 5), page_access(world.kvm, sp, 5)) == (0xABCDE, 3)


@pytest.mark.parametrize(("level", "index", "gfn"), [(1, 5, 0x40005), (2, 5, 0x40A00), (3, 2, 0xC0000)])
def test_translations_of_a_direct_page(world: World, level: int, index: int, gfn: int) -> None:
    sp = ShadowPage(0x40000, 0x3580 | level, 0x7000, 0)
    assert page_gfn(world.kvm, sp, index) == gfn
    assert page_access(world.kvm, sp, index) == 5
    set_page_translation(world.kvm, sp, index, 1, 1)
    assert page_gfn(world.kvm, sp, index) == gfn


@pytest.mark.parametrize(
    ("gpte", "line", "bits"),
    [
        (0x67, "write 0x400000 1", WRITABLE),
        (0x67, "read 0x400000", WRITABLE),
        (0x27, "read 0x400000", SHADOWED),  # not dirty: read-only until written
        (0x27, "write 0x400000 1", WRITABLE),
        (0x65, "read 0x400000", SHADOWED),
        (0x63, "read 0x400000", WRITABLE & ~U),
        (0x63 | NX, "read 0x400000", WRITABLE & ~U | NX),
        (0x61, "read 0x400000", SHADOWED & ~U),
    ],
)
def test_a_leaf_carries_the_guest_s_rights(gpte: int, line: str, bits: int) -> None:
    """1.4: a fault's SPTE has A; D comes with W."""
    world = World("long4", f"map 0x1000 0x400000 0x800000 {gpte:#x}")
    world.ok(line)
    assert world.spte(0x400000) == world.hpa(0x800000) | bits


def test_prefetched_sptes_are_not_accessed(world: World) -> None:
    assert world.spte(0x400000) == world.hpa(0x800000) | WRITABLE
    assert world.spte(0x401000) == world.hpa(0x801000) | WRITABLE & ~A


def test_memory_that_the_host_may_not_write() -> None:
    world = World("long4", "slot 1 0x2000000 1M ro", "map 0x1000 0x400000 0x2000000 0x67")
    world.ok("read 0x400000")
    assert world.spte(0x400000) == world.hpa(0x2000000) | HOST_READ_ONLY


def test_write_protection_at_wp_0_is_lifted_for_the_kernel() -> None:
    """5.6.6: with CR0.WP=0 a supervisor's write makes the page writable and takes it from the user."""
    world = World("long4", "map 0x1000 0x400000 0x800000 0x65")
    world.ok("cr0 0x80000033", "write 0x400000 1")
    assert world.spte(0x400000) == world.hpa(0x800000) | WRITABLE & ~U
    world.ok("uread 0x400000")
    assert world.spte(0x400000) & (U | W) == U
    world.ok("cr4 0x100020", "write 0x400000 2")
    assert world.spte(0x400000) == world.hpa(0x800000) | WRITABLE & ~U | NX
