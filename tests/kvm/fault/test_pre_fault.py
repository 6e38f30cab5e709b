"""KVM_PRE_FAULT_MEMORY."""

import errno

import pytest
from kvm.tdp_world import BIG, PHYSICAL, huge_world, tdp_world
from kvm.world import World

from shadowmmu.kvm.fault.pre_fault import kvm_vcpu_pre_fault_memory
from shadowmmu.kvm.memory.memory_region import RegionError
from shadowmmu.kvm.pages.zap import kvm_mmu_zap_all_fast
from shadowmmu.x86.bits import PS, A, W


@pytest.mark.parametrize("tdp_mmu", [0, 1])
def test_pages_are_mapped_but_not_accessed(tdp_mmu: int) -> None:
    world = World("long4", "param kvm_amd npt=1", f"param kvm tdp_mmu={tdp_mmu}")
    world.ok("nop")
    faults = world.stats["pf_taken"]
    world.ok("prefault 0x800000 0x3000")
    for page in range(3):
        assert world.spte(0x800000 + 0x1000 * page) & (W | A) == W
    assert world.stats["pf_taken"] == faults, "nobody faulted"


def test_huge_pages_count_as_a_whole() -> None:
    world = huge_world()
    world.ok(f"prefault {BIG + 0x405000:#x} 0x3fb000")
    assert world.kvm.stat.pages_2m == 4
    assert world.spte(BIG + 0x600000) & PS
    world.ok(f"read {PHYSICAL + BIG + 0x600000:#x}")


@pytest.mark.parametrize(
    ("gpa", "size", "number"),
    [
        (0x800000, 0, errno.EINVAL),
        (0x800800, 0x1000, errno.EINVAL),
        (0x800000, 0x1800, errno.EINVAL),
        ((1 << 64) - 0x1000, 0x1000, errno.EINVAL),
        (0x30000000, 0x1000, errno.ENOENT),
    ],
)
def test_refused(gpa: int, size: int, number: int) -> None:
    with pytest.raises(RegionError) as refused:
        kvm_vcpu_pre_fault_memory(tdp_world().vcpu, gpa, size)
    assert refused.value.errno == number


def test_what_could_be_mapped_counts() -> None:
    world = tdp_world()
    world.ok("prefault 0xfff000 0x2000")


def test_shadow_paging_has_none() -> None:
    assert World("long4").do("prefault 0x800000 0x1000").result["errno"] == "EOPNOTSUPP"


def test_an_obsolete_root_is_only_replaced_at_entry() -> None:
    world = tdp_world()
    kvm_mmu_zap_all_fast(world.kvm)
    assert world.do("prefault 0x800000 0x1000").result["errno"] == "EINTR"
    world.ok("nop", "prefault 0x800000 0x1000")
