"""Roots and roles for nested guests, and the PDPTEs of L1 and L2."""

from itertools import pairwise

import pytest
from kvm.nested_world import MODES, NPT, WINDOW, nested_text, nested_world
from kvm.world import World, names

from shadowmmu.kvm.bits import (
    INVALID_PAGE,
    ROLE_CR0_WP,
    ROLE_DIRECT,
    ROLE_GUEST_MODE,
    ROLE_LEVEL,
    ROLE_PASSTHROUGH,
)
from shadowmmu.kvm.guest_access.guest_memory import write_guest
from shadowmmu.kvm.guest_access.pdptrs import read_pdptrs, refresh_pdptrs
from shadowmmu.kvm.pages.role import nested_npt_root_role, tdp_root_role
from shadowmmu.kvm.registers.regs import kvm_vcpu_reset
from shadowmmu.x86.bits import NX, A, P, U, W

SHUTDOWN = 8
"""KVM_EXIT_SHUTDOWN"""


def test_roles_of_nested_roots() -> None:
    assert nested_npt_root_role(0x704, 4) == 0x704
    assert nested_npt_root_role(0x704, 5) == 0x705 | ROLE_PASSTHROUGH
    assert nested_npt_root_role(0x705, 5) == 0x705
    assert nested_npt_root_role(0x703, 4) == 0x704
    assert nested_npt_root_role(0x712, 5) == 0x715


@pytest.mark.parametrize("mode", MODES)
def test_the_root_of_l2_is_a_page_of_its_own_role(mode: str) -> None:
    world = nested_world(mode=mode)
    l1_role = tdp_root_role(world.vcpu)
    assert not l1_role & ROLE_GUEST_MODE
    world.ok("l2nop")
    mmu = world.vcpu.guest_mmu
    assert mmu.root_role & ROLE_GUEST_MODE
    assert not mmu.root_role & (ROLE_CR0_WP | ROLE_DIRECT), "CR0 counts as PG alone"
    assert mmu.guest_level() == {"long4": 4, "long5": 5, "pae": 3, "32": 2}[mode]
    assert mmu.shadow_level() == (5 if mode == "long5" else 4)
    assert mmu.root_is_special() == (mode in ("pae", "32"))
    assert world.vcpu.cpu.nested_root == mmu.root_hpa


@pytest.mark.parametrize("host_la57", [False, True])
@pytest.mark.parametrize("mode", ["pae", "32"])
def test_special_roots(mode: str, host_la57: bool) -> None:
    """Four directories under one or two more tables; never cached, and let go of with all in them."""
    world = nested_world(mode=mode, host_la57=host_la57)
    world.ok("l2write 0x800000 1")
    mmu, read = world.vcpu.guest_mmu, world.kvm.read_spte
    tables = [mmu.pml5_root, mmu.pml4_root, mmu.pae_root] if host_la57 else [mmu.pml4_root, mmu.pae_root]
    assert mmu.root_hpa == tables[0]
    assert bool(mmu.pml5_root) == host_la57
    for table, below in pairwise(tables):
        assert read(table) == below | P | W | U | A
    entries = [read(mmu.pae_root + 8 * i) for i in range(4)]
    expected = [True, True, mode == "32", True]
    assert [bool(entry & P) for entry in entries] == expected
    pages = [world.kvm.sptep_to_sp(entry & ~0xFFF) for entry in entries if entry & P]
    assert [sp.root_count for sp in pages] == [1] * sum(expected)
    assert all(sp.role & ROLE_LEVEL == 2 for sp in pages)
    if mode == "32":
        assert [sp.role >> 5 & 3 for sp in pages] == [0, 1, 2, 3]
    world.do("l2exit")
    assert all(hpa == INVALID_PAGE for _, hpa in (mmu.prev_root(i) for i in range(3)))
    for vcpu in world.kvm.vcpus:
        kvm_vcpu_reset(vcpu)
    assert [sp.root_count for sp in pages] == [0] * len(pages)
    assert [read(mmu.pae_root + 8 * i) for i in range(4)] == [0] * 4


def test_special_tables_start_empty() -> None:
    """A table that was a shadow page before: what it mapped must not be reached through the new root."""
    world = nested_world(mode="32")
    arena = world.kvm.arena
    frames = [arena.alloc_table() for _ in range(100)]
    for frame in frames:
        for i in range(512):
            arena.store(frame + 8 * i, 8, (1 << 64) - 1)
        arena.free_table(frame)
    world.ok("l2nop")
    mmu = world.vcpu.guest_mmu
    for table, used in ((mmu.pml4_root, 1), (mmu.pae_root, 4)):
        assert not any(world.kvm.read_table(table)[used:])


def test_passthrough_a_host_with_a_level_more_than_l1() -> None:
    """The fifth level has no table of L1 behind it: same gfn, not tracked, its first entry the real root."""
    world = nested_world(host_la57=True)
    world.ok("l2write 0x800000 1")
    mmu = world.vcpu.guest_mmu
    root = world.kvm.sptep_to_sp(mmu.root_hpa)
    assert root.role & ROLE_PASSTHROUGH
    assert (root.gfn, root.role & ROLE_LEVEL, root.has_gptes()) == (NPT >> 12, 5, False)
    child = world.kvm.sptep_to_sp(world.kvm.read_spte(root.hpa) & ~0xFFF & (1 << 51) - 1)
    assert (child.gfn, child.role & ROLE_LEVEL, child.has_gptes()) == (NPT >> 12, 4, True)
    assert not child.role & ROLE_PASSTHROUGH
    assert dict(world.kvm.memslot_of(0).tracked())[NPT >> 12] == 1
    world.do("l2exit")
    world.ok(f"write {WINDOW:#x} 0", f"write {WINDOW:#x} {NPT + 0x1000 | 0x27:#x}", "l2read 0x800000")


def test_roots_of_other_nested_cr3s_are_kept() -> None:
    others = [0x30000, 0x31000, 0x32000, 0x33000]
    entry = NPT + 0x1000 | 0x27
    world = nested_world(*(f"npt pt {root:#x} 0 {entry:#x}" for root in others))
    for root in others:
        world.ok(f"ncr3 {root:#x}")
        world.do("l2exit")
    mmu = world.vcpu.guest_mmu
    assert mmu.root_pgd == others[3]
    assert [mmu.prev_root(i)[0] for i in range(3)] == [others[2], others[1], others[0]]
    events = world.ok(f"ncr3 {others[1]:#x}")
    assert "kvm_mmu_get_page" not in names(events)
    assert world.vcpu.root_mmu.root_hpa != mmu.root_hpa


def test_another_smep_of_l1_is_another_root_another_wp_is_not() -> None:
    world = nested_world()
    world.ok("l2nop")
    mmu = world.vcpu.guest_mmu
    first = mmu.root_hpa
    for line, same in (("cr0 0x80000033", True), ("cr0 0x80010033", True), ("cr4 0x100020", False)):
        world.do("l2exit")
        world.ok(line, "l2nop")
        assert (mmu.root_hpa == first) == same, line


def test_pdptrs_are_those_in_memory_if_they_are_valid() -> None:
    world = nested_world(mode="pae")
    vcpu, kvm = world.vcpu, world.kvm
    for i, value in enumerate((0x5001, 0x6000, 0x7001, 0x8001)):
        write_guest(kvm, 0x30000 + 8 * i, 8, value)
    assert read_pdptrs(vcpu, 0x30000) == [0x5001, 0x6000, 0x7001, 0x8001]
    assert read_pdptrs(vcpu, 0x3001F) == [0x5001, 0x6000, 0x7001, 0x8001], "32 bytes"
    assert read_pdptrs(vcpu, 0xD0000000) is None
    vcpu.cr3 = 0x30000
    refresh_pdptrs(vcpu, vcpu.root_mmu)
    assert [vcpu.root_mmu.pdptr(i) for i in range(4)] == [0x5001, 0x6000, 0x7001, 0x8001]
    for bad in (W, U, A, 0x80, 0x100, 1 << 40, 1 << 52, NX):
        write_guest(kvm, 0x30008, 8, 0x6001 | bad)
        assert read_pdptrs(vcpu, 0x30000) is None
        refresh_pdptrs(vcpu, vcpu.root_mmu)
        assert vcpu.root_mmu.pdptr(1) == 0x6000
    write_guest(kvm, 0x30008, 8, 0x6000 | W | NX)
    assert read_pdptrs(vcpu, 0x30000) is not None, "not present: nothing is reserved"
    vcpu.cr3 = 0x1000


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("no", {"outcome": "vmexit", "code": "0x81", "info1": "0x0", "info2": "0x0"}),
        ("yes", {"outcome": "exit", "reason": SHUTDOWN}),
    ],
)
def test_an_exit_to_an_l1_without_valid_pdptes(value: str, result: dict[str, object]) -> None:
    """The processor marked them accessed, which KVM refuses: from 7.3 on L1 is shut down."""
    world = World.of(nested_text(mode="pae"), design={"invalid_l1_pdptes_shut_down": value})
    world.ok("l2nop")
    played = world.do("l2exit")
    assert "kvm_nested_vmenter_failed" in names(played.events)
    assert played.result == result


@pytest.mark.parametrize(("value", "l2s"), [("no", False), ("yes", True)])
def test_the_walker_after_an_exit_to_an_l1_without_valid_pdptes(value: str, l2s: bool) -> None:
    """KVM stops before it makes the walker L1's: one that L1 shares with L2 is still L2's."""
    world = World.of(nested_text(mode="pae"), design={"gva_walk_shared": value})
    mmu = world.vcpu.root_mmu
    world.ok("nop")
    l1_role = mmu.cpu_role
    world.ok("l2nop")
    world.do("l2exit")
    assert l1_role != world.vcpu.nested_mmu.cpu_role
    assert mmu.cpu_role == (world.vcpu.nested_mmu.cpu_role if l2s else l1_role)
