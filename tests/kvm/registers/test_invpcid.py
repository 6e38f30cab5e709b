"""INVPCID: what it refuses, and what it flushes for whom."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import INVALID_PAGE, REQ_MMU_SYNC, REQ_TLB_FLUSH_CURRENT, REQ_TLB_FLUSH_GUEST
from shadowmmu.kvm.registers.invpcid import (
    ALL_WITH_GLOBAL,
    ALL_WITHOUT_GLOBAL,
    INDIVIDUAL_ADDRESS,
    SINGLE_CONTEXT,
    kvm_handle_invpcid,
)

NONCANONICAL = 1 << 62


@pytest.fixture
def world() -> World:
    """PCIDs 1 and 2; the page at 0x400000 is mapped in both, its table is unsync; PCID 1 is current."""
    world = World(
        "long4", "map 0x1000 0x400000 0x800000 0x67", "map 0x1000 0x7f0000000000 0x4000 0x67", "tramp 0x1000"
    )
    world.vcpu.cr4_missing = 0
    world.ok("cr4 0x20020", "cr3 0x1002", "read 0x400000", "cr3 0x1001", "read 0x400000")
    world.ok("write 0x7f0000000000 0x801067", "write 0x7f0000000800 0")
    world.vcpu.requests = 0
    return world


@pytest.mark.parametrize(
    ("kind", "pcid", "gva", "without", "with_pcids"),
    [
        (INDIVIDUAL_ADDRESS, 0, 0x400000, True, True),
        (INDIVIDUAL_ADDRESS, 1, 0x400000, False, True),
        (INDIVIDUAL_ADDRESS, 0, NONCANONICAL, False, False),
        (SINGLE_CONTEXT, 0, NONCANONICAL, True, True),
        (SINGLE_CONTEXT, 5, 0, False, True),
        (ALL_WITH_GLOBAL, 5, NONCANONICAL, True, True),
        (ALL_WITHOUT_GLOBAL, 5, NONCANONICAL, True, True),
        (ALL_WITHOUT_GLOBAL, 0x1000, 0, False, False),
        (4, 0, 0, False, False),
        ((1 << 64) - 1, 0, 0, False, False),
    ],
)
def test_operands(kind: int, pcid: int, gva: int, without: bool, with_pcids: bool) -> None:
    world = World("long4")
    world.vcpu.cr4_missing = 0
    world.ok("nop")
    assert kvm_handle_invpcid(world.vcpu, kind, pcid, gva) == without
    world.ok("cr4 0x20020")
    assert kvm_handle_invpcid(world.vcpu, kind, pcid, gva) == with_pcids


def test_an_address_of_the_current_pcid(world: World) -> None:
    assert world.page(4, 1).unsync
    invlpg = world.stats["invlpg"]
    before = world.spte(0x400000)
    assert kvm_handle_invpcid(world.vcpu, INDIVIDUAL_ADDRESS, 1, 0x400000)
    assert world.spte(0x400000) != before, "the SPTE is brought up to date"
    assert world.vcpu.cpu.flushed_page == 0x400000
    assert world.stats["invlpg"] == invlpg + 1


def test_an_address_of_another_pcid(world: World) -> None:
    flushes = world.vcpu.cpu.page_flushes
    assert world.vcpu.mmu.prev_root(0)[0] & 0xFFF == 2
    before = world.spte(0x400000)
    assert kvm_handle_invpcid(world.vcpu, INDIVIDUAL_ADDRESS, 3, 0x400000)
    assert world.spte(0x400000) == before, "nobody has that PCID"
    assert kvm_handle_invpcid(world.vcpu, INDIVIDUAL_ADDRESS, 2, 0x400000)
    assert world.spte(0x400000) != before, "both have the same table"
    assert world.vcpu.cpu.page_flushes == flushes


def test_a_context(world: World) -> None:
    assert kvm_handle_invpcid(world.vcpu, SINGLE_CONTEXT, 1, 0)
    assert world.vcpu.requests == REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT
    world.vcpu.requests = 0
    assert kvm_handle_invpcid(world.vcpu, SINGLE_CONTEXT, 2, 0)
    assert not world.vcpu.requests
    assert world.vcpu.mmu.prev_root(0)[1] == INVALID_PAGE


@pytest.mark.parametrize("kind", [ALL_WITH_GLOBAL, ALL_WITHOUT_GLOBAL])
def test_everything(world: World, kind: int) -> None:
    assert kvm_handle_invpcid(world.vcpu, kind, 0, 0)
    assert world.vcpu.requests == REQ_TLB_FLUSH_GUEST
    assert "kvm_mmu_sync_page" in names(world.ok("nop"))
    assert not world.page(4, 1).unsync
