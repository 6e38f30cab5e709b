"""Registers that control paging (specification 1.10, 10.4)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import (
    INVALID_PAGE,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_SYNC,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TLB_FLUSH_GUEST,
)
from shadowmmu.kvm.registers.regs import (
    kvm_set_cr0,
    kvm_set_cr3,
    kvm_set_cr4,
    load_pdptrs,
    set_efer,
    set_sregs,
)
from shadowmmu.kvm.state.vcpu import Vcpu

PG, WP, PE, CD, NW, TS = 1 << 31, 1 << 16, 1, 1 << 30, 1 << 29, 8
PSE, PAE, PGE, PCIDE, LA57, SMEP, SMAP = 0x10, 0x20, 0x80, 1 << 17, 1 << 12, 1 << 20, 1 << 21
LME, LMA, NX = 0x100, 0x400, 0x800


@pytest.fixture
def vcpu() -> Vcpu:
    """Four-level paging, loaded, nothing pending; previous root 0x9000."""
    return ready("long4")


def ready(mode: str) -> Vcpu:
    world = World(mode, "tramp 0x9000")
    world.ok("nop", "cr3 0x9000", "cr3 0x1000")
    world.vcpu.requests = 0
    world.vcpu.cr4_missing = 0
    return world.vcpu


def roots(vcpu: Vcpu) -> tuple[bool, bool]:
    """Whether there is a current and a previous root."""
    return vcpu.mmu.root_hpa != INVALID_PAGE, vcpu.mmu.prev_root(0)[1] != INVALID_PAGE


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        (PG | PE | WP, True),
        (PG | WP, False),
        (PG | PE | NW, False),
        (PG | PE | NW | CD, True),
        (PE, False),
        (PG | PE | WP | 1 << 32, True),
    ],
)
def test_cr0(vcpu: Vcpu, value: int, accepted: bool) -> None:
    """PG without PE and NW without CD are no values, and long mode cannot drop PG."""
    assert kvm_set_cr0(vcpu, value) == accepted


@pytest.mark.parametrize(
    ("value", "kept"),
    [(0x80010033, True), (0x80010033 ^ TS, True), (0x80010033 | CD, True), (0x80000033, False)],
)
def test_cr0_resets_the_context_for_wp(vcpu: Vcpu, value: int, kept: bool) -> None:
    assert kvm_set_cr0(vcpu, value)
    assert roots(vcpu) == (kept, kept)
    assert bool(vcpu.mmu.cpu_role & 1 << 13) == bool(value & WP)


def test_cr0_in_32_bit_modes_switches_paging_off() -> None:
    vcpu = ready("32")
    assert kvm_set_cr0(vcpu, 0x10033)
    assert (vcpu.is_paging(), vcpu.mmu.guest_level(), vcpu.mmu.direct()) == (False, 0, True)
    assert vcpu.requests & REQ_TLB_FLUSH_GUEST
    vcpu.requests = 0
    assert kvm_set_cr0(vcpu, 0x10033 ^ WP)
    assert vcpu.requests == 0
    assert kvm_set_cr0(vcpu, 0x80010033)
    assert vcpu.mmu.guest_level() == 2


def test_paging_with_lme_enters_long_mode() -> None:
    vcpu = ready("nopaging")
    assert set_efer(vcpu, LME)
    assert not kvm_set_cr0(vcpu, 0x80010033), "without PAE"
    assert kvm_set_cr4(vcpu, PAE)
    assert kvm_set_cr0(vcpu, 0x80010033)
    assert (vcpu.is_long_mode(), vcpu.mmu.guest_level()) == (True, 4)
    vcpu.compatibility_mode = False
    assert not kvm_set_cr0(vcpu, 0x10033), "64-bit code cannot leave so"
    vcpu.compatibility_mode = True
    assert kvm_set_cr0(vcpu, 0x10033)
    assert (vcpu.is_long_mode(), vcpu.mmu.guest_level()) == (False, 0)


def test_32_bit_code_of_a_scenario_enters_long_mode_and_leaves_it() -> None:
    """Its code segment stays what it was: compatibility mode, in which CR0.PG may be cleared."""
    text = """\
mode nopaging
slot 0 0x0 16M
tramp
pt 0x1000 0 0x2027
pt 0x2000 0 0x3027
pt 0x2000 3 0x4027
pt 0x3000 2 0x5027
pt 0x5000 0 0x800067
pt 0x4000 384 0x6027
pt 0x6000 0 0xf0000063
pt 0x6000 1 0xf0001067
start cr3=0x1000
"""
    world = World.of(text)
    world.ok("nop", "cr4 0x30", "efer 0x100", "cr0 0x80010033", "write 0x400000 7")
    assert world.vcpu.is_long_mode()
    world.ok("cr0 0x10033")
    assert not world.vcpu.is_long_mode()
    assert world.do("read 0x800000").result["value"] == "0x7"
    world.check()


@pytest.mark.parametrize(
    ("value", "requests", "kept"),
    [
        (PAE, 0, (True, True)),
        (PAE | PGE, REQ_TLB_FLUSH_GUEST, (True, True)),
        (PAE | SMEP, REQ_TLB_FLUSH_CURRENT, (False, False)),
        (PAE | SMAP, 0, (False, False)),
        (PAE | PSE, 0, (False, False)),
        (PAE | PCIDE, 0, (False, False)),
        (PAE | PGE | SMEP, REQ_TLB_FLUSH_GUEST, (False, False)),
    ],
)
def test_cr4(vcpu: Vcpu, value: int, requests: int, kept: tuple[bool, bool]) -> None:
    """Role bits reset, PCIDE unloads, PGE flushes for the guest, SMEP the current."""
    assert kvm_set_cr4(vcpu, value)
    assert vcpu.requests == requests
    assert roots(vcpu) == kept


@pytest.mark.parametrize("value", [0, PAE | LA57, PAE | 1 << 40, PAE | 1 << 30])
def test_cr4_refused_in_long_mode(vcpu: Vcpu, value: int) -> None:
    if value >> 32:
        assert kvm_set_cr4(vcpu, value), "the upper half is not looked at"
    else:
        assert not kvm_set_cr4(vcpu, value)


def test_pcids_need_a_cr3_without_one(vcpu: Vcpu) -> None:
    vcpu.cr3 |= 5
    assert not kvm_set_cr4(vcpu, PAE | PCIDE)
    vcpu.cr3 &= ~5
    assert kvm_set_cr4(vcpu, PAE | PCIDE)
    vcpu.requests = 0
    assert kvm_set_cr4(vcpu, PAE)
    assert vcpu.requests == REQ_TLB_FLUSH_GUEST


@pytest.mark.parametrize(
    ("value", "requests"),
    [
        (0x1000, REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT),
        (0x9000, REQ_LOAD_MMU_PGD | REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT),
        (0xA000, REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT),
    ],
)
def test_cr3_flushes(vcpu: Vcpu, value: int, requests: int) -> None:
    assert kvm_set_cr3(vcpu, value)
    assert (vcpu.cr3, vcpu.requests) == (value, requests)


def test_cr3_above_maxphyaddr(vcpu: Vcpu) -> None:
    assert not kvm_set_cr3(vcpu, 1 << 40)
    assert vcpu.cr3 == 0x1000


def test_pcids_and_the_no_flush_bit(vcpu: Vcpu) -> None:
    assert kvm_set_cr4(vcpu, PAE | PCIDE)
    vcpu.requests = 0
    assert kvm_set_cr3(vcpu, 0x1005 | 1 << 63)
    assert (vcpu.cr3, vcpu.requests) == (0x1005, 0)
    assert kvm_set_cr3(vcpu, 0x1005)
    assert vcpu.requests == REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT


def test_a_flush_of_a_pcid_frees_its_previous_roots() -> None:
    world = World("long4", "tramp 0x9000")
    world.vcpu.cr4_missing = 0
    world.ok("cr4 0x20020", "cr3 0x1001", "cr3 0x9002", "cr3 0x8000000000009001", "nop")
    assert [world.vcpu.mmu.prev_root(i)[0] for i in range(2)] == [0x9002, 0x1001]
    world.ok("cr3 0x9001", "nop")
    assert world.vcpu.mmu.prev_root(0)[1] != INVALID_PAGE
    assert world.vcpu.mmu.prev_root(1)[1] == INVALID_PAGE, "0x1001 has the PCID that was flushed"


def test_an_unflushed_switch_leaves_pages_unsync() -> None:
    world = World(
        "long4", "map 0x1000 0x400000 0x800000 0x67", "map 0x1000 0x7f0000000000 0x4000 0x67", "tramp 0x9000"
    )
    world.vcpu.cr4_missing = 0
    world.ok("cr4 0x20020", "read 0x400000", "write 0x7f0000000800 0", "cr3 0x9001")
    events = world.ok("cr3 0x8000000000001000", "nop")
    assert world.page(4, 1).unsync
    assert "kvm_mmu_sync_page" not in names(events)
    assert "kvm_mmu_sync_page" in names(world.ok("cr3 0x1000"))


# -- PDPTEs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "accepted"),
    [
        (0x5001, True),
        (0x5000 | 1 << 50, True),
        (0x5003, False),
        (0x5021, False),
        (0x5101, False),
        (0x5001 | 1 << 40, False),
        (0x5001 | 1 << 63, False),
    ],
)
def test_pdptes_are_checked_when_they_are_loaded(entry: int, accepted: bool) -> None:
    world = World("pae")
    world.ok("nop", f"hostwrite 0x1008 {entry:#x} size=8")
    assert load_pdptrs(world.vcpu, 0x1000) == accepted
    assert (world.vcpu.mmu.pdptr(1) == entry) == accepted


def test_changed_pdptes_free_the_root() -> None:
    world = World("pae")
    world.ok("nop")
    vcpu = world.vcpu
    vcpu.requests = 0
    assert load_pdptrs(vcpu, 0x1000)
    assert vcpu.mmu.root_hpa != INVALID_PAGE
    assert vcpu.requests == REQ_LOAD_MMU_PGD
    world.ok("hostwrite 0x1008 0x5001 size=8")
    assert load_pdptrs(vcpu, 0x1000)
    assert vcpu.mmu.root_hpa == INVALID_PAGE
    world.ok("nop")


def test_the_walk_uses_the_pdptes_as_they_were_loaded() -> None:
    """F.12: a guest that changes them without loading CR3 keeps the old ones."""
    world = World("pae", "map 0x1000 0x400000 0x800000 0x67")
    world.ok("read 0x400000", "hostwrite 0x1000 0 size=8")
    assert world.do("read 0x400000").result["outcome"] == "ok"
    world.ok("cr3 0x1000")
    assert world.do("read 0x400000").result["vector"] == 14


def test_pdptes_are_at_any_32_bytes() -> None:
    world = World("pae", "pt 0x1020 3 0xf0003001", "map 0x1020 0x400000 0x800000 0x67")
    world.ok("nop")
    assert kvm_set_cr3(world.vcpu, 0x1020)
    world.ok("read 0x400000")
    assert not kvm_set_cr3(world.vcpu, 0x50000000), "no memory: #GP"


@pytest.mark.parametrize("value", [0x80010033 | CD, 0x80010033 | CD | NW])
def test_cr0_loads_pdptes_for_the_cache_bits(value: int) -> None:
    world = World("pae")
    world.ok("nop", "hostwrite 0x1008 0x5003 size=8")
    assert not kvm_set_cr0(world.vcpu, value)
    assert kvm_set_cr0(world.vcpu, 0x80000033), "WP alone loads none"


@pytest.mark.parametrize(
    ("value", "accepted"), [(PAE | PGE, False), (PAE | PSE, False), (PAE | SMEP, False), (PAE | SMAP, True)]
)
def test_cr4_loads_pdptes(value: int, accepted: bool) -> None:
    world = World("pae")
    world.ok("nop", "hostwrite 0x1008 0x5003 size=8")
    assert kvm_set_cr4(world.vcpu, value) == accepted


# -- EFER and KVM_SET_SREGS ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "accepted", "reset"),
    [
        (0xD00, True, False),
        (0x500, True, True),
        (0x900, True, False),
        (0xC00, False, False),
        (0xD00 | 1 << 20, False, False),
        (0xD01, True, False),
    ],
)
def test_efer(vcpu: Vcpu, value: int, accepted: bool, reset: bool) -> None:
    """NX resets; LMA is not the guest's; LME cannot change while paging."""
    assert set_efer(vcpu, value) == accepted
    assert (roots(vcpu) == (False, False)) == reset
    assert vcpu.efer & LMA


@pytest.mark.parametrize(
    ("value", "reset"), [(LME, True), (NX, True), (LME | NX, True), (1, False), (0x1000, False), (0, False)]
)
def test_efer_without_paging(value: int, reset: bool) -> None:
    """LME is part of the role like NX, though it has no effect before paging: the root is loaded anew."""
    world = World("nopaging")
    world.ok("nop")
    assert set_efer(world.vcpu, value)
    assert (world.vcpu.mmu.root_hpa == INVALID_PAGE) == reset


@pytest.mark.parametrize(
    ("registers", "accepted"),
    [
        ((0x80010033, 0x1000, PAE, LME | LMA), True),
        ((0x80010033, 0x1000, 0, LME | LMA), False),
        ((0x80010033, 0x1000, PAE, LME), False),
        ((0x80010033, 1 << 40, PAE, LME | LMA), False),
        ((0x10033, 0x1000, 0, LMA), False),
        ((0x10033, 0x1000, 0, 0), True),
        ((0x80010033, 0x1000, PAE | 1 << 40, LME | LMA), False),
        ((0x80010032, 0x1000, PAE, LME | LMA), False),
    ],
)
def test_sregs(vcpu: Vcpu, registers: tuple[int, int, int, int], accepted: bool) -> None:
    before = roots(vcpu)
    assert set_sregs(vcpu, *registers) == accepted
    assert roots(vcpu) == ((False, False) if accepted else before)
    assert bool(vcpu.requests & REQ_TLB_FLUSH_GUEST) == accepted


def test_the_same_sregs_change_nothing(vcpu: Vcpu) -> None:
    assert set_sregs(vcpu, vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer)
    assert roots(vcpu) == (True, True)
    assert vcpu.requests == 0
