"""SPTEs and roles of EPT since 7.3 (kernel-7.3 1.2, 1.3, 8.3; recorded on 7.3.4's kvm_intel)."""

import pytest
from kvm.ept_world import PAGE, age, ept_world
from kvm.tdp_world import PHYSICAL
from kvm.world import World

from shadowmmu.kvm.bits import ROLE_AD_DISABLED, ROLE_SMEP
from shadowmmu.kvm.spte.spte import is_access_track_spte, is_executable, restore_acc_track_spte
from shadowmmu.kvm.tracepoints.mmu import SetSpte
from shadowmmu.show.decode import decode_ept, parse_spte
from shadowmmu.x86.bits import ADDR

R, W, X, WB, IPAT, PS, A, D, XU, PRESENT = 1, 2, 4, 6 << 3, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 11
SAVED_R, HW, SAVED_X, MW, NO_AD, SAVED_XU, NO_VE = (
    1 << 52,
    1 << 53,
    1 << 54,
    1 << 55,
    1 << 60,
    1 << 62,
    1 << 63,
)
LEAF = NO_VE | HW | MW | PRESENT | IPAT | WB
GVA = PHYSICAL + PAGE


def world_7(*setup: str, **options: int) -> World:
    return ept_world(*setup, **options, kernel="7.3.4")  # type: ignore[arg-type]


def bits(world: World, gpa: int = PAGE) -> int:
    return world.spte(gpa) & ~ADDR


@pytest.mark.parametrize("tdp_mmu", [0, 1])
@pytest.mark.parametrize("eptad", [0, 1])
def test_a_leaf(eptad: int, tdp_mmu: int) -> None:
    world = world_7(eptad=eptad, tdp_mmu=tdp_mmu)
    world.ok(f"write {GVA:#x} 1")
    assert bits(world) == LEAF | R | W | X | XU | A | D | (0 if eptad else NO_AD)
    assert is_executable(world.kvm, world.spte(PAGE))


@pytest.mark.parametrize("eptad", [0, 1])
def test_what_points_to_a_table_is_accessed_only_if_the_processor_sets_it(eptad: int) -> None:
    world = world_7(eptad=eptad)
    root = world.kvm.sptep_to_sp(world.vcpu.mmu.root_hpa)
    (link, *_) = [value for value in world.kvm.read_table(root.hpa) if value & PRESENT]
    assert link & ~ADDR == NO_VE | PRESENT | R | W | X | XU | (A if eptad else NO_AD)
    assert bool(root.role & ROLE_AD_DISABLED) == (not eptad)


@pytest.mark.parametrize("tdp_mmu", [0, 1])
def test_access_tracking_sets_all_rights_aside_and_clears_the_software_bit(tdp_mmu: int) -> None:
    world = world_7(eptad=0, tdp_mmu=tdp_mmu)
    world.ok(f"write {GVA:#x} 1")
    assert age(world)
    assert bits(world) == LEAF | NO_AD | D | SAVED_R | SAVED_X | SAVED_XU
    assert is_access_track_spte(world.kvm, world.spte(PAGE))
    assert not age(world)
    world.ok(f"read {GVA:#x}")
    assert bits(world) == LEAF | NO_AD | D | A | R | X | XU


def test_without_software_bits_nothing_is_accessed_or_dirty() -> None:
    world = ept_world(eptad=0)
    assert world.kvm.shadow_accessed_mask == world.kvm.shadow_dirty_mask == 0
    spte = LEAF | NO_AD | 0x12345000
    assert restore_acc_track_spte(world_7(eptad=0).kvm, spte | SAVED_R) == spte | R | A


def test_a_huge_page_under_the_mitigation_is_executable_for_nobody() -> None:
    world = world_7("slot 1 0x10000000 4M huge2m", "param kvm nx_huge_pages=force")
    world.ok(f"read {PHYSICAL + 0x10000000:#x}")
    assert bits(world, 0x10000000) == LEAF | PS | A | D | R | W
    events = world.ok(f"read {PHYSICAL + 0x10200000:#x}")
    (made,) = (event for event in events if isinstance(event, SetSpte))
    assert made.permissions == "rw--"
    assert SetSpte(0, LEAF | R | X | XU, 0, 1, X | XU).permissions == "r-xu"
    assert SetSpte(0, LEAF | R | X, 0, 1, X).permissions == "r-xu", "before, u was R"


@pytest.mark.parametrize(
    ("host", "mbec", "kernel", "has"),
    [
        ("host exitinfo=yes", 1, "7.3.4", True),
        ("host exitinfo=yes", 0, "7.3.4", False),
        ("host exitinfo=no", 1, "7.3.4", False),
        ("host exitinfo=yes", 1, "6.12.111", False),
    ],
)
def test_mode_based_execute_control_is_in_the_role(host: str, mbec: int, kernel: str, has: bool) -> None:
    parameters = f"param kvm_intel ept=1 mbec={mbec}"
    world = World("long4", "vendor intel", host, parameters, kernel=kernel)
    world.ok("nop")
    assert bool(world.vcpu.mmu.root_role & ROLE_SMEP) == has
    pages = [page for page in world.kvm.owners if page is not None and not page.special]
    assert {bool(page.role & ROLE_SMEP) for page in pages} == {has}


def test_shadow_paging_on_intel_has_no_such_role() -> None:
    world = World("long4", "vendor intel", kernel="7.3.4")
    world.ok("nop")
    assert not world.vcpu.mmu.root_role & ROLE_SMEP


def test_decoded_by_the_kernel_s_layout() -> None:
    word = LEAF | NO_AD | SAVED_R | SAVED_X | SAVED_XU | D | 0x12345000
    tracked = decode_ept(parse_spte(f"{word:#x}"), design=world_7().kvm.design)
    assert tracked.title.startswith("access-tracked leaf SPTE")
    names = {field.name for field in tracked.fields if field.value}
    assert {"saved R", "saved X", "saved XU", "host-writable", "MMU-writable", "A/D type", "D"} <= names
    assert tracked.encoded() == word
    accessed = decode_ept(parse_spte(f"{LEAF | R | W | X | XU | A | D:#x}"), design=world_7().kvm.design)
    assert {"XU", "A", "D"} <= {field.name for field in accessed.fields if field.value}
    assert "KVM sets no such bit here" not in {field.meaning for field in accessed.fields}
