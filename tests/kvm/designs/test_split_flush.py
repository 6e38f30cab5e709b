"""Mail 001: the flush when an eager split replaces a huge SPTE, and which huge SPTEs are split."""

import pytest
from kvm.designs.guests import OPS, by_default, huge_guest, play
from kvm.random_scenarios import MODES
from kvm.tlb_audit import play_with_tlb
from kvm.world import World, names

from shadowmmu.kvm.bits import ROLE_DIRECT, ROLE_LEVEL, SPTE_MMU_WRITABLE
from shadowmmu.kvm.memory.split_huge_page import SplitShadowHugePages, kvm_mmu_try_split_huge_pages
from shadowmmu.kvm.pages.zap import kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.kvm.tracepoints.mmu import SplitHugePage
from shadowmmu.x86.bits import W

RULES = ("stable", "always", "if_not_identical", "never")
GFN = 0x40000
"""Where slot 1 is, a single 1 GiB page of the host; mapped twice, with `first` to be split."""

NESTED = """\
param kvm_amd npt=1
param kvm tdp_mmu=1
mode long4
nested
slot 0 0x0 16M
slot 1 0x40000000 1G huge1g
cap 168 3
alloc 0x2000
tramp 0x1000
alloc 0x20000
ntramp 0x1f000
npt map 0x1f000 0x40000000 0x40000000 0x67 level=3
npt map 0x1f000 0x80000000 0x40000000 0x67 level=3
start cr3=0x1000 ncr3=0x1f000
"""
SHADOW = """\
mode long4
vcpus 2
slot 0 0x0 16M
slot 1 0x40000000 1G huge1g
cap 168 3
alloc 0x2000
tramp 0x1000
map 0x1000 0x40000000 0x40000000 0xe7 level=3
map 0x1000 0x80000000 0x40000000 0xe7 level=3
map 0x1000 0xc0000000 0x3000 0x67
poke 0x40008000 0x800067
poke 0x800000 0x1111
poke 0x801000 0x2222
code 0x40009000
start cr3=0x1000
"""
GUESTS = {"nested": (NESTED, "l2"), "shadow": (SHADOW, "")}
BOTH = pytest.mark.parametrize("guest", GUESTS)


def logging_world(guest: str, rule: str, *, alias: bool, tlb: bool = False) -> World:
    """The 1 GiB page is mapped huge and its slot logs, with nothing protected.

    `alias`: since then it is mapped a second time, so that there are a table for it and one for its first
    2 MiB, with few SPTEs.
    """
    text, who = GUESTS[guest]
    world = World.of(text, tlb=tlb, design={"split_flush": rule, "eager_split": "all"})
    world.ok("nop", f"{who}write 0x40000000 1", "dirtylog on 1")
    assert world.kvm.stat.pages_1g == 1
    if alias:
        world.ok(f"{who}write 0x80001000 2")
        assert len(world.pages(GFN, 2)) == 1
    return world


def split(world: World, target_level: int, pages: int = 512) -> int:
    """Split what maps the slot's first pages; how many flushes were asked for on the way."""
    slot = world.kvm.memslot_of(GFN)
    before = world.kvm.stat.remote_tlb_flush_requests
    kvm_mmu_try_split_huge_pages(world.kvm, slot, GFN, GFN + pages, target_level, 0)
    return world.kvm.stat.remote_tlb_flush_requests - before


@BOTH
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("alias", [False, True])
def test_flushes(guest: str, rule: str, alias: bool) -> None:
    """A new table maps what the huge SPTE did. One that leads on to another may not."""
    world = logging_world(guest, rule, alias=alias)
    assert split(world, 2) == {"stable": 1, "always": 1, "if_not_identical": alias, "never": 0}[rule]
    assert split(world, 1, 1024) == {"stable": 1, "always": 1}.get(rule, 0) * (1 if alias else 2)
    assert world.kvm.stat.pages_1g == 0
    world.ok(f"{GUESTS[guest][1]}nop")


@BOTH
def test_all_rules_leave_the_same_tables(guest: str) -> None:
    left = []
    for rule in RULES:
        world = logging_world(guest, rule, alias=True)
        split(world, 1)
        left.append({sp.hpa: (sp.gfn, sp.role, world.kvm.read_table(sp.hpa)) for sp in world.pages()})
    assert left[0] == left[1] == left[2] == left[3]


def edits_seen(world: World) -> bool:
    """Whether KVM sees what vCPU 1 writes to a table that vCPU 0 has just made, in page 8 of the slot."""
    world.quick("write 0xc0000400 0x40008067")
    assert world.quick("read 0xd0000000").result["value"] == "0x1111"
    world.quick("@1 write 0x40008000 0x801067")
    value = world.quick("invlpg 0xd0000000") and world.quick("read 0xd0000000").result["value"]
    assert value in ("0x1111", "0x2222")
    return bool(value == "0x2222")


@pytest.mark.parametrize("rule", RULES)
def test_a_table_that_maps_less(rule: str) -> None:
    """Before the caller's flush, with the lock dropped: page 8 is mapped no more, but for vCPU 1's TLB.

    The page becomes a table. To protect it there is no SPTE to find, hence no flush, and vCPU 1 writes on.
    """
    world = logging_world("shadow", rule, alias=True, tlb=True)
    world.ok("@1 write 0x40008000 0x800067")
    split(world, 1)
    assert not world.is_mapped(0x40008000)
    assert edits_seen(world) == (rule != "never")


@pytest.mark.parametrize(("rule", "seen"), [("stable", True), ("if_not_identical", False)])
def test_a_table_that_allows_less(rule: str, seen: bool) -> None:
    """What the mail's rule overlooks: an SPTE that stays from before may be protected for good.

    Then whoever protects the page once more finds nothing to do. As above the guest runs before the caller's
    flush, which in KVM is possible only while the lock is dropped between two splits.
    """
    text = SHADOW.replace("1G huge1g", "4M huge2m").replace("level=3", "level=2")
    text = text.replace("0xc0000000 0x3000", "0xc0000000 0x5000")
    world = World.of(text, tlb=True, design={"split_flush": rule, "eager_split": "all"})
    world.ok("modparam kvm nx_huge_pages Y", "write 0x80008000 0x800067")
    world.ok("exec 0x80009000")
    assert world.level(0x80008000) == 1, "the alias has a table, for NX"
    world.ok("write 0xc0000400 0x40008067", "read 0xd0000000", "write 0xc0000400 0x0")
    zapped: list[ShadowPage] = []
    kvm_mmu_prepare_zap_page(world.kvm, world.page(GFN + 8, 1), zapped)
    kvm_mmu_commit_zap_page(world.kvm, zapped)
    world.ok("@1 write 0x40008000 0x800067")
    assert world.level(0x40008000) == 2
    split(world, 1)
    assert world.spte(0x40008000) & (W | SPTE_MMU_WRITABLE) == 0
    assert edits_seen(world) == seen


@pytest.mark.parametrize("rule", RULES)
def test_between_two_splits_the_lock_is_free(rule: str) -> None:
    """The walk can be left after a huge SPTE, when the caches must be filled; then vCPUs may run."""
    text = NESTED.replace("1G huge1g", "4M huge2m").replace("level=3", "level=2 n=2")
    world = World.of(text, design={"split_flush": rule})
    world.ok("nop", "l2write 0x40000000 1", "l2write 0x40200000 1")
    slot = world.kvm.memslot_of(GFN)
    walk = SplitShadowHugePages(world.kvm, slot, GFN, GFN + 1024, 1)
    assert walk.step(), "the caches were empty"
    del world.kvm.split_caches.shadow_pages.objects[1:]
    before = world.kvm.stat.remote_tlb_flush_requests
    assert walk.step()
    assert world.kvm.stat.remote_tlb_flush_requests == before + (rule in ("stable", "always"))
    assert not walk.step()


# -- which huge SPTEs ------------------------------------------------------------------------------------

HUGE = {
    "long4": ("map 0x1000 0x400000 0x10000000 0xe7 level=2 n=2", 0x400000, 0x200000),
    "pae": ("map 0x1000 0x400000 0x10000000 0xe7 level=2 n=2", 0x400000, 0x200000),
    "32": ("map 0x1000 0x400000 0x10000000 0xe7 level=2", 0x400000, 0x200000),
    "nopaging": ("vcpus 1", 0x10000000, 0x200000),
}


def huge_world(mode: str, eager_split: str, flags: str = "0xe7") -> World:
    """Slot 1 is mapped by two huge SPTEs and written."""
    line, gva, step = HUGE[mode]
    world = World(
        mode,
        "slot 1 0x10000000 4M huge2m",
        line.replace("0xe7", flags),
        start="start" if mode == "nopaging" else "start cr3=0x1000",
        design={"eager_split": eager_split},
    )
    access = "write" if int(flags, 16) & 2 else "read"
    world.ok(*(f"{access} {gva + n * step:#x}{' 1' if access == 'write' else ''}" for n in range(2)))
    assert world.level(gva) == world.level(gva + step) == 2
    return world


@pytest.mark.parametrize("mode", HUGE)
def test_other_guests_are_not_split_by_default(mode: str) -> None:
    world = huge_world(mode, "nested")
    events = world.ok("dirtylog on 1")
    assert world.level(HUGE[mode][1]) == 2
    assert not any(isinstance(event, SplitHugePage) for event in events)


@pytest.mark.parametrize("mode", HUGE)
@pytest.mark.parametrize("eager", ["Y", "N"])
def test_all_guests_are_split_if_that_is_wanted(mode: str, eager: str) -> None:
    """A split page is what a fault would make: a direct page that the next write finds linked."""
    _, gva, step = HUGE[mode]
    world = huge_world(mode, "all")
    huge = world.spte(gva + step)
    world.ok(f"modparam kvm eager_page_split {eager}")
    events = world.ok("dirtylog on 1")
    errors = [event.errno for event in events if isinstance(event, SplitHugePage)]
    assert errors == ([-11, 0, 0] if eager == "Y" else [])
    if eager == "N":
        return
    assert world.level(gva + step + 0x5000) == 1
    spte = world.spte(gva + step + 0x5000)
    assert spte == huge - 0x80 + 0x5000 & ~2, "of W alone it lost what logging takes"
    child = world.kvm.sptep_to_sp(world.sptep(gva + step))
    assert child.role & (ROLE_DIRECT | ROLE_LEVEL) == ROLE_DIRECT | 1
    events = world.ok(f"write {gva + step + 0x5000:#x} 7")
    assert "kvm_mmu_get_page" not in names(events)
    assert world.kvm.sptep_to_sp(world.sptep(gva + step)) is child
    assert world.do("getdirty 1").result["dirty"] == ["0x10205000"]
    assert not [name for name in names(world.ok(f"read {gva + 0x7000:#x}")) if name == "kvm_mmu_set_spte"]


@pytest.mark.parametrize("flags", ["0xe5", "0xe3", "0xa7"])
def test_rights_of_the_huge_page(flags: str) -> None:
    """Read-only, supervisor's, clean: the table's role has what the guest's entry granted."""
    world = huge_world("long4", "all", flags)
    world.ok("dirtylog on 1")
    child = world.kvm.sptep_to_sp(world.sptep(0x400000))
    world.ok("read 0x401000", *(["write 0x401000 2"] if flags != "0xe5" else []))
    if flags != "0xa7":
        assert world.kvm.sptep_to_sp(world.sptep(0x400000)) is child


def test_a_large_page_of_two_level_paging() -> None:
    """A 4 MiB page has two SPTEs; the tables that replace them are told apart by their gfns and quadrants."""
    world = huge_world("32", "all")
    world.ok("dirtylog on 1")
    children = [world.kvm.sptep_to_sp(world.sptep(gva)) for gva in (0x400000, 0x600000)]
    assert [child.gfn for child in children] == [0x10000, 0x10200]
    assert [child.role >> 5 & 3 for child in children] == [0, 1]


# -- guests do not notice --------------------------------------------------------------------------------

DESIGNS = [{"eager_split": "all", "split_flush": rule} for rule in RULES]


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design["split_flush"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("initially_set", [False, True])
def test_guests_do_not_notice(mode: str, design: dict[str, str], initially_set: bool) -> None:
    text = huge_guest(mode, 73, OPS, initially_set=initially_set)
    assert play(text, design, checked=True) == by_default(text)


@pytest.mark.parametrize("design", DESIGNS[:3], ids=lambda design: design["split_flush"])
@pytest.mark.parametrize("mode", MODES)
def test_guests_with_a_tlb(mode: str, design: dict[str, str]) -> None:
    play_with_tlb(huge_guest(mode, 74, OPS), design=design)
