"""The host takes memory away (specification 5.7b, 11.9)."""

import pytest
from kvm.world import World, names

from shadowmmu.host.mapping import Mapping
from shadowmmu.kvm.fault.page_fault import mmu_invalidate_retry
from shadowmmu.kvm.memory.notifier import MmuNotifier
from shadowmmu.x86.bits import A

GVA = 0x400000


@pytest.fixture
def world() -> World:
    world = World("long4", "slot 1 0x2000000 1M", f"map 0x1000 {GVA:#x} 0x2000000 0x67 n=16")
    world.ok(*(f"write {GVA + 0x1000 * n:#x} {n}" for n in range(16)))
    return world


def memory(world: World) -> Mapping:
    return world.kvm.memslot_of(0x2000).mapping


def hva(world: World, page: int) -> int:
    return memory(world).hva + (page << 12)


def mapped(world: World) -> list[int]:
    return [n for n in range(16) if world.is_mapped(GVA + 0x1000 * n)]


@pytest.mark.parametrize(
    ("start", "end", "gone"), [(3, 5, [3, 4]), (0, 16, list(range(16))), (15, 40, [15]), (3.5, 4.25, [3, 4])]
)
def test_what_maps_the_range_goes(world: World, start: float, end: float, gone: list[int]) -> None:
    requests = world.kvm.stat.remote_tlb_flush_requests
    notifier = MmuNotifier(world.kvm)
    low, high = hva(world, 0) + int(start * 4096), hva(world, 0) + int(end * 4096)
    notifier.invalidate_range_start(low, high)
    assert mapped(world) == [n for n in range(16) if n not in gone]
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    notifier.invalidate_range_end(low, high)
    world.ok("nop")


def test_nothing_mapped_needs_no_flush(world: World) -> None:
    requests = world.kvm.stat.remote_tlb_flush_requests
    notifier = MmuNotifier(world.kvm)
    notifier.invalidate_range_start(hva(world, 100), hva(world, 101))
    notifier.invalidate_range_end(hva(world, 100), hva(world, 101))
    assert world.kvm.stat.remote_tlb_flush_requests == requests


def test_every_range_is_traced_but_only_slots_are_counted(world: World) -> None:
    world.player.log.take()
    sequence = world.kvm.mmu_invalidate_seq
    notifier = MmuNotifier(world.kvm)
    notifier.invalidate_range_start(0x1000, 0x2000)
    assert world.kvm.mmu_invalidate_in_progress == 0
    notifier.invalidate_range_end(0x1000, 0x2000)
    assert names(list(world.player.log.take())) == ["kvm_unmap_hva_range"]
    assert world.kvm.mmu_invalidate_seq == sequence


def test_a_fault_of_the_range_is_retried_while_it_lasts_and_if_it_began_before(world: World) -> None:
    kvm, fault = world.kvm, world.vcpu.fault
    notifier = MmuNotifier(kvm)
    fault.gfn, fault.mmu_seq = 0x2003, kvm.mmu_invalidate_seq
    assert not mmu_invalidate_retry(kvm, fault)
    notifier.invalidate_range_start(hva(world, 3), hva(world, 4))
    assert mmu_invalidate_retry(kvm, fault)
    fault.gfn = 0x2004
    assert not mmu_invalidate_retry(kvm, fault), "another range does not block"
    notifier.invalidate_range_end(hva(world, 3), hva(world, 4))
    assert mmu_invalidate_retry(kvm, fault), "but its end does"
    fault.mmu_seq = kvm.mmu_invalidate_seq
    assert not mmu_invalidate_retry(kvm, fault)


def test_ranges_in_progress_together_are_one(world: World) -> None:
    kvm, fault = world.kvm, world.vcpu.fault
    notifier = MmuNotifier(kvm)
    spans = [(hva(world, 8), hva(world, 9)), (hva(world, 2), hva(world, 3))]
    for span in spans:
        notifier.invalidate_range_start(*span)
    assert kvm.mmu_invalidate_in_progress == 2
    assert (kvm.mmu_invalidate_start, kvm.mmu_invalidate_end) == (0x2002, 0x2009)
    fault.gfn, fault.mmu_seq = 0x2005, kvm.mmu_invalidate_seq
    assert mmu_invalidate_retry(kvm, fault)
    for span in spans:
        notifier.invalidate_range_end(*span)
    assert (kvm.mmu_invalidate_in_progress, kvm.mmu_invalidate_seq) == (0, fault.mmu_seq + 2)
    notifier.invalidate_range_start(*spans[0])
    assert (kvm.mmu_invalidate_start, kvm.mmu_invalidate_end) == (0x2008, 0x2009)
    notifier.invalidate_range_end(*spans[0])


def test_a_huge_mapping_goes_if_a_part_of_it_does() -> None:
    world = World("long4", "slot 1 0x10000000 4M thp", f"map 0x1000 {GVA:#x} 0x10000000 0xe7 level=2 n=2")
    world.ok(f"write {GVA:#x} 1", f"write {GVA + 0x200000:#x} 1")
    assert world.level(GVA) == 2
    world.ok("madvise_dontneed 0x10005000 0x1000")
    assert not world.is_mapped(GVA)
    assert world.level(GVA + 0x200000) == 2
    world.ok(f"write {GVA + 0x5000:#x} 1")
    assert world.level(GVA + 0x5000) == 1


def test_a_slot_of_a_part_of_the_memory(world: World) -> None:
    """Ranges are cut to the slot, whatever its first page in the mapping is."""
    notifier = MmuNotifier(world.kvm)
    notifier.invalidate_range_start(hva(world, 0) - 0x100000, hva(world, 2))
    assert mapped(world) == list(range(2, 16))
    notifier.invalidate_range_end(hva(world, 0) - 0x100000, hva(world, 2))


@pytest.mark.parametrize(
    ("line", "after"),
    [
        ("madvise_dontneed 0x2003000 0x1000", "0x0"),
        ("remap 0x2003000 0x1000", "0x0"),
        ("mprotect 0x2003000 0x1000 ro", "0x3"),
    ],
)
def test_what_the_host_does_reaches_the_guest(world: World, line: str, after: str) -> None:
    world.ok(line)
    assert 3 not in mapped(world)
    assert world.do(f"read {GVA + 0x3000:#x}").result["value"] == after


def test_memory_the_host_protects_stops_the_vcpu(world: World) -> None:
    world.ok("mprotect 0x2003000 0x1000 ro")
    assert world.do(f"write {GVA + 0x3000:#x} 1").result == {"outcome": "error", "errno": "EFAULT"}
    assert world.do(f"read {GVA + 0x3000:#x}").result["value"] == "0x3"
    assert not world.spte(GVA + 0x3000) & 0x602
    world.ok("mprotect 0x2003000 0x1000 none")
    assert world.do(f"read {GVA + 0x3000:#x}").result == {"outcome": "error", "errno": "EFAULT"}
    world.ok("mprotect 0x2003000 0x1000 rw", f"write {GVA + 0x3000:#x} 9")


@pytest.mark.parametrize("flush", [False, True])
def test_ageing_is_an_operation_of_a_scenario(world: World, flush: bool) -> None:
    requests = world.kvm.stat.remote_tlb_flush_requests
    line = f"age 0x2003000 8K{' flush' if flush else ''}"
    played = world.do(line)
    assert played.result == {"outcome": "ok", "young": 1}
    assert names(played.events) == ["kvm_age_hva"]
    assert not world.spte(GVA + 0x3000) & A
    assert world.spte(GVA + 0x5000) & A
    assert world.kvm.stat.remote_tlb_flush_requests == requests + flush
    assert world.do(line).result == {"outcome": "ok", "young": 0}, "nobody accessed it"
    assert world.kvm.stat.remote_tlb_flush_requests == requests + flush
