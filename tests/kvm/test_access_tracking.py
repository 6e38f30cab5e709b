"""Without Accessed in EPT a page that is to be watched loses its rights; the next access is a fast fault."""

import pytest
from kvm.ept_world import PAGE, age, ept_world
from kvm.tdp_world import PHYSICAL
from kvm.world import World, names

from shadowmmu.kvm.bits import SPTE_MMU_PRESENT
from shadowmmu.kvm.memory.notifier import MmuNotifier
from shadowmmu.kvm.spte.spte import is_access_track_spte
from shadowmmu.kvm.tracepoints.mmu import FastPageFault, TdpMmuSpteChanged
from shadowmmu.x86.bits import EPT_R, EPT_RWX, EPT_W, EPT_X, PS

GVA = PHYSICAL + PAGE
BIG = 0x10000000


@pytest.fixture(params=[0, 1], ids=["shadow pages", "tdp_mmu"])
def world(request: pytest.FixtureRequest) -> World:
    world = ept_world("slot 1 0x10000000 8M huge2m", eptad=0, tdp_mmu=request.param)
    world.ok(f"write {GVA:#x} 1", f"write {PHYSICAL + BIG:#x} 1")
    return world


def is_tracked(world: World, gpa: int = PAGE) -> bool:
    assert world.spte(gpa) & SPTE_MMU_PRESENT
    return is_access_track_spte(world.kvm, world.spte(gpa))


@pytest.mark.parametrize(
    ("line", "rights"),
    [
        (f"read {GVA:#x}", EPT_R | EPT_X),
        (f"exec {GVA:#x}", EPT_R | EPT_X),
        (f"write {GVA:#x} 2", EPT_RWX),
    ],
)
def test_one_access_brings_its_rights_back(world: World, line: str, rights: int) -> None:
    """W only to a write: reading first and writing then are two faults, both fast."""
    before = world.stats
    assert age(world)
    assert is_tracked(world)
    assert not age(world), "nobody accessed it"
    events = world.do(line).events
    assert world.spte(PAGE) & EPT_RWX == rights
    (fast,) = (event for event in events if isinstance(event, FastPageFault) and event.fixed)
    assert is_access_track_spte(world.kvm, fast.old_spte)
    assert fast.new_spte == world.spte(PAGE)
    assert world.stats["pf_fast"] == before["pf_fast"] + 1
    world.ok(f"write {GVA:#x} 3")
    assert world.spte(PAGE) & EPT_RWX == EPT_RWX
    assert world.stats["pf_fast"] == before["pf_fast"] + (1 if rights & EPT_W else 2)
    assert age(world)


def test_asking_alone_takes_nothing(world: World) -> None:
    hva, spte = world.machine.hva(PAGE), world.spte(PAGE)
    assert MmuNotifier(world.kvm).test_young(hva)
    assert world.spte(PAGE) == spte
    age(world)
    assert not MmuNotifier(world.kvm).test_young(hva)


def test_the_change_is_traced() -> None:
    world = ept_world(eptad=0)
    world.ok(f"write {GVA:#x} 1")
    before = world.spte(PAGE)
    world.player.log.take()
    age(world)
    (changed,) = (event for event in world.player.log.take() if isinstance(event, TdpMmuSpteChanged))
    assert (changed.old_spte, changed.new_spte) == (before, world.spte(PAGE))


def test_a_write_to_a_page_that_logs_is_logged_when_it_gets_w(world: World) -> None:
    world.ok("dirtylog on 1", f"write {PHYSICAL + BIG:#x} 1")
    world.do("getdirty 1")
    age(world, BIG)
    assert is_tracked(world, BIG)
    world.ok(f"read {PHYSICAL + BIG:#x}")
    assert world.do("getdirty 1").result["dirty"] == []
    world.ok(f"write {PHYSICAL + BIG:#x} 1")
    assert world.do("getdirty 1").result["dirty"] == [f"{BIG:#x}"]


def test_a_large_page_that_logs_gets_no_w(world: World) -> None:
    age(world, BIG)
    world.player.kvm.parameters.dirty_log_initially_set = True
    world.player.kvm.parameters.manual_dirty_log_protect = True
    world.ok("dirtylog on 1")
    assert world.spte(BIG) & PS
    world.ok(f"write {PHYSICAL + BIG:#x} 1")
    assert world.level(BIG) == 1


def test_a_tracked_large_page_is_split_as_it_is() -> None:
    world = ept_world("slot 1 0x10000000 8M huge2m", eptad=0, pml=0)
    world.ok(f"read {PHYSICAL + BIG:#x}")
    age(world, BIG)
    world.ok("dirtylog on 1")
    assert world.level(BIG) == world.level(BIG + 0x1000) == 1
    assert is_tracked(world, BIG + 0x1000)
    world.ok(f"read {PHYSICAL + BIG + 0x1000:#x}")
    assert not is_tracked(world, BIG + 0x1000)


def test_small_parts_of_a_tracked_nx_page_get_x_kept_aside() -> None:
    world = ept_world("slot 1 0x10000000 8M huge2m", "param kvm nx_huge_pages=force", eptad=0)
    world.ok(f"read {PHYSICAL + BIG:#x}")
    assert world.spte(BIG) & EPT_RWX == EPT_R | EPT_W
    age(world, BIG)
    world.ok("dirtylog on 1")
    assert is_tracked(world, BIG + 0x1000)
    world.do(f"exec {PHYSICAL + BIG + 0x1000:#x}")
    assert world.spte(BIG + 0x1000) & EPT_RWX == EPT_R | EPT_X


def test_pages_mapped_before_they_are_needed_are_tracked() -> None:
    """KVM_PRE_FAULT_MEMORY: without Accessed nothing else tells that nobody has used them."""
    world = ept_world(eptad=0)
    world.ok("prefault 0x900000 0x2000")
    assert is_tracked(world, 0x900000)
    events = world.ok(f"write {PHYSICAL + 0x900000:#x} 1")
    (fast,) = (event for event in events if isinstance(event, FastPageFault) and event.fixed)
    assert fast.cr2_or_gpa == 0x900000
    assert world.spte(0x900000) & EPT_RWX == EPT_RWX


def test_neighbours_are_mapped_only_with_accessed() -> None:
    for eptad in (0, 1):
        world = ept_world(eptad=eptad, tdp_mmu=0)
        world.ok(f"read {GVA:#x}")
        assert world.is_mapped(PAGE + 0x1000) == bool(eptad)


def test_faults_that_might_be_fast_are_tried() -> None:
    """Any fault without P might be due to lost rights, so that the tracepoint fires for each."""
    for eptad in (0, 1):
        world = ept_world(eptad=eptad)
        events = names(world.ok(f"read {GVA:#x}"))
        assert ("fast_page_fault" in events) == (not eptad)
