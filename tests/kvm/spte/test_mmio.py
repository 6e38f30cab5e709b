"""MMIO: SPTEs of addresses without memory and the last-access record (specification 5.3, 12, appendix E)."""

import pytest
from hypothesis import given, strategies as st
from kvm.world import World, names

from shadowmmu.guest.play.machine import Machine
from shadowmmu.kvm.bits import GEN_UPDATE_IN_PROGRESS, SPTE_EMPTY, SPTE_MMU_PRESENT
from shadowmmu.kvm.design.design import design_of
from shadowmmu.kvm.spte.mmio import (
    check_mmio_spte,
    get_mmio_spte_access,
    get_mmio_spte_generation,
    get_mmio_spte_gfn,
    is_mmio_spte,
    make_mmio_spte,
    vcpu_cache_mmio_info,
    vcpu_clear_mmio_info,
    vcpu_match_mmio_gpa,
    vcpu_match_mmio_gva,
)
from shadowmmu.x86.bits import EPT_XU

GVA, HOLE = 0x400000, 0xD0000000
KVM = Machine().kvm
MMIO_GFNS = st.integers(0, (1 << KVM.parameters.host_maxphyaddr - 12) - 1)
"""Of which an MMIO SPTE keeps every bit."""


def mmio_spte(generation: int, gfn: int, access: int) -> int:
    KVM.memslots_generation = generation
    return make_mmio_spte(KVM, gfn, access)


@pytest.fixture
def world() -> World:
    return World("long4", f"map 0x1000 {GVA:#x} {HOLE:#x} 0x67 n=4")


@pytest.mark.parametrize(
    ("generation", "gfn", "access", "spte"),
    [
        (2, 0xFEE00, 7, 0x80000FEE00017),
        (0x102, 0xFED00, 6, 0x180000FED00017),
        (0x7FFFE, 0xFEC00, 2, 0x7FF80000FEC007F3),
        (2 | GEN_UPDATE_IN_PROGRESS, 0xFEE00, 7, 0x80000FEE00017),
        (0x80002, 0xFEE00, 7, 0x80000FEE00017),
    ],
)
def test_encoding(generation: int, gfn: int, access: int, spte: int) -> None:
    assert mmio_spte(generation, gfn, access) == spte
    assert is_mmio_spte(KVM, spte)
    assert not spte & SPTE_MMU_PRESENT
    assert get_mmio_spte_gfn(KVM, spte) == gfn
    assert get_mmio_spte_access(KVM, spte) == access & 6
    assert get_mmio_spte_generation(KVM, spte) == generation & 0x7FFFF


@given(st.integers(0, (1 << 64) - 1), MMIO_GFNS, st.integers(0, 7))
def test_decoding_is_the_inverse(generation: int, gfn: int, access: int) -> None:
    spte = mmio_spte(generation, gfn, access)
    assert is_mmio_spte(KVM, spte)
    assert get_mmio_spte_gfn(KVM, spte) == gfn
    assert get_mmio_spte_access(KVM, spte) == access & 6
    assert get_mmio_spte_generation(KVM, spte) == generation & 0x7FFFF


@pytest.mark.parametrize(
    ("generation", "spte"),
    [
        (2, 0x80000FEE00017),
        (0x82, 0x180000FEE00017),
        (0x3FFFE, 0x7FF80000FEE003F7),
        (0x40002, 0x80000FEE00017),
    ],
)
def test_18_bits_of_the_generation_leave_bit_10_free(generation: int, spte: int) -> None:
    kvm = Machine(design=design_of("7.3.4")).kvm
    kvm.memslots_generation = generation
    assert make_mmio_spte(kvm, 0xFEE00, 7) == spte
    assert get_mmio_spte_generation(kvm, spte) == generation & 0x3FFFF
    assert not spte & EPT_XU


@pytest.mark.parametrize("spte", [0, SPTE_EMPTY, 1, 1 << 51, 0xE67 | 1 << 12])
def test_others_are_none(spte: int) -> None:
    assert not is_mmio_spte(KVM, spte)


def test_the_first_touch_is_a_fault_the_second_is_not(world: World) -> None:
    """5.14: first pf_taken, pf_mmio_spte_created and pf_emulate; then none of pf_*."""
    events = world.ok(f"read {GVA:#x}")
    stats = world.stats
    assert [name for name in names(events) if "mmio" in name] == [
        "mark_mmio_spte", "vcpu_match_mmio", "kvm_mmio", "kvm_mmio",
    ]  # fmt: skip
    assert is_mmio_spte(world.kvm, world.spte(GVA))
    events = world.ok(f"read {GVA:#x}")
    again = world.stats
    for name in ("pf_taken", "pf_mmio_spte_created", "pf_emulate"):
        assert again[name] == stats[name]
    assert "handle_mmio_page_fault" not in names(events), "the record of the last access is hit first"
    world.ok(f"read {GVA + 0x1000:#x}")
    events = world.ok(f"read {GVA:#x}")
    assert [name for name in names(events) if name.endswith(("mmio_spte", "mmio_page_fault"))] == [
        "check_mmio_spte", "handle_mmio_page_fault",
    ]  # fmt: skip


def test_mmio_is_not_prefetched_but_ends_nothing(world: World) -> None:
    world.ok(f"read {GVA:#x}")
    assert world.spte(GVA + 0x1000) == SPTE_EMPTY


def test_another_generation_makes_all_of_them_stale(world: World) -> None:
    world.ok(f"read {GVA:#x}")
    old = world.spte(GVA)
    world.ok("slot 5 0x50000000 64K")
    assert world.spte(GVA) == old
    assert not check_mmio_spte(world.kvm, old)
    created = world.stats["pf_mmio_spte_created"]
    world.ok(f"read {GVA:#x}")
    assert (
        get_mmio_spte_generation(world.kvm, world.spte(GVA)) == get_mmio_spte_generation(world.kvm, old) + 2
    )
    assert world.stats["pf_mmio_spte_created"] == created + 1


def test_memory_that_comes_replaces_mmio(world: World) -> None:
    world.ok(f"read {GVA:#x}", f"slot 5 {HOLE:#x} 64K", f"write {GVA:#x} 7")
    assert world.spte(GVA) & SPTE_MMU_PRESENT
    assert world.do(f"read {GVA:#x}").result["value"] == "0x7"


def test_an_update_in_progress_trusts_nothing(world: World) -> None:
    """12.3: no event, no filling of the record."""
    world.ok(f"read {GVA:#x}")
    spte, vcpu = world.spte(GVA), world.vcpu
    assert check_mmio_spte(world.kvm, spte)
    world.player.log.take()
    world.kvm.memslots_generation |= GEN_UPDATE_IN_PROGRESS
    assert not check_mmio_spte(world.kvm, spte)
    assert list(world.player.log.take()) == []
    vcpu_clear_mmio_info(vcpu, (1 << 64) - 1)
    vcpu_cache_mmio_info(vcpu, GVA, HOLE >> 12, 6)
    assert vcpu.mmio_gva == 0
    world.kvm.memslots_generation &= ~GEN_UPDATE_IN_PROGRESS


def test_the_record_is_for_one_page_of_one_generation(world: World) -> None:
    vcpu = world.vcpu
    vcpu_cache_mmio_info(vcpu, GVA + 0x123, HOLE >> 12, 6)
    assert vcpu_match_mmio_gva(vcpu, GVA)
    assert vcpu_match_mmio_gva(vcpu, GVA + 0xFFF)
    assert not vcpu_match_mmio_gva(vcpu, GVA + 0x1000)
    assert vcpu_match_mmio_gpa(vcpu, HOLE + 8)
    assert not vcpu_match_mmio_gpa(vcpu, HOLE + 0x1000)
    vcpu_clear_mmio_info(vcpu, GVA + 0x1000)
    assert vcpu_match_mmio_gva(vcpu, GVA)
    vcpu_clear_mmio_info(vcpu, GVA + 8)
    assert not vcpu_match_mmio_gva(vcpu, GVA)
    assert vcpu_match_mmio_gpa(vcpu, HOLE), "clearing forgets the gva only"
    world.kvm.memslots_generation += 2
    assert not vcpu_match_mmio_gpa(vcpu, HOLE)


def test_address_and_frame_zero_match_nothing(world: World) -> None:
    vcpu = world.vcpu
    vcpu_cache_mmio_info(vcpu, 0, 0, 6)
    assert not vcpu_match_mmio_gva(vcpu, 0)
    assert not vcpu_match_mmio_gpa(vcpu, 0)


@pytest.mark.parametrize("line", ["cr3 0x1000", f"invlpg {GVA:#x}"])
def test_flushes_forget_the_record(world: World, line: str) -> None:
    world.ok(f"read {GVA:#x}")
    assert world.vcpu.mmio_gva == GVA
    world.ok(line)
    assert world.vcpu.mmio_gva == 0


def test_a_guest_without_paging_is_asked_by_frame() -> None:
    world = World("nopaging")
    world.ok(f"read {HOLE:#x}")
    assert is_mmio_spte(world.kvm, world.spte(HOLE))
    world.ok(f"read {HOLE + 0x1000:#x}")
    events = world.ok(f"read {HOLE:#x}")
    (event,) = (event for event in events if event.name == "handle_mmio_page_fault")
    assert (event.addr, event.gfn, event.access) == (0, HOLE >> 12, 6)


def test_rights_of_mmio_are_the_guest_s() -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} {HOLE:#x} 0x61")
    world.ok(f"read {GVA:#x}")
    assert get_mmio_spte_access(world.kvm, world.spte(GVA)) == 0
    assert world.do(f"uread {GVA:#x}").result["vector"] == 14
    assert world.do(f"write {GVA:#x} 1").result["vector"] == 14


def test_a_present_spte_is_dropped_before_it_becomes_mmio() -> None:
    """5.12: it leaves the rmap, and a flush follows."""
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67", "map 0x1000 0x600000 0x4000 0x67")
    world.ok(f"read {GVA:#x}", "write 0x600800 0", f"write 0x600000 {HOLE | 0x67:#x}", f"write {GVA:#x} 1")
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok(f"invlpg {GVA:#x}", f"write {GVA:#x} 1")
    assert is_mmio_spte(world.kvm, world.spte(GVA))
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
