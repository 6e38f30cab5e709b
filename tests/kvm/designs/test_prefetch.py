"""Mail 003: which neighbours a fault maps with it, and how their gptes and host pages are found."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kvm.designs.side_by_side import PAGING, assert_as_by_default
from kvm.random_nested import MODES as L1_MODES, random_nested
from kvm.random_scenarios import MODES, random_scenario
from kvm.world import World, names

import shadowmmu
from shadowmmu.kvm.bits import PREFETCH_FROM_FAULT, REQ_TLB_FLUSH, SPTE_EMPTY, SPTE_MMU_PRESENT
from shadowmmu.kvm.design.switches import switch_named
from shadowmmu.kvm.map.pte_update import need_remote_flush
from shadowmmu.kvm.spte.spte import spte_index
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.x86.bits import NX, A, P, U, W

TESTS = Path(__file__).parents[2]
GVA = 0x400000
READS = ("batch", "one_by_one")
SEEDS = range(8 if shadowmmu.native else 2)
BIG = ("slot 1 0x10000000 32M huge2m",)


def mapped(world: World, base: int = GVA, count: int = 48) -> list[int]:
    """Entries that map something in the table of the last SPTE for `base`, from the entry of `base` on."""
    first = world.sptep(base)
    return [n for n in range(count) if world.kvm.read_spte(first + 8 * n) & SPTE_MMU_PRESENT]


def world_of(*lines: str, n: int = 48, mode: str = "long4", **design: str) -> World:
    return World(mode, f"map 0x1000 {GVA:#x} 0x800000 0x67 n={n}", *lines, design=design)


# -- the window ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("mode", ["long4", "pae", "32"])
@pytest.mark.parametrize(
    ("window", "touched", "expected"),
    [
        ("off", 5, [5]),
        ("8_aligned", 21, [16, 17, 18, 19, 20, 21, 22, 23]),
        ("16_aligned", 21, range(16, 32)),
        ("16_aligned", 0, range(16)),
        ("16_from_fault", 21, range(21, 37)),
        ("16_from_fault", 0, range(16)),
    ],
)
def test_what_a_fault_maps(mode: str, window: str, reads: str, touched: int, expected: Any) -> None:
    world = world_of(mode=mode, prefetch_window=window, prefetch_gpte_reads=reads)
    world.ok("nop")
    events = world.ok(f"read {GVA + 0x1000 * touched:#x}")
    assert mapped(world) == list(expected)
    assert names(events).count("kvm_mmu_set_spte") == len(expected)
    accessed = [n for n in expected if world.spte(GVA + 0x1000 * n) & A]
    assert accessed == [touched], "neighbours are mapped in advance, not accessed"


WINDOWS = dict(switch_named("prefetch_window").values)
SIZES = [4, 32, 64, 512, 1024, 32 | PREFETCH_FROM_FAULT, 1024 | PREFETCH_FROM_FAULT]
"""Windows that no kernel has."""


def window_around(window: int, entry: int) -> range:
    """The entries of a table that a window around `entry` holds, of 48."""
    size = window & ~PREFETCH_FROM_FAULT or 1
    first = entry if window & PREFETCH_FROM_FAULT else entry - entry % size
    return range(first, min(first + size, 48))


@pytest.mark.parametrize("reads", [0, 1])
@pytest.mark.parametrize("mode", ["long4", "pae", "32"])
@pytest.mark.parametrize("window", [*WINDOWS.values(), *SIZES])
def test_windows_of_any_size(mode: str, window: int, reads: int) -> None:
    """Also with 4-byte gptes, of which a table has 1024, nothing is kept beyond the room for them."""
    world = world_of(mode=mode)
    design = world.kvm.design
    design.prefetch_window, design.prefetch_gpte_reads, design.merged_prefetch = window, reads, False
    world.ok("nop", f"read {GVA + 0x1000 * 21:#x}")
    assert mapped(world) == list(window_around(window, 21))
    assert mapped(world, count=512 - spte_index(world.sptep(GVA)))[-1] < 48


def test_the_table_has_windows_that_can_be_aligned() -> None:
    for window in WINDOWS.values():
        size = window & ~PREFETCH_FROM_FAULT
        assert size & (size - 1) == 0


@pytest.mark.parametrize("number", [4, 8, 16, 32])
def test_the_number_of_the_kernel_is_the_window_of_the_default(number: int) -> None:
    """Its owner is PTE_PREFETCH_NUM: another number is another window, and no other way to prefetch."""
    code = f"""
import shadowmmu.kvm.bits as bits
bits.PTE_PREFETCH_NUM = {number}
from kvm.designs.test_prefetch import GVA, mapped, world_of
world = world_of()
world.ok("nop", f"read {{GVA + 0x1000 * 37:#x}}")
design = world.kvm.design
print(design.merged_prefetch, design.value("prefetch_window"), design.prefetch_window, len(mapped(world)))
"""
    environment = os.environ | {"SHADOWMMU_INTERPRETED": "1", "PYTHONPATH": str(TESTS)}
    environment.pop("SHADOWMMU_REQUIRE_NATIVE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    inside = min(number, 16)  # of the 48 pages that there are, 16 lie between 32 and the end
    assert done.stdout.split() == ["True", f"{number}_aligned", str(number), str(inside)], done.stderr


@pytest.mark.parametrize(
    ("window", "forward", "backward"),
    [("off", 32, 32), ("8_aligned", 4, 4), ("16_aligned", 2, 2), ("16_from_fault", 2, 32)],
)
def test_faults_of_a_scan(window: str, forward: int, backward: int) -> None:
    """Why the mail asks for an aligned window: memory scanned backwards gains too."""
    for order, faults in ((range(32), forward), (range(31, -1, -1), backward)):
        world = world_of(n=32, prefetch_window=window)
        world.ok("nop")
        before = world.stats["pf_taken"]
        for n in order:
            world.ok(f"read {GVA + 0x1000 * n:#x}")
        assert world.stats["pf_taken"] - before == faults


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize(("gva", "last"), [(0x5FA000, 512), (0x3FA000, 512)])
@pytest.mark.parametrize("mode", ["long4", "32"])
def test_a_window_ends_with_its_table(mode: str, gva: int, last: int, reads: str) -> None:
    """Also with a quadrant: what follows in the guest's table of 4-byte entries is in another shadow page."""
    design = {"prefetch_window": "16_from_fault", "prefetch_gpte_reads": reads}
    world = World(mode, f"map 0x1000 {gva:#x} 0x800000 0x67 n=24", design=design)
    world.ok(f"read {gva:#x}")
    assert mapped(world, gva, 6) == list(range(6))
    assert not world.is_mapped(gva + 0x6000)
    second = gva + 0x6000
    world.ok(f"read {second:#x}")
    assert world.spte(gva + 0x7000) & SPTE_MMU_PRESENT
    assert not world.spte(gva + 0x7000) & A


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("window", ["16_aligned", "16_from_fault"])
@pytest.mark.parametrize("gpte", [0, 0x816066, 0x816047, 0x816067 | 1 << 45])
def test_the_first_bad_gpte_ends_every_window(window: str, reads: str, gpte: int) -> None:
    world = world_of(f"pt 0x4000 22 {gpte:#x}", prefetch_window=window, prefetch_gpte_reads=reads)
    world.ok(f"read {GVA + 0x12000:#x}")
    first = 16 if window == "16_aligned" else 18
    assert mapped(world) == list(range(first, 22))


def test_without_a_window_nothing_is_read() -> None:
    world = world_of(prefetch_window="off")
    world.ok(f"read {GVA:#x}")
    assert (world.stats["prefetch_gptes"], world.stats["prefetch_lookups"]) == (0, 0)


@pytest.mark.parametrize("reads", READS)
def test_not_while_the_host_invalidates(reads: str) -> None:
    world = world_of(prefetch_window="16_aligned", prefetch_gpte_reads=reads)
    world.kvm.mmu_invalidate_in_progress = 1
    world.kvm.mmu_invalidate_start, world.kvm.mmu_invalidate_end = 0x10000, 0x10001
    world.ok(f"read {GVA:#x}")
    assert mapped(world) == [0]
    world.kvm.mmu_invalidate_in_progress = 0


# -- reading gptes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reads", "expected"), [("batch", 16), ("one_by_one", 3)])
def test_a_batch_reads_gptes_in_vain(reads: str, expected: int) -> None:
    """One by one: those of the two neighbours that are mapped and the one that ends it."""
    world = world_of("pt 0x4000 19 0", prefetch_window="16_aligned", prefetch_gpte_reads=reads)
    world.ok("nop")
    before = world.stats["prefetch_gptes"]
    world.ok(f"read {GVA + 0x12000:#x}")
    assert mapped(world) == [16, 17, 18]
    assert world.stats["prefetch_gptes"] - before == expected


@pytest.mark.parametrize(("reads", "page"), [("batch", 0x803), ("one_by_one", 0x820)])
def test_when_gptes_are_read(reads: str, page: int) -> None:
    """In a batch when the fault's own gpte is checked; one by one when the SPTE before is there."""
    world = world_of(prefetch_window="16_aligned", prefetch_gpte_reads=reads)
    world.ok("nop")
    world.audit.unseen()

    def rewrite(event: Event) -> None:
        """Another vCPU changes a gpte, in a table out of sync, when the first SPTE is set."""
        world.machine.host_write(0x4000 + 8 * 3, 8, 0x820067)

    with world.kvm.tracer.listening(rewrite, "kvm_mmu_set_spte"):
        world.quick(f"read {GVA:#x}")
    assert world.spte(GVA + 0x3000) >> 12 & 0xFFFFFFFFFF == world.hpa(page << 12) >> 12


# -- looking host pages up -------------------------------------------------------------------------------


@pytest.mark.parametrize(("lookups", "expected"), [("batch", [0, 1]), ("one_by_one", [0, 1, 2, 3, 4])])
def test_at_the_end_of_a_slot(lookups: str, expected: list[int]) -> None:
    """A batch that does not fit into one slot is not tried; one by one it goes on to where the slot ends."""
    world = World("nopaging", "slot 1 0x2000000 20K", design={"prefetch_host_lookups": lookups})
    world.ok("read 0x2001000")
    assert mapped(world, 0x2000000, 8) == expected


@pytest.mark.parametrize(("lookups", "expected"), [("batch", [0]), ("one_by_one", list(range(8)))])
def test_where_two_slots_meet(lookups: str, expected: list[int]) -> None:
    """gfn and gfn + 1 may be in different slots; for simplicity a batch is limited to one, the mail says."""
    slots = ("slot 1 0x2000000 8K", "slot 2 0x2002000 24K")
    world = World("nopaging", *slots, design={"prefetch_host_lookups": lookups})
    world.ok("read 0x2000000")
    assert mapped(world, 0x2000000, 8) == expected


@pytest.mark.parametrize(("lookups", "expected"), [("batch", [0, 3, 4, 5]), ("one_by_one", [0, 3])])
def test_a_page_that_the_host_has_not_got(lookups: str, expected: list[int]) -> None:
    """It ends its run, and one by one everything: here page 1, before the fault's own, is missing."""
    world = World("nopaging", "slot 1 0x2000000 1M lazy", design={"prefetch_host_lookups": lookups})
    world.ok("hosttouch 0x2000000 0x1000", "hosttouch 0x2002000 0x4000", "read 0x2003000")
    assert mapped(world, 0x2000000, 8) == expected


@pytest.mark.parametrize(("lookups", "expected"), [("batch", 2), ("one_by_one", 15)])
def test_how_many_lookups(lookups: str, expected: int) -> None:
    design = {"prefetch_host_lookups": lookups, "prefetch_window": "16_aligned"}
    world = World("nopaging", design=design)
    world.ok("nop")
    before = world.stats["prefetch_lookups"]
    world.ok("read 0x803000")
    assert mapped(world, 0x800000, 24) == list(range(16))
    assert world.stats["prefetch_lookups"] - before == expected


@pytest.mark.parametrize("lookups", READS)
def test_a_logging_slot_has_no_direct_prefetch(lookups: str) -> None:
    world = World("nopaging", design={"prefetch_host_lookups": lookups, "prefetch_window": "16_aligned"})
    world.ok("dirtylog on 0", "read 0x803000")
    assert mapped(world, 0x800000, 16) == [3]


# -- above level 1 ---------------------------------------------------------------------------------------

ABOVE = pytest.mark.parametrize("above", ["no", "yes"])


@ABOVE
def test_huge_pages_of_a_guest_without_paging(above: str) -> None:
    world = World("nopaging", *BIG, design={"prefetch_above_level_1": above})
    world.ok("read 0x10600000")
    assert mapped(world, 0x10000000, 16) == (list(range(8)) if above == "yes" else [3])
    assert world.stats["pages_2m"] == (8 if above == "yes" else 1)


@ABOVE
@pytest.mark.parametrize("mode", ["long4", "pae", "32"])
def test_huge_pages_of_a_paging_guest(mode: str, above: str) -> None:
    """Of 4-byte entries each is two SPTEs."""
    world = World(
        mode,
        *BIG,
        "map 0x1000 0x40000000 0x10000000 0xe7 level=2 n=6",
        design={"prefetch_above_level_1": above},
    )
    world.ok("nop", "read 0x40200000")
    size = 4 if mode == "32" else 2
    count = {"no": 1, "yes": min(8, 6 * size // 2)}[above]
    assert world.stats["pages_2m"] == count
    if above == "yes":
        for n in range(count):
            gva = 0x40000000 + 0x200000 * n
            assert world.level(gva) == 2
            assert world.spte(gva) >> 12 & 0xFFFFFFFFFF == world.hpa(gva - 0x30000000) >> 12
            assert bool(world.spte(gva) & A) == (n == 1)
        taken = world.stats["pf_taken"]
        world.ok("read 0x40000000", "read 0x40400000")
        assert world.stats["pf_taken"] == taken


@pytest.mark.parametrize(
    "lines",
    [("pt 0x3000 2 0x104000c7",), ("pt 0x3000 2 0x10400067",), ("pt 0x3000 2 0",)],
    ids=["not accessed", "a table", "nothing"],
)
def test_the_first_gpte_that_is_no_large_page_ends_it(lines: tuple[str, ...]) -> None:
    window = "map 0x1000 0x0 0x10000000 0xe7 level=2 n=6"
    world = World("long4", *BIG, window, *lines, design={"prefetch_above_level_1": "yes"})
    world.ok("read 0x0")
    assert world.stats["pages_2m"] == 2


def test_the_first_page_that_is_small_for_the_host_ends_it() -> None:
    """ "We can't assume that the host also support huge page for next gfn"."""
    window = "map 0x1000 0x0 0x10000000 0xe7 level=2 n=6"
    world = World("long4", "slot 1 0x10000000 12M thp", window, design={"prefetch_above_level_1": "yes"})
    world.ok("remap 0x10400000 0x1000", "read 0x0")
    assert world.stats["pages_2m"] == 2


def test_a_logging_slot_has_no_huge_pages() -> None:
    world = World("nopaging", *BIG, design={"prefetch_above_level_1": "yes"})
    world.ok("dirtylog on 1", "read 0x10000000")
    assert world.stats["pages_2m"] == 0


# -- emulated page-table writes --------------------------------------------------------------------------

WRITES = pytest.mark.parametrize("prefetches", ["no", "yes"])


def self_map(prefetches: str) -> World:
    """PD 0x3000 is its own table 5: 0xa00000 + 0x1000 * n is what PD[n] points to. 0x40000000 is the PD."""
    lines = ("map 0x1000 0x200000 0x800000 0x67", "pt 0x3000 5 0x3067", "map 0x1000 0x40000000 0x3000 0x67")
    world = World(
        "long4",
        *lines,
        "vcpus 2",
        start="start cr3=0x1000 cr3@1=0x1000",
        design={"pte_write_prefetches": prefetches},
    )
    world.ok("read 0xa01000", "@1 nop")
    return world


@WRITES
def test_the_new_gpte_is_mapped_at_once(prefetches: str) -> None:
    world = self_map(prefetches)
    events = world.ok("write 0x40000038 0x808067")
    assert world.is_mapped(0xA07000) == (prefetches == "yes")
    assert world.stats["mmu_pte_updated"] == (prefetches == "yes")
    set_gfns = [e.gfn for e in events if e.name == "kvm_mmu_set_spte"]
    assert (0x808 in set_gfns) == (prefetches == "yes")
    assert not world.spte(0xA07000) & A
    taken = world.stats["pf_taken"]
    world.ok("read 0xa07000")
    assert world.stats["pf_taken"] - taken == (0 if prefetches == "yes" else 1)


@WRITES
@pytest.mark.parametrize("gpte", [0, 0x808066, 0x808047, 0x808067 | 1 << 45])
def test_what_is_not_mapped_at_once(prefetches: str, gpte: int) -> None:
    world = self_map(prefetches)
    world.ok(f"write 0x40000038 {gpte:#x}")
    assert world.spte(0xA07000) == SPTE_EMPTY
    assert world.stats["mmu_pte_updated"] == (prefetches == "yes" and gpte != 0)


@WRITES
@pytest.mark.parametrize(("gpte", "flushes"), [(0x2067, True), (0x4063, True), (0x4067, False)])
def test_others_are_flushed_only_if_something_is_gone(prefetches: str, gpte: int, flushes: bool) -> None:
    world = self_map(prefetches)
    requests = world.stats["remote_tlb_flush_requests"]
    served = world.stats["tlb_flush"]
    world.ok(f"write 0x40000008 {gpte:#x}")
    remote = prefetches == "no" or flushes
    assert world.stats["remote_tlb_flush_requests"] - requests == remote
    assert world.stats["tlb_flush"] - served == 1, "its own TLB"
    assert bool(world.kvm.vcpus[1].requests & REQ_TLB_FLUSH) == remote


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (0, 0x1000 | P, False),
        (0x1000 | P | SPTE_MMU_PRESENT, 0, True),
        (0x1000 | P | SPTE_MMU_PRESENT, 0x2000 | P | SPTE_MMU_PRESENT, True),
        (0x1000 | P | W | SPTE_MMU_PRESENT, 0x1000 | P | SPTE_MMU_PRESENT, True),
        (0x1000 | P | U | SPTE_MMU_PRESENT, 0x1000 | P | SPTE_MMU_PRESENT, True),
        (0x1000 | P | SPTE_MMU_PRESENT, 0x1000 | P | NX | SPTE_MMU_PRESENT, True),
        (0x1000 | P | NX | SPTE_MMU_PRESENT, 0x1000 | P | W | U | SPTE_MMU_PRESENT, False),
        (0x1000 | P | A | SPTE_MMU_PRESENT, 0x1000 | P | SPTE_MMU_PRESENT, False),
    ],
)
def test_need_remote_flush(old: int, new: int, expected: bool) -> None:
    assert need_remote_flush(old, new) == expected


@pytest.mark.parametrize("zaps", ["no", "yes"])
def test_invlpg_maps_with_the_same_code(zaps: str) -> None:
    """The gpte that a guest wrote to an unsync table and then flushed: what both share is prefetch_gpte."""
    setup = (f"map 0x1000 {GVA:#x} 0x800000 0x67 n=2", f"map 0x1000 {GVA + 0x8000:#x} 0x4000 0x67")
    world = World("long4", *setup, design={"pte_write_prefetches": "yes", "invlpg_zaps": zaps})
    world.ok(f"read {GVA:#x}", f"write {GVA + 0x8000:#x} 0x805067")
    events = world.ok(f"invlpg {GVA:#x}")
    assert ("kvm_mmu_set_spte" in names(events)) == (zaps == "yes")
    assert world.is_mapped(GVA) == (zaps == "yes")


# -- the same for the guest ------------------------------------------------------------------------------

ALL = {
    "prefetch_window": "16_aligned",
    "prefetch_gpte_reads": "one_by_one",
    "prefetch_host_lookups": "one_by_one",
    "prefetch_above_level_1": "yes",
    "pte_write_prefetches": "yes",
}
COMBINATIONS: tuple[dict[str, str], ...] = (
    {"prefetch_window": "off"},
    {"prefetch_window": "16_aligned"},
    {"prefetch_window": "16_from_fault", "prefetch_gpte_reads": "one_by_one"},
    {"prefetch_host_lookups": "one_by_one", "prefetch_above_level_1": "yes"},
    {"pte_write_prefetches": "yes", "invlpg_zaps": "yes"},
    ALL,
)


@pytest.mark.parametrize("design", COMBINATIONS, ids=lambda design: " ".join(design))
@pytest.mark.parametrize(
    ("parameters", "mode", "seed"),
    [
        *((PAGING["npt=0"], mode, seed) for mode in MODES for seed in SEEDS),
        *((PAGING["npt=1 tdp_mmu=0"], mode, SEEDS[0]) for mode in ("nopaging", "long4")),
    ],
)
def test_guests_see_no_difference(
    parameters: tuple[str, ...], mode: str, seed: int, design: dict[str, str]
) -> None:
    """The dirty log is not the guest's: an update makes pages dirty that nobody wrote."""
    lines = [*parameters, *random_scenario(mode, 5000 + seed, 100).splitlines()]
    text = "\n".join(line for line in lines if not line.startswith("getdirty")) + "\n"
    assert_as_by_default(text, design)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", L1_MODES)
def test_hypervisors_and_their_guests_see_no_difference(mode: str, seed: int) -> None:
    lines = random_nested(mode, 5000 + seed, 80).splitlines()
    text = "\n".join(line for line in lines if not line.startswith("getdirty")) + "\n"
    world = assert_as_by_default(text, ALL)
    assert world.stats["nested_run"]
