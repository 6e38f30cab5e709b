"""The dirty ring: entries, soft-full, reset (sptes-and-logging 2.10)."""

import errno

import pytest
from kvm.tdp_world import PHYSICAL, TDP
from kvm.world import World, names

from shadowmmu.kvm.bits import DIRTY_GFN_DIRTY, DIRTY_GFN_RESET
from shadowmmu.kvm.guest_access.dirty_ring import DirtyRing, dirty_ring_of
from shadowmmu.kvm.memory import reset_dirty_rings
from shadowmmu.kvm.memory.capabilities import (
    KVM_CAP_DIRTY_LOG_RING,
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
    kvm_vm_ioctl_enable_cap,
)
from shadowmmu.kvm.memory.memory_region import RegionError
from shadowmmu.kvm.memory.reset_dirty_rings import kvm_vm_ioctl_reset_dirty_pages
from shadowmmu.kvm.tracepoints.host import DirtyRingPush
from shadowmmu.x86.bits import W

LOGGED = 0x20000000


def ring_world(*setup: str, tdp: bool = True) -> World:
    lines = (*(TDP if tdp else ()), "cap 192 4096", "slot 2 0x20000000 4M dirty", *setup)
    world = World("long4", *lines, f"map 0x1000 {PHYSICAL:#x} 0x0 0x67 level=3 n=4")
    world.ok("nop")
    return world


def write(world: World, *pages: int) -> None:
    for page in pages:
        world.ok(f"write {PHYSICAL + LOGGED + 0x1000 * page:#x} 1")


def ring_of(world: World, vcpu: int = 0) -> DirtyRing:
    return dirty_ring_of(world.kvm.vcpus[vcpu])


@pytest.mark.parametrize("tdp", [True, False])
def test_each_page_once_in_the_ring_of_the_vcpu_that_wrote(tdp: bool) -> None:
    world = ring_world("vcpus 2", tdp=tdp)
    write(world, 3, 1, 3)
    world.ok("@1 nop", f"@1 write {PHYSICAL + LOGGED + 0x5000:#x} 1")
    assert ring_of(world).harvest() == [(2, 3), (2, 1)]
    assert ring_of(world, 1).harvest() == [(2, 5)]
    assert ring_of(world).harvest() == [], "taken"
    assert ring_of(world).used() == 2, "but not given back yet"


def test_push_is_told_after_the_entry_counts() -> None:
    world = ring_world()
    world.player.log.take()
    (event,) = (
        e for e in world.ok(f"write {PHYSICAL + LOGGED + 0x7000:#x} 1") if isinstance(e, DirtyRingPush)
    )
    assert event.text() == "ring 0: dirty 0x1 reset 0x0 slot 2 offset 0x7 (used 1)"


def test_a_nearly_full_ring_stops_the_vcpu_until_it_is_reset() -> None:
    world = ring_world()
    assert ring_of(world).soft_limit == 256 - 64
    for page in range(191):
        world.quick(f"write {PHYSICAL + LOGGED + 0x1000 * page:#x} 1")
    played = world.do(f"write {PHYSICAL + LOGGED + 0x1000 * 191:#x} 1")
    assert played.result == {"outcome": "exit", "reason": 31}
    for _ in range(2):
        played = world.do("nop")
        assert played.result == {"outcome": "exit", "reason": 31}
        assert names(played.events) == ["kvm_dirty_ring_exit"]
    assert len(ring_of(world).harvest()) == 192
    assert world.do("nop").result["outcome"] == "exit", "user space must reset it"
    requests = world.kvm.stat.remote_tlb_flush_requests
    assert kvm_vm_ioctl_reset_dirty_pages(world.kvm) == 192
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    world.ok("nop")
    assert not world.spte(LOGGED) & W
    write(world, 0)
    assert ring_of(world).harvest() == [(2, 0)]


def test_reset_takes_only_what_was_harvested() -> None:
    world = ring_world()
    write(world, 1, 2)
    assert ring_of(world).harvest() == [(2, 1), (2, 2)]
    write(world, 9)
    assert kvm_vm_ioctl_reset_dirty_pages(world.kvm) == 2
    assert ring_of(world).used() == 1
    assert ring_of(world).flags(2) == DIRTY_GFN_DIRTY
    assert world.spte(LOGGED + 0x9000) & W
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.player.log.take()
    assert kvm_vm_ioctl_reset_dirty_pages(world.kvm) == 0
    assert world.kvm.stat.remote_tlb_flush_requests == requests
    assert names(list(world.player.log.take())) == ["kvm_dirty_ring_reset"], "told all the same"


@pytest.mark.parametrize(
    ("pages", "batches"),
    [
        ([5, 6, 68], [(5, 1 | 2 | 1 << 63)]),
        ([5, 69], [(5, 1), (69, 1)]),
        ([10, 7], [(7, 1 | 8)]),
        ([10, 73, 9], [(10, 1 | 1 << 63), (9, 1)]),
        ([100, 3], [(100, 1), (3, 1)]),
        ([64, 1, 0], [(1, 1 | 1 << 63), (0, 1)]),
        ([4, 4], [(4, 1)]),
    ],
)
def test_pages_that_are_close_are_protected_together(
    pages: list[int], batches: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ring_world()
    ring = ring_of(world)
    for page in pages:
        ring.fill(2, page)
    assert len(ring.harvest()) == len(pages)
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(
        reset_dirty_rings,
        "kvm_arch_mmu_enable_log_dirty_pt_masked",
        lambda kvm, slot, first, mask: seen.append((first, mask)),
    )
    kvm_vm_ioctl_reset_dirty_pages(world.kvm)
    assert seen == batches


def test_entries_of_pages_that_are_gone_are_just_emptied() -> None:
    world = ring_world()
    ring = ring_of(world)
    for slot, page in ((9, 0), (2, 5000), (2, 1023)):
        ring.fill(slot, page)
    ring.harvest()
    assert kvm_vm_ioctl_reset_dirty_pages(world.kvm) == 3
    assert all(ring.flags(n) == 0 for n in range(3))


def test_the_counts_wrap() -> None:
    ring = DirtyRing(0, 256, 64)
    for n in range(600):
        ring.fill(1, n)
        assert ring.harvest() == [(1, n)]
        assert ring.flags(ring.reset_index) == DIRTY_GFN_RESET
        ring.set_flags(ring.reset_index, 0)
        ring.reset_index += 1
    assert ring.used() == 0


def test_no_bitmap_beside_a_ring() -> None:
    world = ring_world()
    assert world.do("getdirty 2").result["errno"] == "ENXIO"
    assert world.do("cleardirty 2 0 64").result["errno"] == "ENXIO"


@pytest.mark.parametrize(
    ("size", "number"),
    [(0, errno.EINVAL), (5000, errno.EINVAL), (2048, errno.EINVAL), (1 << 21, errno.E2BIG)],
)
def test_sizes(size: int, number: int) -> None:
    world = World.of("mode long4\nslot 0 0x0 16M\nalloc 0x2000\ntramp 0x1000\nstart cr3=0x1000\n")
    kvm = world.kvm
    kvm.vcpus.clear()
    with pytest.raises(RegionError) as refused:
        kvm_vm_ioctl_enable_cap(kvm, KVM_CAP_DIRTY_LOG_RING, size)
    assert refused.value.errno == number


def test_once_and_before_the_first_vcpu() -> None:
    world = World("long4")
    with pytest.raises(RegionError):
        kvm_vm_ioctl_enable_cap(world.kvm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 4096)
    world.kvm.vcpus.clear()
    kvm_vm_ioctl_enable_cap(world.kvm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 4096)
    with pytest.raises(RegionError):
        kvm_vm_ioctl_enable_cap(world.kvm, KVM_CAP_DIRTY_LOG_RING, 4096)
    with pytest.raises(RegionError):
        kvm_vm_ioctl_reset_dirty_pages(World("long4").kvm)


def test_a_scenario_harvests_and_resets() -> None:
    world = ring_world("vcpus 2")
    world.ok("@1 nop")
    write(world, 3, 1)
    assert world.do("@1 harvestring").result == {"outcome": "ok", "dirty": []}
    assert world.do("harvestring").result == {"outcome": "ok", "dirty": ["0x20003000", "0x20001000"]}
    assert world.do("resetrings").result == {"outcome": "ok", "reset": 2}
    assert world.do("harvestring").result == {"outcome": "ok", "dirty": []}


def test_without_rings_there_is_nothing_to_harvest_or_reset() -> None:
    world = World("long4")
    assert world.do("harvestring").result == {"outcome": "error", "errno": "ENXIO"}
    assert world.do("resetrings").result == {"outcome": "error", "errno": "EINVAL"}
