"""MAXPHYADDR of host and guest: which frames KVM can map, what an MMIO SPTE keeps, what is reserved."""

import pytest
from kvm.world import World, names

from shadowmmu import Vm
from shadowmmu.guest.play.machine import Machine
from shadowmmu.host.backing import Backing
from shadowmmu.kvm.bits import MEMSLOT_INVALID
from shadowmmu.kvm.memory.memory_region import RegionError, kvm_set_memory_region

NPT = "param kvm_amd npt=1"
GVA = 0x400000


# -- slots -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tdp_mmu", [0, 1])
@pytest.mark.parametrize("bits", [36, 40, 48, 52])
def test_with_nested_paging_slots_end_where_the_host_s_addresses_end(bits: int, tdp_mmu: int) -> None:
    world = World("long4", NPT, f"param kvm tdp_mmu={tdp_mmu}", f"hostbits {bits}")
    end = 1 << bits
    world.ok(f"slot 1 {end - 0x2000:#x} 8K")
    if bits < 52:
        refused = world.do(f"slot 2 {end:#x} 4K")
        assert refused.result == {"outcome": "error", "errno": "EINVAL"}
        assert refused.events == []


def test_a_slot_that_begins_below_and_ends_beyond_is_refused_too() -> None:
    world = World("long4", NPT)
    assert world.do("slot 1 0xfffffff000 8K").result["errno"] == "EINVAL"


def test_without_nested_paging_slots_end_at_52_bits() -> None:
    world = World("long4", "hostbits 36")
    world.ok("slot 1 0xffffffffff000 4K")


def test_an_overlap_is_found_before_the_limit() -> None:
    world = World("long4", NPT, "slot 1 0xfffffff000 4K")
    assert world.do("slot 2 0xfffffff000 8K").result["errno"] == "EEXIST"


def test_a_move_beyond_is_refused_when_all_is_zapped_already() -> None:
    """kvm_set_memslot invalidates the slot before kvm_prepare_memory_region looks where it would lie."""
    world = World("long4", NPT, "slot 1 0x2000000 1M", f"map 0x1000 {GVA:#x} 0x2000000 0x67")
    world.ok(f"write {GVA:#x} 7")
    generation = world.kvm.memslots_generation
    refused = world.do("movslot 1 0x10000000000")
    assert refused.result == {"outcome": "error", "errno": "EINVAL"}
    assert names(refused.events)[0] == "kvm_mmu_zap_all_fast"
    assert world.kvm.memslots_generation == generation + 4
    slot = world.kvm.memslot_of(0x2000)
    assert not slot.flags & MEMSLOT_INVALID


def test_a_slot_has_less_than_two_billion_pages() -> None:
    machine = Machine()
    mapping = machine.host.map(1, Backing.ANON)
    with pytest.raises(RegionError, match="at most 2"):
        kvm_set_memory_region(machine.kvm, 0, 0, 1 << 43, 0, mapping)


# -- prefaulting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tdp_mmu", [0, 1])
def test_prefaulting_beyond_finds_no_memory_and_maps_nothing(tdp_mmu: int) -> None:
    """2^48 must not come round to 0 in tables of four levels."""
    world = World("long4", NPT, f"param kvm tdp_mmu={tdp_mmu}", f"map 0x1000 {GVA:#x} 0x0 0x67")
    world.ok("nop")
    for gpa in (1 << 40, 1 << 48, 1 << 51):
        played = world.do(f"prefault {gpa:#x} 0x2000")
        assert played.result == {"outcome": "error", "errno": "ENOENT"}
        assert played.events == []
    world.ok(f"read {GVA:#x}", "prefault 0x0 0x1000")


def test_the_last_frame_can_be_prefaulted() -> None:
    world = World("long4", NPT, "slot 1 0xfffff00000 1M")
    world.ok("nop", "prefault 0xfffff00000 0x100000")
    assert world.spte(0xFFFFFFF000)


# -- MMIO --------------------------------------------------------------------------------------------------


def mmio_gpa(world: World, gva: int) -> str:
    (access,) = world.do(f"read {gva:#x}").result["mmio"]
    return str(access["gpa"])


@pytest.mark.parametrize("bits", [36, 40, 46, 51])
def test_an_mmio_spte_keeps_the_frame_s_bits_below_the_host_s_maxphyaddr(bits: int) -> None:
    """The first access knows the address from the walk; the second reads it from the SPTE."""
    high, low = 1 << bits | 0x5000, 1 << bits - 1 | 0x6000
    entries = [f"map 0x1000 {GVA:#x} {high:#x} 0x67", f"map 0x1000 {GVA + 0x1000:#x} {low:#x} 0x67"]
    world = World("long4", f"hostbits {bits}", "physbits 52", *entries)
    assert mmio_gpa(world, GVA) == f"{high:#x}"
    assert mmio_gpa(world, GVA + 0x1000) == f"{low:#x}"
    assert mmio_gpa(world, GVA) == "0x5000"
    assert mmio_gpa(world, GVA + 0x1000) == f"{low:#x}"
    world.check()


def test_in_a_direct_page_the_lost_bits_may_leave_a_frame_that_has_memory() -> None:
    """The audit, which `World` asks after each op, knows that KVM then answers for another frame."""
    world = World("long4", "physbits 46", f"map 0x1000 {GVA:#x} 0x40000000000 0xe7 level=2")
    assert mmio_gpa(world, GVA + 0x3000) == "0x40000003000"
    assert mmio_gpa(world, GVA + 0x5000) == "0x40000005000"
    assert mmio_gpa(world, GVA + 0x3000) == "0x3000"


def test_frames_at_2_to_the_51_are_mmio_like_others() -> None:
    """The bit that makes an MMIO SPTE fault is one of their own."""
    world = World("long4", "physbits 52", f"map 0x1000 {GVA:#x} 0x8000000009000 0x67")
    assert mmio_gpa(world, GVA) == "0x8000000009000"
    world.check()


@pytest.mark.parametrize("setup", [[], [NPT], [NPT, "param kvm tdp_mmu=0"]])
def test_a_host_of_52_bits_has_no_reserved_bit_to_cache_mmio_with(setup: list[str]) -> None:
    world = World("long4", *setup, "hostbits 52", f"map 0x1000 {GVA:#x} 0xd0000000 0x67")
    assert not world.kvm.enable_mmio_caching
    for _ in range(2):
        assert mmio_gpa(world, GVA) == "0xd0000000"
    assert world.stats["pf_mmio_spte_created"] == 0


def test_ept_caches_mmio_on_a_host_of_52_bits_too() -> None:
    world = World("long4", "vendor intel", "param kvm_intel ept=1", "hostbits 52",
                  f"map 0x1000 {GVA:#x} 0xd0000000 0x67")  # fmt: skip
    assert mmio_gpa(world, GVA) == "0xd0000000"
    assert world.stats["pf_mmio_spte_created"] == 1


# -- the guest's own ---------------------------------------------------------------------------------------


def test_reserved_bits_are_those_of_the_guest_s_maxphyaddr_where_kvm_walks() -> None:
    world = World("long4", "physbits 36", "hostbits 46", "slot 1 0x1000000000 1M",
                  f"map 0x1000 {GVA:#x} 0x1000000000 0x67")  # fmt: skip
    assert world.do(f"read {GVA:#x}").result["error_code"] == "0x9"
    assert world.do("hostsregs cr3=0x1000001000").result["errno"] == "EINVAL"
    assert world.do("cr3 0x1000001000").result["vector"] == 13


def test_under_nested_paging_they_are_those_of_the_host_s() -> None:
    """The processor walks the guest's tables, and loads its CR3; KVM looks at a CR3 of user space only."""
    entry = f"map 0x1000 {GVA:#x} 0x1000000000 0x67"
    world = World("long4", NPT, "physbits 36", "slot 1 0x1000000000 1M", "tramp 0x1000000000", entry)
    world.ok("nop", f"read {GVA:#x}", "cr3 0x1000000000")
    assert world.do("hostsregs cr3=0x1000001000").result["errno"] == "EINVAL"


def test_a_cr3_beyond_the_host_s_is_refused_by_the_processor() -> None:
    world = World("long4", NPT, "physbits 52")
    assert world.do("cr3 0x10000001000").result == {"outcome": "exit", "reason": 9}, "as QEMU's does"
    world.vcpu.bad_cr3_fails_entry = False
    assert world.do("cr3 0x10000001000").result["vector"] == 13, "as the manual says"
    world.ok("read 0xffffffff80000000")


def test_a_32_bit_guest_loads_32_bits() -> None:
    world = World("pae", NPT)
    world.ok("cr3 0x1000")


def test_the_public_face_has_both() -> None:
    assert Vm().machine.kvm.parameters.host_maxphyaddr == Vm().vcpus[0].state.maxphyaddr == 46
    vm = Vm(hostbits=40, physbits=36, params={"kvm_amd.npt": 1})
    assert vm.machine.kvm.max_gfn() == (1 << 28) - 1
    assert vm.vcpus[0].state.maxphyaddr == 36
    for wrong in ({"hostbits": 31}, {"physbits": 53}):
        with pytest.raises(ValueError, match="must be a number from 32 to 52"):
            Vm(**wrong)  # type: ignore[arg-type]
