"""nested_zap_spares_roots: a page for L2 that loses its last parent while a vCPU uses it as a root."""

import pytest
from kvm.world import World

from shadowmmu.kvm.bits import ROLE_INVALID

PD = 0x13
GUEST = """\
param kvm_amd npt=1
param kvm tdp_mmu={tdp_mmu}
mode long4
vcpus 2
mode@1 pae
slot 0 0x0 16M
nested
alloc 0x20000
tramp 0x1000
tramp@1 0x2000
map 0x1000 0x40000000 0x12000 0x67
npt pt 0x10000 0 0x12027
npt pt 0x12000 0 0x13027
npt pt 0x13000 4 0x14027
npt pt 0x14000 0 0x800067
npt@1 pt 0x11000 0 0x13001
ntramp 0x10000
ntramp@1 0x11000
start cr3=0x1000 cr3@1=0x2000 ncr3=0x10000 ncr3@1=0x11000
"""
"""Two vCPUs of L1 over one nested page directory: a child for the one in long mode, a root for the other."""


def flooded(value: str, tdp_mmu: int = 1) -> World:
    """The world after the tables above the directory were flooded."""
    world = World.of(GUEST.format(tdp_mmu=tdp_mmu), design={"nested_zap_spares_roots": value})
    world.ok("nop", "@1 nop", "l2read 0x800000", "@1 l2read 0x800000")
    (page,) = world.pages(PD, 2)
    assert page.root_count and page.parent_ptes
    world.do("l2exit")
    world.ok(*["write 0x40000008 0"] * 3)
    assert world.stats["mmu_flooded"] == 1
    return world


@pytest.mark.parametrize("tdp_mmu", [0, 1])
def test_the_root_is_zapped_with_its_parent(tdp_mmu: int) -> None:
    world = flooded("no", tdp_mmu)
    assert not world.pages(PD, 2)
    zapped = [sp for sp in world.kvm.hashed_pages(PD) if sp.gfn == PD]
    assert [bool(sp.role & ROLE_INVALID) for sp in zapped] == [True]
    assert zapped[0].root_count, "the vCPU in PAE still runs on it"
    assert world.do("@1 l2read 0x800000").result["value"] == "0x0"
    world.check()


@pytest.mark.parametrize("tdp_mmu", [0, 1])
def test_the_root_stays(tdp_mmu: int) -> None:
    world = flooded("yes", tdp_mmu)
    (page,) = world.pages(PD, 2)
    assert page.root_count
    assert not page.parent_ptes
    faults = world.stats["pf_taken"]
    assert world.do("@1 l2read 0x800000").result["value"] == "0x0"
    assert world.stats["pf_taken"] == faults, "it is still mapped"
    world.check()
