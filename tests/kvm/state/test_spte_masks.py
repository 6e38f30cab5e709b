"""The formats of SPTEs (sptes-and-logging 1.1, 1.2, 1.5, 1.6)."""

import pytest
from kvm.ept_world import PAGE, ept_world
from kvm.tdp_world import PHYSICAL, tdp_world
from kvm.world import World

from shadowmmu.kvm.bits import ROLE_AD_DISABLED, ROLE_LEVEL
from shadowmmu.kvm.design.design import Design, design_of
from shadowmmu.kvm.spte.mmio import get_mmio_spte_gfn, is_mmio_spte
from shadowmmu.kvm.spte.spte import (
    is_access_track_spte,
    is_executable,
    mark_spte_for_access_track,
    mmu_spte_update,
    restore_acc_track_spte,
)
from shadowmmu.kvm.state.spte_masks import LEGACY_MASKS, ept_masks
from shadowmmu.kvm.tdp.spte_changed import spte_has_volatile_bits
from shadowmmu.x86.bits import ADDR

R, W, X, WB, IPAT, PS, A, D, PRESENT = 1, 2, 4, 6 << 3, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 11
NO_AD, SAVED_R, SAVED_X, HW, MW, NO_VE = 1 << 52, 1 << 54, 1 << 56, 1 << 57, 1 << 58, 1 << 63
LEAF = NO_VE | HW | MW | PRESENT | IPAT | WB
HOLE = 0xD0000000


def bits(world: World, gpa: int = PAGE) -> int:
    return world.spte(gpa) & ~ADDR


@pytest.mark.parametrize("tdp_mmu", [0, 1])
@pytest.mark.parametrize(
    ("eptad", "line", "expected"),
    [
        (1, "read", LEAF | A | D | R | W | X),
        (0, "read", LEAF | NO_AD | R | W | X),
    ],
)
def test_a_leaf(tdp_mmu: int, eptad: int, line: str, expected: int) -> None:
    world = ept_world(eptad=eptad, tdp_mmu=tdp_mmu)
    world.ok(f"{line} {PHYSICAL + PAGE:#x}")
    assert bits(world) == expected
    assert is_executable(world.kvm, world.spte(PAGE))


@pytest.mark.parametrize("tdp_mmu", [0, 1])
@pytest.mark.parametrize("eptad", [0, 1])
def test_a_link_and_the_role(tdp_mmu: int, eptad: int) -> None:
    """Everything is allowed, no memory type; without Accessed and Dirty roles say so."""
    world = ept_world(eptad=eptad, tdp_mmu=tdp_mmu)
    root = world.kvm.sptep_to_sp(world.vcpu.mmu.root_hpa)
    (link, *_) = [value for value in world.kvm.read_table(root.hpa) if value & PRESENT]
    assert link & ~ADDR == NO_VE | PRESENT | R | W | X | (A if eptad else NO_AD)
    assert bool(root.role & ROLE_AD_DISABLED) == (not eptad)
    assert bool(world.kvm.sptep_to_sp(link & ADDR).role & ROLE_AD_DISABLED) == (not eptad)


def test_a_huge_page_and_nx() -> None:
    world = ept_world("slot 1 0x10000000 4M huge2m", "param kvm nx_huge_pages=force")
    world.ok(f"read {PHYSICAL + 0x10000000:#x}")
    assert bits(world, 0x10000000) == LEAF | PS | A | D | R | W
    assert not is_executable(world.kvm, world.spte(0x10000000))


def test_a_read_only_slot() -> None:
    world = ept_world("slot 1 0x10000000 64K ro")
    world.ok(f"read {PHYSICAL + 0x10000000:#x}")
    assert bits(world, 0x10000000) == (LEAF & ~(HW | MW)) | A | R | X


def test_kernel_6_1_has_no_bit_against_ve() -> None:
    world = ept_world(kernel="6.1.176")
    world.ok(f"write {PHYSICAL + PAGE:#x} 1", f"read {PHYSICAL + HOLE:#x}")
    assert bits(world) == (LEAF & ~NO_VE) | A | D | R | W | X
    assert world.kvm.shadow_mmio_mask == 7
    assert is_mmio_spte(world.kvm, world.spte(HOLE))


def test_mmio() -> None:
    """Writable and executable but not readable; no rights of the guest's are kept."""
    world = ept_world()
    world.ok(f"read {PHYSICAL + HOLE:#x}")
    spte = world.spte(HOLE)
    assert spte & (NO_VE | PRESENT | 7) == 6
    assert is_mmio_spte(world.kvm, spte)
    assert get_mmio_spte_gfn(world.kvm, spte) == HOLE >> 12
    for other in (0, NO_VE, world.kvm.frozen_spte, LEAF | R | W | X, LEAF | NO_AD | SAVED_R, NO_VE | 6):
        assert not is_mmio_spte(world.kvm, other)


def test_masks_of_every_processor() -> None:
    """Where X alone is not known R is always set; the guest's PAT counts if KVM does not ignore it."""
    masks = ept_masks(Design(), has_ad_bits=True, has_exec_only=False, ignore_pat=False)
    assert masks.present == NO_VE | R
    assert masks.leaf_bits == NO_VE | R | PRESENT | WB
    assert (masks.young, masks.written, masks.flush) == (A, D, A | D)
    without = ept_masks(design_of("6.1.176"), has_ad_bits=False, has_exec_only=True, ignore_pat=True)
    assert without.leaf_bits == NO_AD | PRESENT | WB | IPAT
    assert (without.young, without.written, without.flush) == (R | W | X, W, R | W)
    assert LEGACY_MASKS.acc_track == 0


def test_levels() -> None:
    """Five only where the guest has more than 48 address bits and the host five levels."""
    for mode, physbits, levels in (("long4", 52, 4), ("long5", 40, 4), ("long5", 48, 4), ("long5", 52, 5)):
        world = World(mode, "vendor intel", "param kvm_intel ept=1", f"physbits {physbits}")
        world.ok("nop")
        assert world.vcpu.mmu.root_role & ROLE_LEVEL == levels


# -- access tracking ---------------------------------------------------------------------------------------


@pytest.fixture
def tracking() -> World:
    return ept_world(eptad=0)


@pytest.mark.parametrize(
    ("before", "tracked", "restored"),
    [
        (R | W | X, SAVED_R | SAVED_X, R | X),
        (R | X, SAVED_R | SAVED_X, R | X),
        (R | W, SAVED_R, R),
        (R, SAVED_R, R),
    ],
)
def test_rights_are_kept_aside_but_w(tracking: World, before: int, tracked: int, restored: int) -> None:
    kvm, leaf = tracking.kvm, LEAF | NO_AD | 0x12345000
    spte = mark_spte_for_access_track(kvm, leaf | before)
    assert spte == leaf | tracked
    assert is_access_track_spte(kvm, spte)
    assert not is_access_track_spte(kvm, leaf | before)
    assert mark_spte_for_access_track(kvm, spte) == spte, "once is enough"
    assert restore_acc_track_spte(kvm, spte) == leaf | restored


def test_with_accessed_it_is_just_cleared() -> None:
    kvm = ept_world().kvm
    spte = LEAF | A | D | R | W | X
    assert mark_spte_for_access_track(kvm, spte) == spte & ~A
    assert not is_access_track_spte(kvm, spte & ~A)
    legacy = tdp_world().kvm
    assert mark_spte_for_access_track(legacy, 0xE67) == 0xE47


@pytest.mark.parametrize(
    ("eptad", "spte", "volatile"),
    [
        (1, LEAF | A | D | R | W | X, False),
        (1, LEAF | A | R | W | X, True),
        (1, LEAF | D | R | W | X, True),
        (1, LEAF | A | R | X, True),
        (1, (LEAF & ~MW) | A | R | X, False),
        (0, LEAF | NO_AD | R | W | X, False),
        (0, LEAF | NO_AD | R | X, True),
        (0, (LEAF & ~MW) | NO_AD | R | X, False),
        (0, (LEAF & ~MW) | NO_AD | SAVED_R | SAVED_X, True),
    ],
)
def test_volatile_bits(eptad: int, spte: int, volatile: bool) -> None:
    assert spte_has_volatile_bits(ept_world(eptad=eptad).kvm, spte) == volatile


@pytest.mark.parametrize(
    ("eptad", "old", "new", "flush"),
    [
        (1, A | D | R | W | X, D | R | W | X, True),
        (1, A | D | R | W | X, A | R | W | X, True),
        (1, A | R | X, A | R | X, True),  # MMU-writable: the flush of a first protection may still be due
        (0, R | W | X, R | W | X, False),
        (0, R | W | X, R | X, True),
        (0, R | W | X, SAVED_R | SAVED_X, True),
        (0, SAVED_R | SAVED_X, R | W | X, False),
    ],
)
def test_what_needs_a_flush(eptad: int, old: int, new: int, flush: bool) -> None:
    world = ept_world(eptad=eptad, tdp_mmu=0)
    world.ok(f"write {PHYSICAL + PAGE:#x} 1")
    sptep = world.sptep(PAGE)
    kept = LEAF | (0 if eptad else NO_AD) | world.spte(PAGE) & ADDR
    world.machine.arena.view()[sptep >> 3] = kept | old
    assert mmu_spte_update(world.kvm, sptep, kept | new) == flush
