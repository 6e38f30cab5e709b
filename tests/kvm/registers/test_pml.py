"""Page-modification logging (sptes-and-logging 2.3, 2.4, 2.6, 2.10)."""

from array import array

import pytest
from kvm.ept_world import ept_world, exits
from kvm.tdp_world import PHYSICAL
from kvm.world import World, names

from shadowmmu.guest.play.accesses import run_accesses
from shadowmmu.guest.scenario.setup import ScenarioError
from shadowmmu.kvm.bits import REQ_UPDATE_CPU_DIRTY_LOGGING
from shadowmmu.kvm.guest_access.dirty_ring import dirty_ring_of
from shadowmmu.kvm.registers.pml import vmx_flush_pml_buffer
from shadowmmu.kvm.tracepoints.host import DirtyRingPush
from shadowmmu.kvm.tracepoints.mmu import TdpMmuSpteChanged
from shadowmmu.vm import Vm
from shadowmmu.x86.bits import EPT_D, W

BIG = 0x10000000
GVA = PHYSICAL + BIG
KVM_CAP_DIRTY_LOG_RING = 192


def pml_world(*setup: str, tdp_mmu: int = 1) -> World:
    """Slot 1, 4 MiB of small pages at BIG, of which the first four are mapped and written."""
    world = ept_world("slot 1 0x10000000 4M", *setup, tdp_mmu=tdp_mmu)
    for page in range(4):
        world.ok(f"write {GVA + 0x1000 * page:#x} 1")
    return world


@pytest.fixture(params=[0, 1], ids=["shadow pages", "tdp_mmu"])
def world(request: pytest.FixtureRequest) -> World:
    world = pml_world(tdp_mmu=request.param)
    world.ok("dirtylog on 1")
    return world


def dirty(world: World) -> list[int]:
    return [(int(gpa, 16) - BIG) >> 12 for gpa in world.do("getdirty 1").result["dirty"]]


def test_pages_lose_dirty_but_stay_writable(world: World) -> None:
    for page in range(4):
        spte = world.spte(BIG + 0x1000 * page)
        assert spte & W
        assert not spte & EPT_D
    assert dirty(world) == []


def test_a_write_is_logged_without_a_fault(world: World) -> None:
    world.ok(f"write {GVA:#x} 1")
    assert dirty(world) == [0]
    before = world.stats
    assert exits(world.ok(f"write {GVA + 0x2000:#x} 1", f"write {GVA + 0x2000:#x} 2")) == []
    assert world.stats["pf_taken"] == before["pf_taken"]
    assert dirty(world) == [2]
    assert dirty(world) == [], "reading the log clears Dirty again"
    world.ok(f"read {GVA + 0x2000:#x}")
    assert dirty(world) == []
    world.ok(f"write {GVA + 0x2000:#x} 3")
    assert dirty(world) == [2]


def test_reading_the_log_clears_dirty_of_what_is_in_it() -> None:
    world = pml_world()
    world.ok("dirtylog on 1", f"write {GVA:#x} 1", f"write {GVA + 0x1000:#x} 1")
    changed = [event for event in world.do("getdirty 1").events if isinstance(event, TdpMmuSpteChanged)]
    assert [(event.gfn, event.old_spte ^ event.new_spte) for event in changed] == [
        (BIG >> 12, EPT_D),
        ((BIG >> 12) + 1, EPT_D),
    ]


def test_manual_protection(world: World) -> None:
    world.kvm.parameters.manual_dirty_log_protect = True
    world.ok(f"write {GVA:#x} 1")
    assert dirty(world) == [0]
    assert dirty(world) == [0], "nothing is cleared"
    world.ok("cleardirty 1 0 64")
    assert not world.spte(BIG) & EPT_D
    assert dirty(world) == []
    world.ok(f"write {GVA:#x} 1")
    assert dirty(world) == [0]


def test_a_page_mapped_by_a_fault_is_logged_by_kvm(world: World) -> None:
    world.ok(f"read {GVA + 0x20000:#x}")
    assert world.spte(BIG + 0x20000) & EPT_D
    assert dirty(world) == [32]


def test_a_large_page_is_protected_so_that_it_is_split_first() -> None:
    world = ept_world("slot 1 0x10000000 4M huge2m", "param kvm eager_page_split=0")
    world.ok(f"write {GVA:#x} 1", "dirtylog on 1")
    spte = world.spte(BIG)
    assert world.level(BIG) == 2
    assert not spte & (W | EPT_D)
    world.ok(f"write {GVA:#x} 1")
    assert world.level(BIG) == 1
    assert dirty(world) == [0]


def test_it_is_off_until_a_slot_logs() -> None:
    world = pml_world("slot 2 0x20000000 64K")
    ept = world.vcpu.cpu.ept
    for line, on in (
        ("nop", False),
        ("dirtylog on 1", True),
        ("dirtylog on 2", True),
        ("dirtylog off 1", True),
        ("dirtylog off 2", False),
        ("dirtylog on 1", True),
        ("delslot 1", False),
    ):
        world.ok(line, "nop")
        assert ept.pml_enabled == on, line
        assert not world.vcpu.requests & REQ_UPDATE_CPU_DIRTY_LOGGING


def test_a_vcpu_that_comes_late_logs_too() -> None:
    world = ept_world("slot 1 0x10000000 4M dirty")
    assert world.vcpu.cpu.ept.pml_enabled
    world.ok(f"write {GVA:#x} 1")
    assert dirty(world) == [0]


@pytest.mark.parametrize(("eptad", "pml"), [(0, 1), (1, 0)])
def test_without_it_pages_are_protected(eptad: int, pml: int) -> None:
    world = ept_world("slot 1 0x10000000 4M", eptad=eptad, pml=pml)
    world.ok(f"write {GVA:#x} 1", "dirtylog on 1")
    assert world.kvm.parameters.cpu_dirty_log_size == 0
    assert not world.spte(BIG) & W
    events = world.ok(f"write {GVA:#x} 1")
    assert exits(events) == ["EPT_VIOLATION"]
    assert "fast_page_fault" in names(events)
    assert dirty(world) == [0]


# -- the buffer --------------------------------------------------------------------------------------------


def written(vm: Vm, pages: int) -> list[str]:
    """Write that many pages, all mapped and with Dirty clear, and read the log; the exits on the way."""
    vm.map(GVA, 0, pages << 12)
    addresses = array("Q", [GVA + 0x1000 * page for page in range(pages)])
    vm.vcpus[0].run(addresses, bytes([1]) * pages)
    vm.slots[0].dirty_log = True
    vm.vcpus[0].run(addresses[:1], bytes([0]))
    vm.slots[0].dirty_pages()
    with vm.trace() as events:
        vm.vcpus[0].run(addresses, bytes([1]) * pages)
        return exits(list(events)) + [name for name in names(list(events)) if name == "kvm_pml_full"]


@pytest.mark.parametrize("tdp_mmu", [True, False])
@pytest.mark.parametrize("pages", [1, 400, 1400])
def test_full(tdp_mmu: bool, pages: int) -> None:
    """512 entries, of which some go to the guest's tables; the buffer is emptied by every exit."""
    vm = Vm("16M", vendor="intel", params={"kvm_intel.ept": 1, "kvm.tdp_mmu": tdp_mmu})
    full = pages // 512
    assert written(vm, pages) == ["PML_FULL"] * full + ["kvm_pml_full"] * full
    assert set(vm.slots[0].dirty_pages()) >= set(range(pages))
    assert not set(vm.slots[0].dirty_pages()) & set(range(pages))


def test_user_space_kicks_a_running_vcpu() -> None:
    """What is in the buffer of a vCPU that has not left the guest is in the log that user space reads."""
    vm = Vm("16M", vendor="intel", params={"kvm_intel.ept": 1})
    vm.map(GVA, 0, "16K")
    vm.vcpus[0].write(GVA, 1)
    vm.slots[0].dirty_log = True
    vcpu = vm.vcpus[0].state
    vm.vcpus[0].read(GVA)
    vm.slots[0].dirty_pages()
    assert run_accesses(vcpu, memoryview(array("Q", [GVA])), memoryview(bytearray([1])), 0) == 1
    assert vcpu.cpu.ept.pml_index < 511
    assert 0 in vm.slots[0].dirty_pages()
    assert vcpu.cpu.ept.pml_index == 511


def test_the_index_wraps_and_is_reset() -> None:
    world = pml_world()
    world.ok("dirtylog on 1")
    ept = world.vcpu.cpu.ept
    memory = world.machine.arena.view()
    for entry in range(512):
        memory[(ept.pml_address >> 3) + entry] = BIG + 0x1000 * (entry % 8)
    ept.pml_index = 0xFFFF
    vmx_flush_pml_buffer(world.vcpu)
    assert dirty(world) == list(range(8))
    assert ept.pml_index == 511
    ept.pml_index = 510
    memory[(ept.pml_address >> 3) + 511] = BIG + 0x9000
    vmx_flush_pml_buffer(world.vcpu)
    assert dirty(world) == [9]


def test_entries_of_slots_that_are_gone_or_do_not_log_are_dropped() -> None:
    world = pml_world()
    world.ok("dirtylog on 1")
    ept = world.vcpu.cpu.ept
    for offset, gpa in ((511, 0x900000), (510, 0x70000000)):
        world.machine.arena.view()[(ept.pml_address >> 3) + offset] = gpa
    ept.pml_index = 509
    vmx_flush_pml_buffer(world.vcpu)
    assert dirty(world) == []


def test_the_ring_is_filled_at_the_exit() -> None:
    """And has room for a whole buffer beyond its soft limit."""
    world = pml_world(f"cap {KVM_CAP_DIRTY_LOG_RING} 16384")
    ring = dirty_ring_of(world.vcpu)
    assert ring.soft_limit == 1024 - 64 - 512
    world.ok("dirtylog on 1")
    events = world.ok(f"write {GVA + 0x1000:#x} 1")
    assert [event.offset for event in events if isinstance(event, DirtyRingPush)] == [1]
    order = names(world.ok(f"write {GVA + 0x2000:#x} 1", f"write {GVA:#x} 1"))
    assert order == ["kvm_exit", "kvm_dirty_ring_push"], "after the exit that ends the operation"


def test_rings_may_not_be_too_small_for_it() -> None:
    with pytest.raises(ScenarioError, match="EINVAL, a dirty ring of 8192 bytes"):
        ept_world(f"cap {KVM_CAP_DIRTY_LOG_RING} 8192")
