"""Walks in two dimensions: rule by rule, and against a reference on random tables (AMD APM vol. 2, 15.25).

Object i of the guest's memory, a table of level i or the page (6), is in gigabyte i, at the same offset in
host memory whatever the size of the nested page: HOST(i). So every combination of page sizes gives the same
physical address.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, strategies as st

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
    PS,
    READ,
    WRITE,
    A,
    D,
    G,
    P,
    U,
    W,
)
from shadowmmu.x86.paging import PagingFormat, paging_format
from shadowmmu.x86.processor import Processor
from shadowmmu.x86.walker import MachineCheck

from .conftest import Memory

FRAMES, MAXPHYADDR = 0x1000, 40
PAGE_OBJECT = 6
RESERVED, BEYOND = 1 << 45, 1 << 38
FULL = P | W | U | A | D


def host(i: int) -> int:
    """Where object i is in host memory."""
    return i * 0x201000


@dataclass
class World:
    """Guest tables of `levels` levels for one address, on nested tables of `nested_levels`.

    `leaf` is the guest's page level; `sizes[i]` the nested page level for object i.
    """

    levels: int
    nested_levels: int
    leaf: int = 1
    sizes: dict[int, int] = field(default_factory=dict)
    smap: bool = False
    wp: bool = True
    nx: bool = True

    def __post_init__(self) -> None:
        self.memory = Memory(FRAMES)
        self.form = paging_format(self.levels)
        self.nested_form = paging_format(self.nested_levels)
        self.nested_root = self.memory.frame()
        self.entries: dict[tuple[str, int, int], tuple[PagingFormat, int]] = {}
        self.gva = 0
        for level in range(1, self.levels + 1):
            self.gva |= (0 if level == 3 else 5) << self.form.level_shift(level)
        self.gva = self.gva >> 30 << 30 | host(PAGE_OBJECT) | 0x123
        for i in self.objects():
            self._map_object(i, self.sizes.get(i, 1))
        if self.levels == 0:
            self.gva = self.gpa(PAGE_OBJECT) | 0x123
        self._fill_guest_tables()

    def objects(self) -> list[int]:
        return [*range(max(self.leaf, 1), self.levels + 1), PAGE_OBJECT]

    def gpa(self, i: int) -> int:
        """Where object i is in the guest's memory; above 4 GiB only if the entry can say so."""
        gigabyte = 3 if i == PAGE_OBJECT and (self.levels == 0 or self.levels == 2 and self.leaf == 1) else i
        return gigabyte << 30 | host(i)

    def _map_object(self, i: int, level: int) -> None:
        size = 1 << 12 + 9 * (level - 1)
        gpa = self.gpa(i)
        leaf = (host(i) & -size) | FULL | (PS if level > 1 else 0)
        hpa = self.memory.map(self.nested_form, self.nested_root, gpa, leaf, level)
        self.entries["nested", i, level] = self.nested_form, hpa
        for upper in range(level + 1, self.nested_levels + 1):
            at = self.memory.entry_at(self.nested_form, self.nested_root, gpa, upper)
            self.entries["nested", i, upper] = self.nested_form, at
            self.memory.set(self.nested_form, at, self.memory.get(self.nested_form, at) | A)

    def _fill_guest_tables(self) -> None:
        form = self.form
        for level in range(self.levels, self.leaf - 1, -1):
            at = host(level) + form.index(self.gva, level) * form.entry_bytes
            if level > self.leaf:
                entry = self.gpa(level - 1) | (P if form.levels == level == 3 else FULL)
            else:
                page = self.gpa(PAGE_OBJECT) >> form.level_shift(level) << form.level_shift(level)
                entry = page & 0xFFFFFFFF if form.levels == 2 else page
                entry |= FULL | (PS if level > 1 else 0)
                entry |= page >> 32 << 13 if form.levels == level == 2 else 0
            self.memory.set(form, at, entry)
            self.entries["guest", level, level] = form, at

    def entry(self, name: tuple[str, int, int]) -> int:
        form, hpa = self.entries[name]
        return self.memory.get(form, hpa)

    def change(self, name: tuple[str, int, int], bits: int) -> None:
        """Flip bits of an entry, as far as it has them."""
        form, hpa = self.entries[name]
        entry = self.memory.get(form, hpa) ^ bits
        self.memory.set(form, hpa, entry & (1 << 8 * form.entry_bytes) - 1)

    def processor(self, *, tlb: bool) -> Processor:
        cpu = Processor(self.memory.words, tlb=tlb)
        cpu.set_nested(levels=self.nested_levels, maxphyaddr=MAXPHYADDR)
        cpu.set_paging(
            levels=self.levels,
            cr0_wp=self.wp,
            efer_nx=self.nx,
            cr4_smap=self.smap,
            maxphyaddr=MAXPHYADDR,
        )
        cpu.nested_root = self.nested_root
        cpu.root = self.gpa(self.levels) if self.levels else 0
        return cpu


def outcome(cpu: Processor, gva: int, kind: int) -> tuple[object, ...]:
    try:
        hpa = cpu.access(gva, kind)
    except MachineCheck:
        return ("machine check",)
    if hpa != FAULT:
        return "ok", hpa
    if cpu.fault_vector == NESTED_FAULT:
        return "nested", cpu.fault_gpa, cpu.fault_error_code
    assert cpu.fault_gpa == FAULT
    return "fault", cpu.fault_vector, cpu.fault_error_code


class NestedFault(Exception):
    pass


class Reference:
    """The rules once more, one dimension at a time, on the same memory."""

    def __init__(self, world: World) -> None:
        self.world = world

    def load(self, form: PagingFormat, hpa: int) -> int:
        if hpa >= FRAMES << 12:
            raise MachineCheck
        return self.world.memory.get(form, hpa)

    def nested(self, gpa: int, kind: int, where: int) -> int:
        form, world = self.world.nested_form, self.world
        code = PFERR_U | {READ: 0, WRITE: PFERR_W, FETCH: PFERR_F}[kind] | where
        table, rights, nx = world.nested_root, W | U, 0
        for level in range(form.levels, 0, -1):
            at = table + 8 * form.index(gpa, level)
            entry = self.load(form, at)
            if not entry & P:
                raise NestedFault(gpa, code)
            size = 1 << form.level_shift(level)
            large = level > 1 and bool(entry & PS)
            too_far = entry & ADDR & ~((1 << MAXPHYADDR) - 1)
            if too_far or (large and (level > 3 or entry & ADDR & (size - 1) & ~0x1000)):
                raise NestedFault(gpa, code | PFERR_P | PFERR_RSVD)
            rights, nx = rights & entry, nx | entry & NX
            if level == 1 or large:
                break
            world.memory.set(form, at, entry | A)
            table = entry & ADDR
        if not rights & U or (kind == WRITE and not rights & W) or (kind == FETCH and nx):
            raise NestedFault(gpa, code | PFERR_P)
        world.memory.set(form, at, entry | A | (D if kind == WRITE else 0))
        return (entry & ADDR) // size * size + gpa % size

    def access(self, gva: int, kind: int, *, user: bool, ac: bool) -> tuple[object, ...]:
        try:
            return self.translate(gva, kind, user=user, ac=ac)
        except NestedFault as fault:
            return "nested", *fault.args
        except MachineCheck:
            return ("machine check",)

    def translate(self, gva: int, kind: int, *, user: bool, ac: bool) -> tuple[object, ...]:
        world, form = self.world, self.world.form
        if not world.levels:
            return self.reach(gva, kind)
        code = (PFERR_U if user else 0) | (PFERR_W if kind == WRITE else 0)
        code |= PFERR_F if kind == FETCH and world.levels != 2 else 0
        table, rights, nx = world.gpa(world.levels), W | U, 0
        for level in range(world.levels, 0, -1):
            at = self.nested(table + form.index(gva, level) * form.entry_bytes, WRITE, PFERR_GUEST_PAGE)
            entry = self.load(form, at)
            if not entry & P:
                return "fault", PF_VECTOR, code
            if self.is_reserved(entry, level):
                return "fault", PF_VECTOR, code | PFERR_P | PFERR_RSVD
            table = entry & ADDR
            if form.levels == level == 3:
                continue
            rights, nx = rights & entry, nx | entry & NX
            if level == 1 or entry & PS:
                break
            world.memory.set(form, at, entry | A)
        allowed = not (kind == FETCH and nx)
        if user:
            allowed &= bool(rights & U) and (kind != WRITE or bool(rights & W))
        else:
            allowed &= kind != WRITE or bool(rights & W) or not world.wp
            allowed &= not (world.smap and rights & U and kind != FETCH and not ac)
        if not allowed:
            return "fault", PF_VECTOR, code | PFERR_P
        world.memory.set(form, at, entry | A | (D if kind == WRITE else 0))
        size = 1 << form.level_shift(level)
        frame = table // size * size
        if form.levels == level == 2:
            frame |= (entry >> 13 & 0xF) << 32
        return self.reach(frame + gva % size, kind)

    def is_reserved(self, entry: int, level: int) -> bool:
        """For the bits that the test flips."""
        if self.world.levels == 2:
            return bool(level == 2 and entry & PS and entry >> 17 & 0x1F)
        if self.world.levels == level == 3:
            return bool(entry & (NX | RESERVED | W | U | A | D << 2 | PS | 1 << 62))
        return bool(entry & RESERVED)

    def reach(self, gpa: int, kind: int) -> tuple[object, ...]:
        hpa = self.nested(gpa, kind, PFERR_GUEST_FINAL)
        return ("ok", hpa) if hpa < FRAMES << 12 else ("machine check",)


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
