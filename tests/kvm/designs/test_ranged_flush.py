"""Mail 001: flushes of a range of gfns, and where the one for a replaced huge SPTE begins."""

import pytest
from kvm.designs.guests import OPS, by_default, huge_guest, play, random_scenario
from kvm.random_scenarios import MODES
from kvm.tlb_audit import play_with_tlb
from kvm.world import World

from shadowmmu.kvm.spte.flush import kvm_flush_remote_tlbs_range
from shadowmmu.x86.bits import READ

RANGED = {"ranged_flush": "yes", "split_flush": "always"}
FROM_TABLE = {**RANGED, "ranged_flush_start": "table"}
HUGE = 0x40200000
"""Mapped by one SPTE: the second entry of the page directory 0x3000, gfn 0x10200."""


def huge_world(design: dict[str, str]) -> World:
    """Two vCPUs; HUGE is mapped huge and in vCPU 1's TLB."""
    world = World(
        "long4",
        "param kvm nx_huge_pages=Y",
        "vcpus 2",
        "slot 1 0x10000000 4M huge2m",
        "map 0x1000 0x40000000 0x10000000 0xe7 level=2 n=2",
        "map 0x1000 0x60000000 0x3000 0x67",
        "code 0x10201000",
        "poke 0x10240000 0x800067",
        "poke 0x800000 0x1111",
        "poke 0x801000 0x2222",
        tlb=True,
        design=design,
    )
    world.ok(f"@1 write {HUGE:#x} 1", "@1 read 0x60000000")
    assert world.spte(HUGE, vcpu=1) & 0x80
    return world


def cached(world: World, vcpu: int = 1) -> dict[int, int]:
    """Pages that a vCPU's TLB knows, with their level."""
    return {gva: level for gva, _, level, _ in world.kvm.vcpus[vcpu].cpu.tlb.translations()}


@pytest.mark.parametrize(
    ("gfn", "pages"), [(0x10200, 512), (0x10240, 1), (0x10000, 0x1000), (0x10100, 0x101)]
)
def test_a_range_and_nothing_else(gfn: int, pages: int) -> None:
    """A huge page goes with any part of it; what leads elsewhere stays, and nothing is requested."""
    world = huge_world(RANGED)
    before = world.stats
    world.vcpu.requests = world.kvm.vcpus[1].requests = 0
    kvm_flush_remote_tlbs_range(world.kvm, gfn, pages)
    assert HUGE not in cached(world)
    assert 0x60000000 in cached(world)
    assert world.stats == before
    assert world.kvm.vcpus[1].requests == 0


@pytest.mark.parametrize(("gfn", "pages"), [(0x10000, 512), (0x10400, 4096), (0x90000, 16), (3, 0)])
def test_other_ranges(gfn: int, pages: int) -> None:
    world = huge_world(RANGED)
    kvm_flush_remote_tlbs_range(world.kvm, gfn, pages)
    assert HUGE in cached(world)


def test_without_the_switch_a_range_is_everything() -> None:
    world = huge_world({})
    before = world.stats["remote_tlb_flush_requests"]
    kvm_flush_remote_tlbs_range(world.kvm, 0x90000, 1)
    assert world.stats["remote_tlb_flush_requests"] == before + 1
    assert HUGE in cached(world), "not before its next entry"
    world.ok("@1 nop")
    assert HUGE not in cached(world)


@pytest.mark.parametrize(
    ("design", "known"),
    [({}, False), (RANGED, False), (FROM_TABLE, True), ({**FROM_TABLE, "ranged_flush": "no"}, False)],
)
def test_a_table_replaces_the_huge_spte(design: dict[str, str], known: bool) -> None:
    """An executable small page below. The range from the table's gfn, 3, does not hold gfn 0x10200."""
    world = huge_world(design)
    for line in ("exec 0x40201000", "@1 nop"):
        assert world.quick(line).result["outcome"] == "ok"
    assert world.level(0x40201000) == 1
    assert not world.is_mapped(HUGE + 0x40000)
    assert (HUGE in cached(world)) == known
    if known:
        assert world.kvm.vcpus[1].cpu.access(HUGE + 0x40000, READ) == world.hpa(0x10240000)
        with pytest.raises(AssertionError, match="tlb-as-tables"):
            world.check()
    else:
        world.check()


@pytest.mark.parametrize(("design", "value"), [({}, "0x2222"), (RANGED, "0x2222"), (FROM_TABLE, "0x1111")])
def test_the_wrong_range_hides_writes_to_a_table(design: dict[str, str], value: str) -> None:
    """vCPU 1 edits a page table, in a part of the huge page that no SPTE maps any more, through its TLB."""
    world = huge_world(design)
    for line in ("exec 0x40201000", "write 0x60000400 0x10240067", "read 0x50000000"):
        assert world.quick(line).result["outcome"] == "ok"
    world.quick("@1 write 0x40240000 0x801067")
    world.quick("invlpg 0x50000000")
    assert world.quick("read 0x50000000").result["value"] == value


@pytest.mark.parametrize("mode", MODES)
def test_tlbs_stay_right(mode: str) -> None:
    play_with_tlb(random_scenario(mode, 75, OPS), design=RANGED)
    play_with_tlb(huge_guest(mode, 75, OPS), design={**RANGED, "eager_split": "all"})


@pytest.mark.parametrize("mode", MODES)
def test_guests_do_not_notice(mode: str) -> None:
    text = huge_guest(mode, 76, OPS)
    assert play(text, RANGED, checked=True) == by_default(text)
