"""MMIO SPTEs on processors vulnerable to L1TF: an entry that is not present names no line of the L1 cache."""

import pytest
from hypothesis import given, strategies as st
from kvm.world import World

from shadowmmu import Vm
from shadowmmu.kvm.bits import SPTE_MMU_PRESENT
from shadowmmu.kvm.spte.mmio import (
    get_mmio_spte_access,
    get_mmio_spte_generation,
    get_mmio_spte_gfn,
    is_mmio_spte,
    make_mmio_spte,
)
from shadowmmu.kvm.state.spte_masks import MOST_L1TF_BITS
from shadowmmu.kvm.state.vm import Kvm
from shadowmmu.x86.bits import EPT_RWX

GVA, HOLE = 0x400000, 0xD0000000
VULNERABLE = ("vendor intel", "host l1tf=44")


def kvm_of(*, hostbits: int, l1tf: int, ept: bool = False) -> Kvm:
    params = {"kvm_intel.ept": int(ept)}
    return Vm(vendor="intel", params=params, hostbits=hostbits, l1tf=l1tf, physbits=36).machine.kvm


@pytest.mark.parametrize(("ept", "spte"), [(0, 0x80F80D0000027), (1, 0xF80D0000026)])
def test_what_kvm_intel_made_on_broadwell(ept: int, spte: int) -> None:
    """Generation 4, as recorded: g-mmio.jsonl and ept-mmio.jsonl."""
    kvm = kvm_of(hostbits=40, l1tf=44, ept=bool(ept))
    kvm.memslots_generation = 4
    assert make_mmio_spte(kvm, HOLE >> 12, 7) == spte
    assert is_mmio_spte(kvm, spte)
    assert get_mmio_spte_gfn(kvm, spte) == HOLE >> 12


@given(st.data(), st.integers(32, MOST_L1TF_BITS), st.booleans())
def test_no_bit_of_a_frame_is_lost_and_none_below_the_cache_s_width_is_free(
    data: st.DataObject, hostbits: int, ept: bool
) -> None:
    l1tf = data.draw(st.integers(hostbits, MOST_L1TF_BITS))
    gfn = data.draw(st.integers(0, (1 << hostbits - 12) - 1))
    kvm = kvm_of(hostbits=hostbits, l1tf=l1tf, ept=ept)
    kvm.memslots_generation = generation = data.draw(st.integers(0, (1 << 19) - 1))
    spte = make_mmio_spte(kvm, gfn, 6)
    assert is_mmio_spte(kvm, spte)
    assert not spte & SPTE_MMU_PRESENT
    assert get_mmio_spte_gfn(kvm, spte) == gfn
    assert get_mmio_spte_generation(kvm, spte) == generation
    assert get_mmio_spte_access(kvm, spte) == (0 if ept else 6)
    assert spte >> l1tf - 5 & 31 == 31, "the cache has no line of such an address"


def test_a_frame_in_the_displaced_bits_is_found_again() -> None:
    kvm = kvm_of(hostbits=46, l1tf=46)
    gfn = 0x3FE000000 | 0xD0000
    spte = make_mmio_spte(kvm, gfn, 7)
    assert spte >> 46 & 31 == gfn << 12 >> 41
    assert get_mmio_spte_gfn(kvm, spte) == gfn


def test_the_host_decides_not_the_guest_s_maxphyaddr() -> None:
    world = World("long4", *VULNERABLE, "physbits 36", f"map 0x1000 {GVA:#x} {HOLE:#x} 0x67")
    world.ok(f"read {GVA:#x}")
    assert world.spte(GVA) & 0x1F << 39 == 0x1F << 39


@pytest.mark.parametrize("tdp_mmu", [0, 1])
def test_ept_of_either_mmu_faults_on_them_as_ever(tdp_mmu: int) -> None:
    ept = ("param kvm_intel ept=1", f"param kvm tdp_mmu={tdp_mmu}")
    plain, vulnerable = (
        World("long4", "vendor intel", *ept, *host, f"map 0x1000 {GVA:#x} {HOLE:#x} 0x67")
        for host in ((), ("host l1tf=44",))
    )
    for world in (plain, vulnerable):
        world.ok(f"read {GVA:#x}", f"read {GVA + 0x100:#x}", "slot 5 0x50000000 64K", f"write {GVA:#x} 1")
    assert vulnerable.stats == plain.stats
    assert vulnerable.spte(HOLE) == plain.spte(HOLE) | 0x1F << 39


def test_an_access_tracked_spte_keeps_its_frame() -> None:
    """It is not present either, but KVM relies on flushing the L1 cache at VM entry."""
    ept = ("param kvm_intel ept=1 eptad=0", f"map 0x1000 {GVA:#x} 0x800000 0x67")
    plain, vulnerable = (World("long4", *host, *ept) for host in (("vendor intel",), VULNERABLE))
    for world in (plain, vulnerable):
        world.ok(f"write {GVA:#x} 1", "age 0x800000 0x1000")
        assert not world.spte(0x800000) & EPT_RWX
    assert vulnerable.spte(0x800000) == plain.spte(0x800000)
