"""Mail 004: special roots as bare tables with directories made in advance, or as one-off shadow pages."""

from collections.abc import Mapping

import pytest
from kvm.designs.side_by_side import Guest, assert_alike
from kvm.random_nested import random_nested
from kvm.random_scenarios import random_scenario
from kvm.world import World, names

import shadowmmu
from shadowmmu.guest.scenario.ops import Access, Exec, Invlpg
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.kvm.bits import (
    INVALID_PAGE,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    RET_PF_RETRY,
    ROLE_4BYTE_GPTE,
    ROLE_LEVEL,
    ROLE_QUADRANT,
    ROLE_QUADRANT_SHIFT,
    SPTE_MMU_PRESENT,
)
from shadowmmu.kvm.design.switches import PROFILES
from shadowmmu.kvm.guest_access.guest_walk import walk_addr
from shadowmmu.kvm.map.fetch import fetch
from shadowmmu.kvm.pages.zap import kvm_mmu_zap_all_fast
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.kvm.state.vcpu import Vcpu
from shadowmmu.x86.bits import ADDR, NX, PS, A, P, U, W

ONE_OFF = {"special_roots": "one_off"}
DESIGNS = pytest.mark.parametrize("one_off", [False, True])
MODES = ("32", "pae", "nopaging")
SEEDS = range(10 if shadowmmu.native else 3)


def world_of(mode: str, one_off: bool, *setup: str, start: str = "start cr3=0x1000") -> World:
    return World(mode, *setup, start=start, design=ONE_OFF if one_off else {})


def quadrant(sp: ShadowPage) -> int:
    return (sp.role & ROLE_QUADRANT) >> ROLE_QUADRANT_SHIFT


def directories(world: World) -> list[tuple[int, int]]:
    """(gfn, quadrant) of the directories there are, oldest first."""
    return [(sp.gfn, quadrant(sp)) for sp in reversed(world.pages(level=2))]


def root(world: World, vcpu: int = 0) -> ShadowPage:
    return world.kvm.sptep_to_sp(world.kvm.vcpus[vcpu].mmu.root_hpa)


# -- directories on demand -------------------------------------------------------------------------------


@DESIGNS
def test_directories_are_made_with_the_root_or_by_the_fault_that_needs_them(one_off: bool) -> None:
    world = world_of(
        "32", one_off, "map 0x1000 0x400000 0x800000 0x67", "map 0x1000 0x80400000 0x801000 0x67"
    )
    made = [e for e in world.ok("nop") if e.name == "kvm_mmu_get_page" and e.role & ROLE_LEVEL == 2]
    assert len(made) == (1 if one_off else 4)
    if one_off:
        assert directories(world) == [(1, 3)], "the guest's code is in the last quarter"
        world.ok("read 0x80400000")
        assert directories(world) == [(1, 3), (1, 2)]
        world.ok("read 0x400000")
        assert directories(world) == [(1, 3), (1, 2), (1, 0)]
    else:
        assert directories(world) == [(1, 0), (1, 1), (1, 2), (1, 3)]


@DESIGNS
def test_quadrants_follow_from_the_place_in_the_parent(one_off: bool) -> None:
    setup = [f"map 0x1000 {(i << 30) + half:#x} 0x800000 0x67" for i in range(3) for half in (0, 0x200000)]
    world = world_of("32", one_off, *setup)
    for i in range(3):
        for half in (0, 0x200000):
            world.ok(f"read {(i << 30) + half:#x}")
            leaf = world.kvm.sptep_to_sp(world.sptep((i << 30) + half))
            assert quadrant(leaf) == (half != 0)
            parent = world.kvm.sptep_to_sp(leaf.parent_ptes)
            assert (quadrant(parent), leaf.role & ROLE_4BYTE_GPTE) == (i, ROLE_4BYTE_GPTE)
    assert sorted(directories(world)) == [(1, 0), (1, 1), (1, 2), (1, 3)]


@DESIGNS
def test_only_directories_in_use_are_shadowed_tables(one_off: bool) -> None:
    """PAE: a directory that nobody needed yet is ordinary memory to KVM."""
    lines = ["pt 0x1000 1 0x10001", "map 0x1000 0x400000 0x800000 0x67", "map 0x1000 0x401000 0x10000 0x67"]
    world = world_of("pae", one_off, *lines)
    world.ok("read 0x400000", "write 0x401000 0x4000")
    assert world.stats["mmu_pte_write"] == (0 if one_off else 1)
    assert bool(world.spte(0x401000) & W) == one_off


@DESIGNS
def test_without_paging_directories_are_direct(one_off: bool) -> None:
    world = world_of("nopaging", one_off, start="start")
    world.ok("nop")
    assert sorted(directories(world)) == ([(0xC0000, 0)] if one_off else [(i << 18, 0) for i in range(4)])
    world.ok("read 0x800000")
    assert (0, 0) in directories(world)
    assert world.page(0, 2, direct=True).role == world.page(0xC0000, 2, direct=True).role


# -- the special page ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_root_is_a_page_of_its_own(mode: str) -> None:
    world = world_of(mode, one_off=True, start="start" if mode == "nopaging" else "start cr3=0x1000")
    world.ok("nop")
    sp, mmu = root(world), world.vcpu.mmu
    assert sp.special
    assert sp.role == mmu.root_role
    assert sp.role & ROLE_LEVEL == 3
    assert sp not in world.kvm.active_mmu_pages.pages()
    assert world.kvm.n_used_mmu_pages == len(world.kvm.active_mmu_pages.pages())
    entries = [word for word in world.kvm.read_table(sp.hpa) if word & P]
    assert [word & ~(ADDR | A) for word in entries] == [P | SPTE_MMU_PRESENT], (
        "what else may be in a PDPTE is reserved"
    )
    assert not any((mmu.pae_root, mmu.pml4_root, mmu.pml5_root))


def test_every_vcpu_has_its_own_root() -> None:
    world = world_of("32", True, "vcpus 2", start="start cr3=0x1000 cr3@1=0x1000")
    world.ok("nop", "@1 nop")
    assert root(world, 0).hpa != root(world, 1).hpa
    assert len(directories(world)) == 1, "but the directories are shared"


@DESIGNS
def test_another_cr3_frees_the_root_and_finds_the_directories_again(one_off: bool) -> None:
    world = world_of("32", one_off, "map 0x1000 0x400000 0x800000 0x67", "tramp 0x10000")
    world.ok("read 0x400000")
    former = world.vcpu.mmu.root_hpa
    tables = [sp.hpa for sp in world.pages()]
    world.ok("cr3 0x10000")
    assert all(world.vcpu.mmu.prev_root(i)[1] == INVALID_PAGE for i in range(3))
    if one_off:
        assert world.kvm.page_at(former) is None
    world.ok("cr3 0x1000")
    events = world.ok("read 0x400000")
    assert ("kvm_mmu_get_page" in names(events)) == one_off, "linked again by the fault, not with the root"
    assert all(not e.created for e in events if e.name == "kvm_mmu_get_page")
    assert {sp.hpa for sp in world.pages()} >= set(tables)


@DESIGNS
def test_a_request_to_free_obsolete_roots_spares_a_valid_one(one_off: bool) -> None:
    """A special root has a generation like every page; a bare table has none and always goes."""
    world = world_of("32", one_off, "map 0x1000 0x400000 0x800000 0x67")
    world.ok("read 0x400000")
    world.vcpu.make_request(REQ_MMU_FREE_OBSOLETE_ROOTS)
    former = world.vcpu.mmu.root_hpa
    events = world.ok("read 0x400000")
    assert ("kvm_mmu_get_page" not in names(events)) == one_off
    assert not one_off or world.vcpu.mmu.root_hpa == former


@DESIGNS
def test_a_zapped_directory_is_an_ordinary_child(one_off: bool) -> None:
    """The recycler takes it although the root is in use; with bare tables directories are roots, and stay."""
    world = world_of("32", one_off, "map 0x1000 0x400000 0x800000 0x67")
    world.ok("read 0x400000", "nrmmu 64")
    oldest = world.kvm.active_mmu_pages.pages()[-1]
    assert (oldest.role & ROLE_LEVEL, oldest.root_count) == (2, 0 if one_off else 1)
    kvm_mmu_zap_all_fast(world.kvm)
    assert len(world.kvm.active_mmu_pages.pages()) == 0
    left = [sp for sp in world.kvm.owners if sp is not None and world.kvm.arena is not None and sp.root_count]
    assert [sp.role & ROLE_LEVEL for sp in left] == ([3] if one_off else [2, 2, 2, 2])
    world.ok("read 0x400000")


def test_two_zaps_in_a_row_leave_a_root_that_can_be_used_again() -> None:
    """The generation is a bit: after two changes the empty page is valid, and in use again."""
    world = world_of("32", True, "map 0x1000 0x400000 0x800000 0x67")
    world.ok("read 0x400000")
    former = world.vcpu.mmu.root_hpa
    kvm_mmu_zap_all_fast(world.kvm)
    assert world.kvm.is_obsolete(root(world))
    kvm_mmu_zap_all_fast(world.kvm)
    assert not any(word & SPTE_MMU_PRESENT for word in world.kvm.read_table(former))
    world.ok("read 0x400000")
    assert world.vcpu.mmu.root_hpa == former


def test_an_unsync_page_marks_the_special_root() -> None:
    setup = ("map 0x1000 0x400000 0x800000 0x67 n=2", "map 0x1000 0x80000000 0x2000 0x67")
    world = world_of("32", True, *setup)
    world.ok("read 0x400000", "write 0x80000000 0x801067")
    leaf = world.page(2, 1)
    assert leaf.unsync
    assert root(world).marked_children() == [0]
    world.ok("cr3 0x1000", "read 0x400000")
    assert not leaf.unsync
    assert world.spte(0x400000) & ADDR == world.hpa(0x801000)


@DESIGNS
def test_a_directory_whose_memory_comes_later(one_off: bool) -> None:
    """Directories made on demand are not missing if they could not be seen when the root was loaded."""
    world = world_of("pae", one_off, "pt 0x1000 1 0x2000001", "map 0x1000 0x400000 0x800000 0x67")
    world.ok("read 0x400000")
    world.do_quietly("slot 1 0x2000000 1M")
    world.ok("hostwrite 0x2000010 0x2001067 size=8", "hostwrite 0x2001000 0x800067 size=8")
    expected = {"outcome": "ok", "value": "0x0"} if one_off else {"outcome": "error", "errno": "EFAULT"}
    assert world.do("read 0x40400000").result == expected


# -- nested ----------------------------------------------------------------------------------------------

NESTED = """param kvm_amd npt=1
mode {mode}
nested
{levels}slot 0 0x0 16M
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 {npt} 0x67 n=8
alloc 0x20000
ntramp {npt}
npt map {npt} 0x800000 0x800000 0x67 n=4
npt map {npt} 0x40800000 0x804000 0x67 n=4
npt map {npt} 0x80200000 0x808000 0x67 n=4
poke 0x800000 0x11
poke 0x805000 0x22
poke 0x808000 0x33
start cr3=0x1000 ncr3={npt}
nop
l2read 0x800000
l2read 0x40801000
l2read 0x80200000
l2write 0x801000 0x44
l2read 0x700000
l2exit
write 0x400000 0x0
write 0x401000 0x0
read 0x402000
l2read 0x800000
l2read 0x40801000
l2write 0x80200000 0x55
l2read 0x801000
"""


def nested(mode: str, la57: bool) -> str:
    levels = "param kvm_amd la57=1\n" if la57 else ""
    return NESTED.format(mode=mode, npt="0x1f000", levels=levels)


@pytest.mark.parametrize("mode", ["32", "pae"])
def test_upper_levels_are_special_too(mode: str) -> None:
    text = nested(mode, la57=False)
    one, two = assert_alike(text, {}, ONE_OFF)
    top = two.kvm.sptep_to_sp(two.vcpu.guest_mmu.root_hpa)
    middle = two.kvm.sptep_to_sp(two.kvm.read_spte(top.hpa) & ADDR)
    assert [(sp.special, sp.role & ROLE_LEVEL) for sp in (top, middle)] == [(True, 4), (True, 3)]
    assert middle.role == top.role - 1
    assert one.vcpu.guest_mmu.pml4_root
    assert not two.vcpu.guest_mmu.pml4_root


def test_a_pdpte_that_changed_during_the_fault_makes_it_try_again() -> None:
    """The processor does not load nested PDPTEs: they are read in each walk, and checked like gptes."""
    world = World.of(nested("pae", la57=False), design=ONE_OFF)
    for op in parse_scenario(world.text).ops[:2]:
        world.play(op)
    vcpu = world.vcpu
    fault, w = vcpu.fault, vcpu.walker
    fault.addr = 0x40801000
    assert walk_addr(vcpu, vcpu.mmu, w, fault.addr, U)
    world.machine.host_write(0x1F008, 8, world.machine.host_read(0x1F010, 8))
    assert fetch(vcpu, fault, w) == RET_PF_RETRY
    assert walk_addr(vcpu, vcpu.mmu, w, 0x800000, U)


# -- the same translations -------------------------------------------------------------------------------


def leaves(vcpu: Vcpu, regions: Mapping[int, list[int]]) -> dict[int, tuple[int, int, int]]:
    """(frame, U and NX, W) of the leaf SPTE that the processor reaches, by gva, where there is one.

    `regions` are the addresses by their 2 MiB; the frame is of 4 KiB.
    """
    read, root = vcpu.kvm.read_spte, vcpu.mmu.root_hpa
    found: dict[int, tuple[int, int, int]] = {}
    if root in (0, INVALID_PAGE):
        return found
    for region, gvas in regions.items():
        pdpte = read(root + 8 * (region >> 9))
        upper = read((pdpte & ADDR) + 8 * (region & 511)) if pdpte & P else 0
        for gva in gvas if upper & P else ():
            page = gva >> 12 & 511
            spte = upper | page << 12 if upper & PS else read((upper & ADDR) + 8 * page)
            if spte & P:
                found[gva] = (spte & ADDR) >> 12, spte & (U | NX), spte & W
    return found


def gfn_of(world: World, pfn: int) -> int:
    """The guest frame that a host frame backs."""
    for slot in world.kvm.memslots:
        index = slot.mapping.index_of(pfn)
        if index is not None and 0 <= index - slot.first_page < slot.npages:
            return int(slot.base_gfn + index - slot.first_page)
    return -1


def compare_leaves(one: World, two: World, regions: Mapping[int, list[int]], tables: set[int]) -> int:
    """Every address that both processors can translate leads to the same frame with the same rights.

    Only W may differ, for `tables`, the frames shadowed so far: a directory that nobody needed yet is none.
    The number of addresses is returned.
    """
    compared = 0
    for first, second in zip(one.kvm.vcpus, two.kvm.vcpus, strict=True):
        reached = leaves(second, regions)
        for gva, here in leaves(first, regions).items():
            there = reached.get(gva)
            if there is None:
                continue
            assert here[:2] == there[:2], hex(gva)
            assert here[2] == there[2] or gfn_of(one, here[0]) in tables, hex(gva)
            compared += 1
    return compared


@pytest.mark.parametrize("kernel", [profile.kernel for profile in PROFILES])
@pytest.mark.parametrize(("mode", "seed"), [(mode, seed) for mode in MODES for seed in SEEDS])
def test_random_guests_get_the_same_translations(mode: str, seed: int, kernel: str) -> None:
    text = random_scenario(mode, 4000 + seed, 120)
    ops = parse_scenario(text).ops
    gvas = {op.gva & ~0xFFF for op in ops if isinstance(op, Access | Exec | Invlpg)}
    gvas |= {(gva + 0x1000 * n) % (1 << 32) for gva in gvas for n in range(8)}
    regions: dict[int, list[int]] = {}
    for gva in gvas:
        regions.setdefault(gva >> 21, []).append(gva)
    one = Guest(text, {}, kernel=kernel, checked=False)
    two = Guest(text, ONE_OFF, kernel=kernel, checked=True)
    tables: set[int] = set()
    compared = 0
    for op in ops:
        assert one.play(op) == two.play(op), op.text
        tables |= {sp.gfn for world in (one.world, two.world) for sp in world.pages() if sp.has_gptes()}
        compared += compare_leaves(one.world, two.world, regions, tables)
    assert one.memory() == two.memory()
    assert compared > 100


@pytest.mark.parametrize("kernel", [profile.kernel for profile in PROFILES])
@pytest.mark.parametrize(("mode", "seed"), [(mode, seed) for mode in ("32", "pae") for seed in SEEDS])
def test_random_hypervisors_and_their_guests_see_no_difference(mode: str, seed: int, kernel: str) -> None:
    one, _ = assert_alike(random_nested(mode, 4000 + seed, 100), {}, ONE_OFF, kernel=kernel)
    assert one.stats["nested_run"]
