"""Faults for the guest, and what they sync (specification 5.6a); addresses that are none (10.1)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.registers.inject import kvm_inject_page_fault
from shadowmmu.kvm.registers.invlpg import is_noncanonical

GVA, WINDOW = 0x400000, 0x7F0000000000


@pytest.mark.parametrize(
    ("gpte", "error", "synced"),
    [
        (0x2000065, 0x3, True),
        (0x2000066, 0x2, False),
        (0x2000065 | 1 << 45, 0xB, False),
    ],
)
def test_a_permission_fault_syncs_its_spte(gpte: int, error: int, synced: bool) -> None:
    """The page is writable for the guest but for the dirty log; its gpte was changed unseen."""
    world = World(
        "long4",
        "slot 1 0x2000000 1M",
        f"map 0x1000 {GVA:#x} 0x2000000 0x67",
        f"map 0x1000 {WINDOW:#x} 0x4000 0x67",
    )
    world.ok(
        f"write {GVA:#x} 1", "dirtylog on 1", f"write {WINDOW + 0x800:#x} 0", f"write {WINDOW:#x} {gpte:#x}"
    )
    before = world.spte(GVA)
    assert before & 0x402 == 0x400
    played = world.do(f"write {GVA:#x} 2")
    assert int(played.result["error_code"], 16) == error
    assert (world.spte(GVA) & 0x400 == 0) == synced
    assert "kvm_inj_exception" in names(played.events)
    assert world.page(4, 1).unsync


def test_the_vcpu_keeps_address_and_error_code() -> None:
    world = World("long4")
    world.ok("nop")
    kvm_inject_page_fault(world.vcpu, 0x12345678, 6)
    exception = world.vcpu.exception
    assert (exception.vector, exception.error_code, exception.cr2) == (14, 6, 0x12345678)
    assert world.stats["pf_guest"] == 1


@pytest.mark.parametrize(
    ("mode", "address", "bad"),
    [
        ("long4", (1 << 47) - 1, False),
        ("long4", 1 << 47, True),
        ("long4", (1 << 64) - (1 << 47), False),
        ("long4", (1 << 64) - (1 << 47) - 1, True),
        ("long5", 1 << 47, False),
        ("long5", (1 << 56) - 1, False),
        ("long5", 1 << 56, True),
        ("long5", (1 << 64) - (1 << 56), False),
        ("long5", (1 << 64) - (1 << 56) - 1, True),
        ("pae", 0xFFFFFFFF, False),
    ],
)
def test_noncanonical_addresses(mode: str, address: int, bad: bool) -> None:
    world = World(mode)
    world.ok("nop")
    assert is_noncanonical(world.vcpu, address) == bad
