"""Walks in two dimensions: rule by rule, and against a reference on random tables (AMD APM vol. 2, 15.25)."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from x86.nested_tables import BEYOND, FRAMES, PAGE_OBJECT, RESERVED, Reference, World, host, outcome

from shadowmmu.x86.bits import (
    ADDR,
    FAULT,
    FETCH,
    NESTED_FAULT,
    NX,
    PF_VECTOR,
    PFERR_F,
    PFERR_GUEST_FINAL,
    PFERR_GUEST_PAGE,
    PFERR_P,
    PFERR_RSVD,
    PFERR_U,
    PFERR_W,
    READ,
    WRITE,
    A,
    D,
    G,
    P,
    U,
    W,
)


def leaves(levels: int) -> list[int]:
    """The page levels of a mode."""
    return {0: [1], 2: [1, 2], 3: [1, 2], 4: [1, 2, 3], 5: [1, 2, 3]}[levels]


SHAPES = [
    (levels, nested, leaf) for levels in (0, 2, 3, 4, 5) for nested in (4, 5) for leaf in leaves(levels)
]


@pytest.mark.parametrize(("levels", "nested_levels", "leaf"), SHAPES)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_combination_of_page_sizes(levels: int, nested_levels: int, leaf: int, size: int) -> None:
    """The page in nested pages of each size, the tables in all sizes in turn; from cold and warm."""
    for tables in (1, 2, 3):
        sizes = {i: (i + tables) % 3 + 1 for i in range(6)} | {PAGE_OBJECT: size}
        world = World(levels, nested_levels, leaf, sizes)
        for tlb in (False, True):
            cpu = world.processor(tlb=tlb)
            for kind in (READ, WRITE, FETCH, READ):
                assert outcome(cpu, world.gva, kind) == ("ok", host(PAGE_OBJECT) | 0x123)
            if tlb and levels != 0:
                ((_, _, level, _),) = set(cpu.tlb.translations())
                assert level == min(leaf, size)


@pytest.mark.parametrize(("levels", "nested_levels", "leaf"), SHAPES)
def test_loads(levels: int, nested_levels: int, leaf: int) -> None:
    """Each guest entry costs a nested walk, and so does the page: 24 loads for 4 levels on 4."""
    world = World(levels, nested_levels, leaf)
    cpu = world.processor(tlb=False)
    cpu.access(world.gva, READ)
    entries = levels - leaf + 1 if levels else 0
    assert cpu.walker.loads == entries
    assert cpu.nested.loads == (entries + 1) * nested_levels


FLIPS = st.sampled_from([P, W, U, A, D, NX, RESERVED, BEYOND, A | D, W | D, U | A])
ACCESSES = st.tuples(st.sampled_from([READ, WRITE, FETCH]), st.booleans(), st.booleans())


@given(
    shape=st.sampled_from(SHAPES),
    sizes=st.lists(st.integers(1, 3), min_size=7, max_size=7),
    flips=st.lists(st.tuples(st.integers(0, 99), FLIPS), max_size=4),
    accesses=st.lists(ACCESSES, min_size=1, max_size=5),
    wp=st.booleans(),
    smap=st.booleans(),
)
def test_the_reference(shape, sizes, flips, accesses, wp, smap):
    """Same outcomes and the same tables afterwards, by walks alone and with TLB and caches.

    So what is cached never allows or refuses other than the tables do.
    """

    def build() -> World:
        world = World(*shape, dict(enumerate(sizes)), smap, wp)
        names = sorted(world.entries)
        for number, bits in flips:
            name = names[number % len(names)]
            if bits == BEYOND and name[0] == "guest" and shape[0] == 3 and name[1] == 3:
                continue
            world.change(name, bits)
        return world

    expected, walking, caching = build(), build(), build()
    reference = Reference(expected)
    cpus = [walking.processor(tlb=False), caching.processor(tlb=True)]
    for kind, user, ac in accesses:
        for offset in (0, 8):
            gva = expected.gva + offset
            wanted = reference.access(gva, kind, user=user, ac=ac)
            for cpu in cpus:
                cpu.user, cpu.eflags_ac = user, ac
                assert outcome(cpu, gva, kind) == wanted
    for world in (walking, caching):
        for name in expected.entries:
            assert world.entry(name) == expected.entry(name), name


# -- rule by rule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_a_table_walk_is_a_user_write(levels: int) -> None:
    """Also for a supervisor's read: bit 33, W and U in the code, A and D in the nested leaf."""
    for i in range(1, levels + 1):
        world = World(levels, 4)
        world.change(("nested", i, 1), A | D)
        assert outcome(world.processor(tlb=False), world.gva, READ)[0] == "ok"
        assert world.entry(("nested", i, 1)) & (A | D) == A | D
        for bits, code in ((W, PFERR_P), (U, PFERR_P), (P, 0), (RESERVED, PFERR_P | PFERR_RSVD)):
            world.change(("nested", i, 1), bits)
            at = world.gpa(i) + world.form.index(world.gva, i) * world.form.entry_bytes
            assert outcome(world.processor(tlb=True), world.gva, READ) == (
                "nested",
                at,
                PFERR_GUEST_PAGE | PFERR_U | PFERR_W | code,
            )
            world.change(("nested", i, 1), bits)


def test_nx_does_not_matter_for_tables() -> None:
    world = World(4, 4)
    for i in range(1, 5):
        world.change(("nested", i, 1), NX)
    assert outcome(world.processor(tlb=False), world.gva, FETCH)[0] == "ok"


@pytest.mark.parametrize(
    ("kind", "code"), [(READ, PFERR_U), (WRITE, PFERR_U | PFERR_W), (FETCH, PFERR_U | PFERR_F)]
)
@pytest.mark.parametrize("tlb", [False, True])
def test_the_page_is_reached_by_the_access_s_kind_as_a_user(kind: int, code: int, tlb: bool) -> None:
    world = World(4, 4)
    page = ("nested", PAGE_OBJECT, 1)
    world.change(page, P)
    where = world.gpa(PAGE_OBJECT) | 0x123
    assert outcome(world.processor(tlb=tlb), world.gva, kind) == ("nested", where, PFERR_GUEST_FINAL | code)
    world.change(page, P | {READ: U, WRITE: W, FETCH: NX}[kind])
    wanted = ("nested", where, PFERR_GUEST_FINAL | PFERR_P | code)
    assert outcome(world.processor(tlb=tlb), world.gva, kind) == wanted


def test_the_guest_s_fault_comes_before_the_page_s_nested_one() -> None:
    world = World(4, 4)
    world.change(("nested", PAGE_OBJECT, 1), P)
    world.change(("guest", 1, 1), W)
    assert outcome(world.processor(tlb=False), world.gva, WRITE) == ("fault", PF_VECTOR, PFERR_P | PFERR_W)


def test_d_comes_with_the_write_in_both_dimensions() -> None:
    world = World(4, 4)
    page, leaf = ("nested", PAGE_OBJECT, 1), ("guest", 1, 1)
    for name in (page, leaf):
        world.change(name, A | D)
    cpu = world.processor(tlb=True)
    cpu.access(world.gva, READ)
    assert [world.entry(name) & (A | D) for name in (page, leaf)] == [A, A]
    cpu.access(world.gva, WRITE)
    assert [world.entry(name) & (A | D) for name in (page, leaf)] == [A | D, A | D]


def test_a_read_of_a_dirty_guest_page_does_not_let_writes_pass_a_clean_nested_one() -> None:
    world = World(4, 4)
    world.change(("nested", PAGE_OBJECT, 1), D)
    cpu = world.processor(tlb=True)
    cpu.access(world.gva, READ)
    cpu.access(world.gva, WRITE)
    assert world.entry(("nested", PAGE_OBJECT, 1)) & D


@pytest.mark.parametrize(("kind", "bit"), [(WRITE, W), (FETCH, NX)])
@pytest.mark.parametrize("dimension", ["guest", "nested"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_a_read_cached_has_the_rights_of_both(kind: int, bit: int, dimension: str, size: int) -> None:
    world = World(4, 4, sizes={PAGE_OBJECT: size})
    world.change((dimension, 1, 1) if dimension == "guest" else (dimension, PAGE_OBJECT, size), bit)
    cpu = world.processor(tlb=True)
    assert outcome(cpu, world.gva, READ)[0] == "ok"
    assert outcome(cpu, world.gva, kind)[0] == {"guest": "fault", "nested": "nested"}[dimension]


@pytest.mark.parametrize(("kind", "bit", "code"), [(WRITE, W, PFERR_W), (FETCH, NX, PFERR_F)])
@pytest.mark.parametrize("levels", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_the_guest_waives_the_nested_tables_do_not(
    levels: int, kind: int, bit: int, code: int, size: int
) -> None:
    """CR0.WP, EFER.NX or paging is off: what a read cached does not serve what is forbidden below."""
    world = World(levels, 4, sizes={PAGE_OBJECT: size}, wp=False, nx=False)
    world.change(("nested", PAGE_OBJECT, size), bit)
    cpu = world.processor(tlb=True)
    assert outcome(cpu, world.gva, READ)[0] == "ok"
    wanted = ("nested", world.gpa(PAGE_OBJECT) | 0x123, PFERR_GUEST_FINAL | PFERR_U | PFERR_P | code)
    assert outcome(cpu, world.gva, kind) == wanted
    world.change(("nested", PAGE_OBJECT, size), bit)
    assert outcome(cpu, world.gva, kind)[0] == "ok"
    if levels and kind == WRITE:
        world.change(("guest", 1, 1), W)
        cpu.flush_all()
        assert [outcome(cpu, world.gva, kind)[0] for kind in (READ, WRITE, WRITE)] == ["ok"] * 3


@pytest.mark.parametrize("levels", [0, 4])
def test_a_nested_fault_is_forgotten(levels: int) -> None:
    world = World(levels, 4)
    cpu = world.processor(tlb=False)
    world.change(("nested", PAGE_OBJECT, 1), P)
    assert outcome(cpu, world.gva, READ)[0] == "nested"
    world.change(("nested", PAGE_OBJECT, 1), P)
    assert outcome(cpu, world.gva, READ)[0] == "ok"
    assert cpu.fault_gpa == FAULT
    if levels:
        world.change(("nested", PAGE_OBJECT, 1), P)
        assert outcome(cpu, world.gva, READ)[0] == "nested"
        assert outcome(cpu, world.gva + 0x1000, READ) == ("fault", PF_VECTOR, 0)


# -- what is cached --------------------------------------------------------------------------------------


def test_a_change_is_stale_until_its_flush() -> None:
    """INVLPG drops the translation; the nested tables' upper levels stay cached until all is flushed."""
    for name, cures in (
        (("guest", 1, 1), ("flush_gva", "flush_current", "flush_all")),
        (("guest", 4, 4), ("flush_gva", "flush_current", "flush_all")),
        (("nested", PAGE_OBJECT, 1), ("flush_gva", "flush_current", "flush_all")),
        (("nested", PAGE_OBJECT, 2), ("flush_all",)),
    ):
        for flush in ("flush_gva", "flush_current", "flush_all"):
            world = World(4, 4)
            cpu = world.processor(tlb=True)
            cpu.access(world.gva, READ)
            world.change(name, P)
            assert outcome(cpu, world.gva, READ)[0] == "ok"
            getattr(cpu, flush)(*([world.gva] if flush == "flush_gva" else []))
            assert (outcome(cpu, world.gva, READ)[0] == "ok") == (flush not in cures), (name, flush)


def test_a_global_page_outlives_mov_to_cr3() -> None:
    world = World(4, 4)
    world.change(("guest", 1, 1), G)
    cpu = world.processor(tlb=True)
    cpu.access(world.gva, READ)
    world.change(("nested", PAGE_OBJECT, 1), P)
    cpu.flush_current()
    assert outcome(cpu, world.gva, READ)[0] == "ok"
    cpu.flush_gva(world.gva)
    assert outcome(cpu, world.gva, READ)[0] == "nested"


def test_switching_nested_paging_off() -> None:
    world = World(0, 4)
    cpu = world.processor(tlb=False)
    assert outcome(cpu, world.gva, READ) == ("ok", host(PAGE_OBJECT) | 0x123)
    cpu.set_nested(levels=0)
    assert outcome(cpu, world.gva, READ) == ("machine check",)
    assert outcome(cpu, 0x5123, READ) == ("ok", 0x5123)


def test_a_run_of_accesses_stops_at_a_nested_fault() -> None:
    from array import array

    world = World(4, 4)
    cpu = world.processor(tlb=True)
    gvas = memoryview(array("Q", [world.gva, world.gva + 8, world.gva + 0x1000]))
    assert cpu.run(gvas, memoryview(array("B", [0, 1, 0])), 0) == 2
    assert cpu.fault_vector == PF_VECTOR
    world.change(("nested", PAGE_OBJECT, 1), P)
    cpu.flush_all()
    assert cpu.run(gvas, memoryview(array("B", [0, 1, 0])), 0) == 0
    assert (cpu.fault_vector, cpu.fault_gva) == (NESTED_FAULT, world.gva)


# -- hostile tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested_levels", [4, 5])
@pytest.mark.parametrize("tlb", [False, True])
def test_nested_tables_outside_memory_are_a_machine_check(nested_levels: int, tlb: bool) -> None:
    world = World(4, nested_levels)
    cpu = world.processor(tlb=tlb)
    cpu.nested_root = FRAMES << 12
    assert outcome(cpu, world.gva, READ) == ("machine check",)
    for i in world.objects():
        for level in range(1, nested_levels + 1):
            world = World(4, nested_levels)
            world.change(("nested", i, level), BEYOND)
            for kind in (READ, WRITE, FETCH):
                assert outcome(world.processor(tlb=tlb), world.gva, kind) == ("machine check",)


@given(
    levels=st.sampled_from([2, 3, 4, 5]),
    words=st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6),
    root=st.integers(0, (1 << 40) - 1),
    gva=st.integers(0, (1 << 47) - 1),
    tlb=st.booleans(),
)
def test_whatever_the_guest_writes_it_stays_in_its_memory(levels, words, root, gva, tlb):
    """Tables full of anything: a page, a fault of its own, or a nested fault where nothing is mapped."""
    world = World(levels, 4)
    cpu = world.processor(tlb=tlb)
    frames = [host(i) for i in world.objects()]
    for i in range(1, levels + 1):
        for n in range(512):
            value = words[n % 6]
            if n % 3:
                value = value & ~ADDR & ~RESERVED | world.gpa(words[n % 5] % levels + 1) | P
            world.memory.words[(host(i) >> 3) + n] = value
    gva &= 0xFFFFFFFF if levels < 4 else -1
    for start in (root & ~0xFFF, world.gpa(levels)):
        cpu.root = start
        cpu.flush_all()
        for kind in (READ, WRITE, FETCH):
            result = outcome(cpu, gva, kind)
            assert result[0] in ("ok", "fault", "nested")
            if result[0] == "ok":
                assert result[1] & ~0xFFF in frames
            if result[0] == "nested":
                assert result[1] & ~0xFFF not in [world.gpa(i) for i in world.objects()]
