"""Every predicate finds the one thing that it guards against, and no other predicate takes it for its own.

Each case makes a machine and breaks its structures in one way; its name is the predicate that must see it.
"""

from collections.abc import Callable

import pytest
from kvm.nested_world import DATA, nested_world
from kvm.tdp_world import PHYSICAL, TDP, tdp_world
from kvm.world import World

from shadowmmu.check.audit.audit import PREDICATES
from shadowmmu.kvm.bits import (
    MEMSLOT_INVALID,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    ROLE_ACCESS_SHIFT,
    ROLE_DIRECT,
    ROLE_GUEST_MODE,
    ROLE_INVALID,
    ROLE_LEVEL,
    ROLE_QUADRANT_SHIFT,
    SPTE_HOST_WRITABLE,
    SPTE_MMU_PRESENT,
    SPTE_MMU_WRITABLE,
)
from shadowmmu.kvm.pages.account import unaccount_shadowed
from shadowmmu.kvm.pages.zap import kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page, kvm_mmu_zap_all_fast
from shadowmmu.kvm.spte.unsync import clear_unsync_child_bit
from shadowmmu.kvm.state.memslots import MemSlot
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.x86.bits import ACC_W, ADDR, NX, A, P, U, W

GVA, DATA_GFN = 0x400000, 0x800
FAR = GVA + 9 * 0x1000
"""Mapped by the guest, not yet by KVM, and too far away to be prefetched with GVA."""
NOT_YET = 0x600000
"""The same with a guest table of its own."""
WINDOW = 0x10000000
"""Where the guest's tables are mapped."""
MMIO = 0x20000000
LARGE = 0x40000000
"""A large page of the guest over small ones of the host."""

HUGE = 0x60000000
"""A large page over one of the host, in guests that have it."""

CASES: dict[str, tuple[Callable[[], World], set[str]]] = {}
ONLY_IN_SWEEPS = {
    "page-hashed": "the bucket is no part of any page",
    "rmap-lists-the-leaves": "no SPTE changed",
    "rmap-encoding": "no SPTE changed",
    "parents-encoding": "the head is the same",
    "tracking-counted": "no guest table has these counts",
    "huge-page-disallowed": "no page changed",
    "write-tracked": "no page changed",
    "no-page-twice": "nothing points to such a page",
    "no-bug": "no SPTE changed",
}


def case(name: str, *also: str) -> Callable[[Callable[[], World]], Callable[[], World]]:
    """Enter a function that makes a broken machine; `also`: predicates that cannot but see it too."""

    def enter(broken: Callable[[], World]) -> Callable[[], World]:
        CASES[name] = broken, {name, *also}
        return broken

    return enter


def small_world(*setup: str, tlb: bool = False) -> World:
    world = World(
        "long4",
        f"map 0x1000 {GVA:#x} {DATA_GFN << 12:#x} 0x67 n=3",
        f"map 0x1000 {FAR:#x} 0x809000 0x67",
        f"map 0x1000 {NOT_YET:#x} 0x80a000 0x67",
        f"map 0x1000 {WINDOW:#x} 0x1000 0x67 n=16",
        f"map 0x1000 {MMIO:#x} 0xd0000000 0x67",
        f"map 0x1000 {LARGE:#x} 0x800000 0xe7 level=2",
        f"map 0x1000 {LARGE + 0x200000:#x} 0x800000 0xe5 level=2",
        *setup,
        tlb=tlb,
    )
    world.ok(f"write {GVA:#x} 1", f"read {GVA + 0x1000:#x}", f"read {MMIO:#x}")
    return world


def shadow(world: World, level: int = 1) -> ShadowPage:
    """The page of a level on the way to GVA."""
    sp = world.kvm.sptep_to_sp(world.sptep(GVA))
    while sp.level() < level:
        sp = world.kvm.sptep_to_sp(sp.parent_ptes)
    return sp


def table(world: World) -> int:
    """Guest address of the leaf table that maps GVA, with entry 0."""
    return shadow(world).gfn << 12


def window(world: World, level: int = 1) -> int:
    """Where the guest has a table on the way to GVA mapped."""
    return WINDOW - 0x1000 + (shadow(world, level).gfn << 12)


def store(world: World, address: int, value: int) -> None:
    world.machine.arena.store(address, 8, value)


def slot_of(world: World, id: int = 0) -> MemSlot:
    return next(slot for slot in world.kvm.memslots if slot.id == id)


def root(world: World) -> ShadowPage:
    return world.page(1, 4)


# -- guest tables ----------------------------------------------------------------------------------------


@case("shadow-of-present")
def _() -> World:
    world = small_world()
    world.machine.host_write(table(world), 8, DATA_GFN << 12 | 0x66)
    return world


@case("shadow-of-frame")
def _() -> World:
    world = small_world()
    world.machine.host_write(table(world), 8, 0x805067)
    return world


@case("shadow-of-rights")
def _() -> World:
    world = small_world()
    world.machine.host_write(table(world), 8, DATA_GFN << 12 | 0x65)
    return world


@case("mmio-generation")
def _() -> World:
    world = small_world()
    world.kvm.memslots_generation -= 1
    return world


@case("mmio-is-no-memory")
def _() -> World:
    world = World("nopaging")
    world.ok("read 0xd0000000", "read 0x800000")
    assert not world.is_mapped(0x820000)
    store(world, world.sptep(0x820000), world.spte(0xD0000000) - 0xD0000000 + 0x820000)
    return world


@case("unsync-is-leaf-table")
def _() -> World:
    world = small_world()
    root(world).unsync = True
    world.kvm.stat.mmu_unsync += 1
    return world


def unsync_world() -> World:
    """The guest has written into its table at PT, with what was there."""
    world = small_world()
    world.ok(f"write {window(world):#x} {DATA_GFN << 12 | 0x67:#x}")
    assert shadow(world).unsync
    assert world.spte(window(world)) & W
    return world


@case("unsync-marked")
def _() -> World:
    world = unsync_world()
    above = next(sp for sp in world.pages(level=2) if sp.unsync_children)
    clear_unsync_child_bit(above, above.marked_children()[0])
    return world


@case("unsync-counted")
def _() -> World:
    world = small_world()
    root(world).unsync_children += 1
    return world


@case("unsync-statistic")
def _() -> World:
    world = small_world()
    world.kvm.stat.mmu_unsync += 1
    return world


@case("table-write-protected", "shadowed-table-write-protected")
def _() -> World:
    world = small_world()
    gva = window(world, 2)
    world.ok(f"read {gva:#x}")
    assert not world.spte(gva) & (W | SPTE_MMU_WRITABLE)
    store(world, world.sptep(gva), world.spte(gva) | W | SPTE_MMU_WRITABLE)
    return world


@case("shadowed-table-write-protected", "table-write-protected")
def _() -> World:
    world = unsync_world()
    shadow(world).unsync = False
    world.kvm.stat.mmu_unsync -= 1
    return world


@case("write-tracked", "tracking-counted")
def _() -> World:
    world = small_world()
    sp = shadow(world, 2)
    unaccount_shadowed(world.kvm, sp)
    world.kvm.indirect_shadow_pages += 1
    slot_of(world).count_disallow_lpage(sp.gfn, 1)
    return world


@case("huge-page-disallowed", "tracking-counted")
def _() -> World:
    world = small_world()
    slot_of(world).count_disallow_lpage(1, 1)
    return world


@case("tracking-counted")
def _() -> World:
    world = small_world("slot 1 0x80000000 4M")
    slot_of(world, 1).count_disallow_lpage(0x80000, 1)
    return world


@case("indirect-pages-counted")
def _() -> World:
    world = small_world()
    world.kvm.indirect_shadow_pages += 1
    return world


# -- links -----------------------------------------------------------------------------------------------


@case("parents-are-links")
def _() -> World:
    world = small_world()
    shadow(world).parent_ptes = 0
    return world


@case("link-leads-to-table")
def _() -> World:
    world = small_world()
    store(world, shadow(world, 2).hpa + 8 * 3, world.hpa(0x900000) | SPTE_MMU_PRESENT | P | W | U | A)
    return world


@case("child-role")
def _() -> World:
    world = small_world()
    shadow(world).role ^= 1 << ROLE_QUADRANT_SHIFT
    return world


@case("link-rights")
def _() -> World:
    world = small_world()
    sptep = shadow(world, 2).hpa + 8 * 2
    store(world, sptep, world.kvm.read_spte(sptep) & ~W)
    return world


@case("leaf-within-role")
def _() -> World:
    world = small_world()
    world.ok(f"write {LARGE:#x} 1")
    world.page(DATA_GFN, 1, direct=True).role ^= ACC_W << ROLE_ACCESS_SHIFT
    return world


@case("writable-chain")
def _() -> World:
    world = small_world()
    store(world, world.sptep(GVA), world.spte(GVA) & ~SPTE_MMU_WRITABLE)
    return world


@case("huge-not-executable")
def _() -> World:
    setup = ("param kvm nx_huge_pages=1", "slot 1 0x10000000 4M huge2m")
    world = small_world(*setup, f"map 0x1000 {HUGE:#x} 0x10000000 0xe7 level=2")
    world.ok(f"read {HUGE:#x}")
    assert world.kvm.stat.pages_2m == 1
    store(world, world.sptep(HUGE), world.spte(HUGE) & ~NX)
    return world


@case("leaf-bits")
def _() -> World:
    world = small_world()
    store(world, world.sptep(GVA + 0x1000), world.spte(GVA + 0x1000) & ~P)
    return world


@case("nested-role", "child-role")
def _() -> World:
    world = nested_world()
    world.ok(f"l2read {DATA:#x}")
    leaf = next(sp for sp in world.pages(level=1) if sp.role & ROLE_GUEST_MODE)
    leaf.role ^= ROLE_GUEST_MODE
    return world


# -- reverse maps ----------------------------------------------------------------------------------------


@case("rmap-lists-the-leaves")
def _() -> World:
    world = small_world()
    slot_of(world).set_rmap_head(DATA_GFN, 1, 0)
    return world


@case("rmap-encoding")
def _() -> World:
    world = small_world(f"map 0x1000 0x30000000 {DATA_GFN << 12:#x} 0x67")
    world.ok("read 0x30000000")
    desc = slot_of(world).rmap_head(DATA_GFN, 1) & ~1
    store(world, desc + 8, world.kvm.read_spte(desc + 8) | 1 << 32)
    return world


@case("parents-encoding")
def _() -> World:
    world = small_world()
    above, again = shadow(world, 2).gfn << 12, 9
    world.machine.host_write(above + 8 * again, 8, table(world) | 0x67)
    world.audit.unseen()
    world.ok(f"read {again << 21:#x}")
    desc = shadow(world).parent_ptes & ~1
    store(world, desc + 8, world.kvm.read_spte(desc + 8) | 1 << 32)
    return world


@case("page-statistics")
def _() -> World:
    world = small_world()
    world.kvm.stat.pages_2m += 1
    return world


@case("rmap-limit")
def _() -> World:
    world = small_world()
    world.kvm.stat.max_mmu_rmap_size = 1002
    return world


@case("leaf-maps-its-frame")
def _() -> World:
    world = small_world()
    store(world, world.sptep(GVA), world.spte(GVA) & ~ADDR | world.hpa(0x900000))
    return world


@case("read-only-slot")
def _() -> World:
    world = small_world("slot 1 0x80000000 4M ro", "map 0x1000 0x30000000 0x80000000 0x67")
    world.ok("read 0x30000000")
    store(world, world.sptep(0x30000000), world.spte(0x30000000) | SPTE_HOST_WRITABLE)
    return world


@case("logged-page-dirty")
def _() -> World:
    world = small_world("slot 1 0x80000000 4M", "map 0x1000 0x30000000 0x80000000 0x67")
    world.ok("dirtylog on 1", "read 0x30000000", "getdirty 1")
    assert not world.spte(0x30000000) & W
    store(world, world.sptep(0x30000000), world.spte(0x30000000) | W | SPTE_MMU_WRITABLE)
    return world


# -- roots -----------------------------------------------------------------------------------------------


@case("root-counted")
def _() -> World:
    world = small_world()
    root(world).root_count += 1
    return world


@case("root-lives")
def _() -> World:
    world = small_world()
    world.vcpu.guest_mmu.root_hpa = world.hpa(0x900000)
    return world


@case("root-not-obsolete")
def _() -> World:
    world = small_world()
    kvm_mmu_zap_all_fast(world.kvm)
    world.check()
    world.vcpu.requests &= ~REQ_MMU_FREE_OBSOLETE_ROOTS
    return world


@case("root-cached-once")
def _() -> World:
    world = small_world("alloc 0x20000", "tramp 0x1f000")
    world.ok("cr3 0x1f000", "nop")
    assert world.vcpu.root_mmu.prev_root(0)[0] == 0x1000
    world.vcpu.root_mmu.root_pgd = 0x1000
    return world


@case("mmu-of-guest")
def _() -> World:
    world = small_world()
    world.vcpu.guest_mode = True
    return world


@case("special-tables")
def _() -> World:
    world = nested_world(mode="32")
    world.ok(f"l2read {DATA:#x}")
    store(world, world.vcpu.guest_mmu.pml4_root + 8, P)
    return world


def one_off_world() -> World:
    world = World("pae", f"map 0x1000 {GVA:#x} 0x800000 0x67", design={"special_roots": "one_off"})
    world.ok(f"read {GVA:#x}")
    return world


@case("special-pages")
def _() -> World:
    world = one_off_world()
    next(sp for sp in world.kvm.owners if sp is not None and sp.special).root_count += 1
    return world


# -- structure -------------------------------------------------------------------------------------------


@case("page-hashed")
def _() -> World:
    world = small_world()
    world.kvm.page_hash[world.kvm.hash_bucket(shadow(world).gfn)] = None
    return world


@case("page-listed")
def _() -> World:
    world = small_world()
    world.kvm.active_mmu_pages.remove(shadow(world))
    return world


@case("page-unique")
def _() -> World:
    world = small_world()
    world.ok(f"read {LARGE:#x}", f"read {LARGE + 0x200000:#x}")
    one, two = (sp for sp in world.pages(DATA_GFN, 1) if sp.role & ROLE_DIRECT)
    one.role |= two.role
    two.role |= one.role
    return world


@case("zapped-page-empty", "parents-are-links")
def _() -> World:
    world = small_world()
    sp = root(world)
    kvm_mmu_zap_all_fast(world.kvm)
    assert sp.root_count
    sp.parent_ptes = world.hpa(0x900000)
    return world


@case("generation")
def _() -> World:
    world = small_world()
    shadow(world).mmu_valid_gen ^= 1
    return world


@case("nx-page")
def _() -> World:
    world = small_world()
    shadow(world).nx_huge_page_disallowed = True
    return world


@case("nx-list")
def _() -> World:
    world = small_world()
    world.kvm.stat.nx_lpage_splits += 1
    return world


@case("pages-counted")
def _() -> World:
    world = small_world()
    world.kvm.n_used_mmu_pages += 1
    return world


@case("active-order")
def _() -> World:
    world = small_world()
    sp = world.pages()[-1]
    world.kvm.active_mmu_pages.remove(sp)
    world.kvm.active_mmu_pages.add(sp)
    return world


@case("no-page-twice")
def _() -> World:
    world = small_world()
    world.kvm.active_mmu_pages.add(ShadowPage(0x900, 1 | ROLE_DIRECT, world.hpa(0x900000), 0))
    world.kvm.n_used_mmu_pages += 1
    return world


@case("active-list-intact", "indirect-pages-counted", "huge-page-disallowed", "tracking-counted")
def _() -> World:
    """A child that inherited `invalid` is zapped: the lists are broken although it is gone."""
    world = small_world()
    page = shadow(world)
    page.role |= ROLE_INVALID
    zapped: list[ShadowPage] = []
    kvm_mmu_prepare_zap_page(world.kvm, page, zapped)
    kvm_mmu_commit_zap_page(world.kvm, zapped)
    return world


@case("slots-settled")
def _() -> World:
    world = small_world("slot 1 0x80000000 4M")
    slot_of(world, 1).flags |= MEMSLOT_INVALID
    return world


# -- the TDP MMU -----------------------------------------------------------------------------------------


def tdp() -> World:
    world = tdp_world()
    world.ok(f"write {PHYSICAL + 0x800000:#x} 1")
    return world


def tdp_tables(world: World, level: int) -> list[ShadowPage]:
    return [sp for sp in world.kvm.owners if sp is not None and sp.role & ROLE_LEVEL == level]


def tdp_leaf(world: World) -> int:
    sp = next(sp for sp in tdp_tables(world, 1) if sp.gfn == 0x800)
    return sp.hpa


@case("tdp-nx-page")
def _() -> World:
    world = tdp()
    tdp_tables(world, 1)[0].tracked_nx_huge_page = True
    return world


@case("tdp-linked-once")
def _() -> World:
    world = tdp()
    tdp_tables(world, 1)[0].ptep += 8
    return world


@case("tdp-child")
def _() -> World:
    world = tdp()
    tdp_tables(world, 1)[0].role ^= ACC_W << ROLE_ACCESS_SHIFT
    return world


@case("tdp-page")
def _() -> World:
    world = tdp()
    tdp_tables(world, 1)[0].on_list = True
    return world


@case("tdp-leaf")
def _() -> World:
    world = tdp()
    store(world, tdp_leaf(world), world.kvm.read_spte(tdp_leaf(world)) & ~U)
    return world


@case("tdp-not-frozen")
def _() -> World:
    world = tdp()
    store(world, tdp_leaf(world) + 8, world.kvm.frozen_spte)
    return world


@case("tdp-counted")
def _() -> World:
    world = tdp()
    world.kvm.tdp_mmu_pages += 1
    return world


@case("tdp-roots")
def _() -> World:
    world = tdp()
    world.kvm.tdp_mmu_roots[0].root_count += 1
    return world


# -- TLB, and all else -----------------------------------------------------------------------------------


@case("tlb-as-tables")
def _() -> World:
    world = small_world(tlb=True)
    store(world, world.sptep(GVA), world.spte(GVA) & ~W)
    return world


@pytest.mark.parametrize("processor", [TDP, ("vendor intel", "param kvm_intel ept=1")])
@pytest.mark.parametrize("lost", ["write", "execute", "all"])
def test_a_nested_translation_has_no_more_rights_than_its_tables(
    processor: tuple[str, ...], lost: str
) -> None:
    mapping = f"map 0x1000 {PHYSICAL:#x} 0x0 0x67 level=3 n=4"
    world = World("long4", *processor, mapping, "code 0x800000", tlb=True)
    world.ok(f"write {PHYSICAL + 0x800008:#x} 1", f"exec {PHYSICAL + 0x800000:#x}")
    masks = {
        "write": W,
        "execute": world.kvm.shadow_x_mask,
        "all": SPTE_MMU_PRESENT,
    }
    spte = world.kvm.read_spte(tdp_leaf(world)) & ~masks[lost]
    if lost == "execute":
        spte |= world.kvm.shadow_nx_mask
    store(world, tdp_leaf(world), world.kvm.design.empty_spte if lost == "all" else spte)
    found = {violation.predicate for violation in world.audit.look()}
    assert "tlb-as-tables" in found
    assert found <= {"tlb-as-tables", "page-statistics"}


def test_pages_that_share_the_hosts_huge_page_of_zeros_are_not_mixed_up() -> None:
    mapping = ("map 0x1000 0x400000 0x10200000 0xe7 level=2", "map 0x1000 0x600000 0x28000000 0xe7 level=2")
    slots = ("slot 1 0x10000000 4M lazy thp", "slot 4 0x28000000 4M lazy thp")
    world = World("long4", *TDP, *slots, *mapping, tlb=True)
    world.ok("slot 5 0xd0000000 64K", "read 0x400000", "delslot 5", "read 0x600000")
    assert not world.audit.look()


def test_a_translation_is_one_of_a_root_of_its_pcid() -> None:
    lines = (f"map 0x700000 {GVA:#x} 0x801000 0x67", "tramp 0x700000")
    world = World.of(
        "\n".join(["vendor intel", "mode long4", "slot 0 0x0 16M", "alloc 0x2000", "tramp 0x1000",
                   f"map 0x1000 {GVA:#x} 0x800000 0x67", *lines, "start cr3=0x1000"]) + "\n",
        tlb=True,
    )  # fmt: skip
    cpu = world.vcpu.cpu
    world.ok("cr4 0x20020")
    for cr3, pcid in ((0x1000, 0), (0x700001, 1), (0x1000, 0), (0x700001, 1)):
        world.ok(f"cr3 {1 << 63 | cr3:#x}", f"write {GVA:#x} 1")
        assert cpu.pcid == pcid
        assert not world.audit.look()
    owners = {pcid: entry & ADDR for gva, pcid, _, entry in cpu.tlb.translations() if gva == GVA}
    assert owners.keys() == {0, 1}
    cpu.tlb.insert(GVA, 0, owners[1] | P | W | U, 1)
    assert {violation.predicate for violation in world.audit.look()} == {"tlb-as-tables"}


@case("no-bug")
def _() -> World:
    world = small_world()
    slot_of(world).set_rmap_head(DATA_GFN, 1, 1 << 56 | 1)
    return world


# -- the tests -------------------------------------------------------------------------------------------


def test_every_predicate_has_a_case() -> None:
    assert set(CASES) == set(PREDICATES)


@pytest.mark.parametrize("name", CASES)
def test_a_sweep_finds_it(name: str) -> None:
    broken, expected = CASES[name]
    found = broken().audit.sweep()
    assert {violation.predicate for violation in found} == expected, [v.text() for v in found]


@pytest.mark.parametrize("name", CASES)
def test_a_look_at_what_changed_finds_it(name: str) -> None:
    """And what it finds is what the sweep does."""
    broken, expected = CASES[name]
    world = broken()
    world.audit.sweep_every = 1 << 60
    found = {violation.predicate for violation in world.audit.look()}
    assert found <= expected
    assert (name in found) == (name not in ONLY_IN_SWEEPS)


@pytest.mark.parametrize("name", [name for name in CASES if name != "no-bug"])
def test_it_is_told_once(name: str) -> None:
    world = CASES[name][0]()
    assert world.audit.sweep()
    assert not world.audit.sweep()


@pytest.mark.parametrize("name", PREDICATES)
def test_it_says_what_it_is(name: str) -> None:
    predicate = PREDICATES[name]
    assert predicate.means and "\n" not in predicate.means
    assert predicate.symbols
