"""Entering the guest: requests in KVM's order (specification 4.2, 10.4)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import (
    INVALID_PAGE,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    REQ_MMU_SYNC,
    REQ_TLB_FLUSH,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TLB_FLUSH_GUEST,
)
from shadowmmu.kvm.exits.run import service_requests, vcpu_enter_guest
from shadowmmu.kvm.tracepoints.exits import Entry, Exit

WINDOW = 0x7F0000000000


@pytest.fixture
def world() -> World:
    world = World(
        "long4", "map 0x1000 0x400000 0x800000 0x67", f"map 0x1000 {WINDOW:#x} 0x4000 0x67", "tramp 0x9000"
    )
    world.ok("read 0x400000", f"write {WINDOW + 0x800:#x} 0")
    world.vcpu.requests = 0
    return world


@pytest.mark.parametrize(
    ("requests", "flushes"),
    [
        (0, 0),
        (REQ_TLB_FLUSH, 1),
        (REQ_TLB_FLUSH_CURRENT, 1),
        (REQ_TLB_FLUSH_GUEST, 1),
        (REQ_TLB_FLUSH | REQ_TLB_FLUSH_CURRENT, 1),
        (REQ_TLB_FLUSH | REQ_TLB_FLUSH_GUEST, 2),
        (REQ_TLB_FLUSH_CURRENT | REQ_TLB_FLUSH_GUEST, 2),
        (REQ_LOAD_MMU_PGD, 0),
    ],
)
def test_flushes_are_counted(world: World, requests: int, flushes: int) -> None:
    """Flushing everything clears a pending flush of the current context."""
    world.page(4, 1).unsync = False
    world.kvm.stat.mmu_unsync = 0
    before = world.stats["tlb_flush"]
    world.vcpu.make_request(requests)
    service_requests(world.vcpu)
    assert world.stats["tlb_flush"] == before + flushes
    assert world.vcpu.requests == 0


@pytest.mark.parametrize(
    ("request_", "syncs"),
    [
        (REQ_MMU_SYNC, True),
        (REQ_TLB_FLUSH_GUEST, True),
        (REQ_TLB_FLUSH, False),
        (REQ_TLB_FLUSH_CURRENT, False),
    ],
)
def test_who_syncs(world: World, request_: int, syncs: bool) -> None:
    world.vcpu.make_request(request_)
    vcpu_enter_guest(world.vcpu)
    assert world.page(4, 1).unsync != syncs


def test_a_flush_of_the_guest_frees_previous_roots_that_are_not_in_sync(world: World) -> None:
    world.ok("cr3 0x9000")
    assert world.page(4, 1).unsync
    world.vcpu.make_request(REQ_TLB_FLUSH_GUEST)
    world.ok("nop")
    assert world.vcpu.mmu.prev_root(0)[1] == INVALID_PAGE
    assert world.page(4, 1).unsync, "freeing is no syncing"


def test_a_root_that_is_not_obsolete_stays(world: World) -> None:
    root = world.vcpu.mmu.root_hpa
    world.vcpu.make_request(REQ_MMU_FREE_OBSOLETE_ROOTS)
    world.ok("nop")
    assert world.vcpu.mmu.root_hpa == root


@pytest.mark.parametrize("mode", ["32", "pae", "nopaging"])
def test_roots_without_a_page_always_go(mode: str) -> None:
    world = World(mode)
    world.ok("nop")
    world.vcpu.make_request(REQ_MMU_FREE_OBSOLETE_ROOTS)
    events = world.ok("nop")
    assert names(events).count("kvm_mmu_get_page") == (1 if mode == "pae" else 4)


def test_a_sync_without_a_root_waits_for_the_load(world: World) -> None:
    """10.4: the requests come first; loading syncs anyway."""
    world.vcpu.mmu.root_hpa, root = INVALID_PAGE, world.vcpu.mmu.root_hpa
    world.vcpu.make_request(REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT)
    service_requests(world.vcpu)
    assert world.page(4, 1).unsync
    world.vcpu.mmu.root_hpa = root
    world.ok("nop")


@pytest.mark.parametrize(
    ("mode", "levels"), [("long4", 4), ("long5", 5), ("pae", 3), ("32", 3), ("nopaging", 3)]
)
def test_the_processor_runs_on_the_shadow_s_mode(mode: str, levels: int) -> None:
    world = World(mode)
    world.ok("nop")
    cpu = world.vcpu.cpu
    assert (cpu.levels, cpu.cr0_wp, cpu.efer_nx) == (levels, True, True)
    assert cpu.root == world.vcpu.mmu.root_hpa


def test_smep_and_smap_are_the_guest_s(world: World) -> None:
    world.ok("cr4 0x300020")
    assert (world.vcpu.cpu.cr4_smep, world.vcpu.cpu.cr4_smap) == (True, True)
    assert world.do("read 0x400000").result["error_code"] == "0x1"
    world.ok("cr4 0x20", "read 0x400000")


def test_the_guest_is_entered_first_and_after_each_exit() -> None:
    """As 6.12.111 fires it: kvm_entry comes after what was done for it, and is the last before the guest."""
    world = World("long4", "map 0x1000 0x400000 0x800000 0x67", "tramp 0x1000")
    between = ("kvm_entry", "kvm_exit", "kvm_mmu_get_page", "kvm_mmu_spte_requested")
    heard = [event.name for event in world.ok("nop") if event.name in between]
    pages = ["kvm_mmu_get_page"] * 3
    fault = ["kvm_exit", *pages, "kvm_mmu_spte_requested", "kvm_entry"]
    assert heard[: 2 + len(fault)] == ["kvm_mmu_get_page", "kvm_entry", *fault]
    entry, fault_exit = (e for e in world.ok("read 0x400000")[:2] if isinstance(e, Entry | Exit))
    assert isinstance(entry, Entry)
    assert isinstance(fault_exit, Exit)
    assert entry.rip == fault_exit.guest_rip, "the first instruction faults"
