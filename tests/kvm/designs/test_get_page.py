"""Mail 000: how shadow pages are found and made (`get_page_flow`)."""

import pytest
from kvm.designs.guests import OPS, by_default, play
from kvm.random_scenarios import MODES, random_scenario
from kvm.world import World

from shadowmmu.guest.play.machine import Machine
from shadowmmu.host.memory import OutOfFrames
from shadowmmu.kvm.design.design import Design
from shadowmmu.kvm.pages.get_page import kvm_mmu_get_shadow_page
from shadowmmu.kvm.state.vm import Parameters
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.kvm.tracepoints.mmu import GetPage

WINDOW = 0x7F0000000000
FLOWS = ("merged", "sketch", "v3", "single")
STATS = ("mmu_cache_miss", "max_mmu_page_hash_collisions", "remote_tlb_flush_requests")


class Probe:
    """What STATS are, counted from now, whenever a page is zapped or looked up."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.before = world.stats
        self.seen: list[tuple[str, ...]] = []
        self.counts: list[dict[str, int]] = []

    def __call__(self, event: Event) -> None:
        self.seen.append((("new" if event.created else "found") if isinstance(event, GetPage) else "zap",))
        self.counts.append(self.now())

    def now(self) -> dict[str, int]:
        stats = self.world.stats
        return {name: stats[name] - self.before[name] for name in STATS}


def unsync_table(flow: str, **design: str) -> World:
    """The leaf table 0x4000, which two directory entries lead to, is unsync; its shadow need not change."""
    world = World(
        "long4",
        "map 0x1000 0x400000 0x800000 0x67 n=4",
        "map 0x1000 0x464000 0x810000 0x67",
        "pt 0x3000 3 0x4027",
        f"map 0x1000 {WINDOW:#x} 0x4000 0x67",
        design={"get_page_flow": flow, **design},
    )
    world.ok("read 0x400000", f"write {WINDOW + 0x800:#x} 0")
    assert world.page(4, 1).unsync
    return world


def probed(world: World, gfn: int, role: int) -> Probe:
    probe = Probe(world)
    world.kvm.tracer.add(probe, "kvm_mmu_prepare_zap_page", "kvm_mmu_get_page")
    kvm_mmu_get_shadow_page(world.vcpu, gfn, role)
    return probe


@pytest.mark.parametrize(("flow", "flushes"), [("merged", 0), ("sketch", 1), ("v3", 1), ("single", 0)])
def test_a_sync_that_changes_nothing(flow: str, flushes: int) -> None:
    """Only the sketch, and what it answers, flush all the same."""
    world = unsync_table(flow)
    before = world.stats
    world.ok("read 0x664000")
    assert world.stats["remote_tlb_flush_requests"] == before["remote_tlb_flush_requests"] + flushes
    assert world.stats["mmu_cache_miss"] == before["mmu_cache_miss"]
    assert world.page(4, 1).unsync, "synced, yet not protected"
    assert world.page(3, 2).marked_children() == [2, 3]


@pytest.mark.parametrize("flow", FLOWS)
def test_a_sync_that_changes_something_is_flushed_once(flow: str) -> None:
    world = unsync_table(flow)
    before = world.stats
    world.quick(f"write {WINDOW + 8:#x} 0x80f067")
    world.ok("read 0x664000")
    assert world.stats["remote_tlb_flush_requests"] == before["remote_tlb_flush_requests"] + 1


@pytest.mark.parametrize(("flow", "at_event"), [("merged", 2), ("sketch", 2), ("v3", 2), ("single", 1)])
def test_the_event_and_the_commit(flow: str, at_event: int) -> None:
    """An upper-level page zaps the unsync one, and the commit flushes; so does protecting the table."""
    world = unsync_table(flow)
    probe = probed(world, 4, 0x3702)
    assert probe.seen == [("zap",), ("new",)]
    assert [count["remote_tlb_flush_requests"] for count in probe.counts] == [0, at_event]
    assert [count["mmu_cache_miss"] for count in probe.counts] == [0, 1]
    assert probe.now()["remote_tlb_flush_requests"] == 2


@pytest.mark.parametrize("flow", FLOWS)
def test_when_collisions_are_counted(flow: str) -> None:
    """A sync that fails, as the table is gone, zaps the page: v3 has counted by then."""
    world = unsync_table(flow, hash_bits="1")
    world.machine.host.mprotect(world.machine.hva(0x4000), 0x1000, 0)
    bucket = world.kvm.hash_bucket(4)
    others = [gfn for gfn in range(0x900, 0x980) if world.kvm.hash_bucket(gfn) == bucket][:20]
    for gfn in others:
        kvm_mmu_get_shadow_page(world.vcpu, gfn, 0x3781)
    world.kvm.stat.max_mmu_page_hash_collisions = 0
    probe = probed(world, 4, 0x3701)
    assert probe.seen == [("zap",), ("new",)]
    moved = [count["max_mmu_page_hash_collisions"] for count in probe.counts]
    now = world.kvm.stat.max_mmu_page_hash_collisions
    assert now > 0
    assert moved == {"merged": [0, now], "sketch": [0, now], "v3": [now, now], "single": [0, 0]}[flow]


@pytest.mark.parametrize(("flow", "misses"), [("merged", 1), ("sketch", 0), ("v3", 1), ("single", 1)])
def test_a_miss_without_a_page(flow: str, misses: int) -> None:
    """No frame is left: the sketch counts a miss only once it has the page."""
    parameters = Parameters()
    parameters.host_maxphyaddr = 32
    machine = Machine(parameters, design=Design({"get_page_flow": flow}))
    vcpu = machine.add_vcpu(40)
    with pytest.raises(OutOfFrames):
        while True:
            machine.arena.alloc_table()
    with pytest.raises(OutOfFrames):
        kvm_mmu_get_shadow_page(vcpu, 0x900, 0x3781)
    assert machine.kvm.stat.mmu_cache_miss == misses


@pytest.mark.parametrize("flow", FLOWS)
def test_a_table_found_in_use_has_its_flood_counter_reset(flow: str) -> None:
    world = unsync_table(flow)
    world.page(4, 1).write_flooding_count = 2
    assert kvm_mmu_get_shadow_page(world.vcpu, 4, 0x3701) is world.page(4, 1)
    assert world.page(4, 1).write_flooding_count == 0


@pytest.mark.parametrize("flow", FLOWS[1:])
@pytest.mark.parametrize("mode", MODES)
def test_guests_do_not_notice(mode: str, flow: str) -> None:
    text = random_scenario(mode, 70, OPS)
    assert play(text, {"get_page_flow": flow}, checked=True) == by_default(text)
