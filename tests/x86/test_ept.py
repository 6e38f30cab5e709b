"""Walks of EPT tables, rule by rule, and against a reference on random tables (Intel SDM vol. 3C, 29.3)."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from shadowmmu.x86.bits import (
    ADDR,
    EPT_A,
    EPT_D,
    EPT_R,
    EPT_RWX,
    EPT_VIOLATION_GVA_TRANSLATED,
    EPT_VIOLATION_GVA_VALID,
    EPT_VIOLATION_PROT_XU,
    EPT_VIOLATION_RWX_SHIFT,
    EPT_W,
    EPT_WB,
    EPT_X,
    EPT_XU,
    FAULT,
    FETCH,
    NESTED_FAULT,
    PF_VECTOR,
    PFERR_GUEST_FINAL,
    PFERR_GUEST_PAGE,
    PS,
    READ,
    WRITE,
    A,
    D,
    P,
    U,
    W,
)
from shadowmmu.x86.machine_check import MachineCheck
from shadowmmu.x86.processor import Processor
from shadowmmu.x86.vmx import EXIT_REASON_EPT_MISCONFIG, EXIT_REASON_EPT_VIOLATION, EXIT_REASON_PML_FULL

from .conftest import Memory

MAXPHYADDR = 40
GPA = 0x0040_0123
GVA = 0x7000_0123
FULL = EPT_RWX | EPT_WB
ACCESS = {READ: EPT_R, WRITE: EPT_W, FETCH: EPT_X}
TABLE, PAGE = EPT_VIOLATION_GVA_VALID, EPT_VIOLATION_GVA_VALID | EPT_VIOLATION_GVA_TRANSLATED


class World:
    """EPT tables that map guest page GPA to a frame; the guest has no paging until `guest_tables`."""

    def __init__(
        self, *, levels: int = 4, tlb: bool = True, ad: bool = True, execute_only: bool = True
    ) -> None:
        self.memory = Memory(256)
        self.words = self.memory.words
        self.levels = levels
        self.root = self.memory.frame()
        self.cpu = Processor(self.words, tlb=tlb)
        self.cpu.set_ept(levels=levels, maxphyaddr=MAXPHYADDR, ad=ad, execute_only=execute_only)
        self.cpu.nested_root = self.root
        self.frame = self.memory.frame()
        self.map(GPA, self.frame)

    def address(self, gpa: int, level: int = 1) -> int:
        """Where the entry for gpa at `level` is; missing tables on the way are made."""
        table = self.root
        for at in range(self.levels, level, -1):
            entry = table + (gpa >> 12 + 9 * (at - 1) & 511) * 8
            if not self.words[entry >> 3]:
                self.words[entry >> 3] = self.memory.frame() | EPT_RWX
            table = self.words[entry >> 3] & ADDR
        return table + (gpa >> 12 + 9 * (level - 1) & 511) * 8

    def map(self, gpa: int, frame: int, bits: int = FULL, level: int = 1) -> None:
        self.words[self.address(gpa, level) >> 3] = frame | bits | (PS if level > 1 else 0)

    def entry(self, gpa: int = GPA, level: int = 1) -> int:
        return self.words[self.address(gpa, level) >> 3]

    def set_rights(self, rights: int, level: int = 1, gpa: int = GPA) -> None:
        at = self.address(gpa, level) >> 3
        self.words[at] = self.words[at] & ~EPT_RWX | rights
        self.cpu.flush_all()

    def guest_tables(self, leaf: int = P | W | U | A | D) -> int:
        """Four-level paging with GVA at GPA; the guest's tables are at 0x1000 to 0x4000. The leaf's frame."""
        frames = {}
        for level in (4, 3, 2, 1):
            gpa = (5 - level) * 0x1000
            frames[level] = self.memory.frame()
            self.map(gpa, frames[level])
            entry = (GPA & ADDR) | leaf if level == 1 else gpa + 0x1000 | P | W | U | A
            self.words[frames[level] + (GVA >> 12 + 9 * (level - 1) & 511) * 8 >> 3] = entry
        self.cpu.set_paging(levels=4)
        self.cpu.root = 0x1000
        return frames[1]

    def fails(self, kind: int, gva: int = GPA) -> tuple[int, int]:
        """(exit reason, exit qualification) of an access that must fail."""
        assert self.cpu.access(gva, kind) == FAULT
        assert self.cpu.fault_vector == NESTED_FAULT
        return self.cpu.ept.exit, self.cpu.fault_error_code & 0xFFFFFFFF


@pytest.fixture(params=[True, False], ids=["tlb", "walks"])
def world(request: pytest.FixtureRequest) -> World:
    return World(tlb=request.param)


# -- rights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("rights", [0, EPT_R, EPT_R | EPT_W, EPT_R | EPT_X, EPT_X, EPT_RWX])
@pytest.mark.parametrize("kind", [READ, WRITE, FETCH])
def test_every_level_can_take_a_right(world: World, level: int, rights: int, kind: int) -> None:
    world.set_rights(rights, level)
    if ACCESS[kind] & rights:
        assert world.cpu.access(GPA, kind) == world.frame | 0x123
        return
    granted = rights << EPT_VIOLATION_RWX_SHIFT
    assert world.fails(kind) == (EXIT_REASON_EPT_VIOLATION, ACCESS[kind] | granted | PAGE)
    assert world.cpu.fault_gpa == GPA
    assert world.cpu.fault_error_code >> 32 == PFERR_GUEST_FINAL >> 32


def test_what_the_tables_grant_is_what_all_levels_grant(world: World) -> None:
    world.set_rights(EPT_R | EPT_X, 3)
    world.set_rights(EPT_R | EPT_W, 2)
    assert world.fails(WRITE) == (EXIT_REASON_EPT_VIOLATION, EPT_W | EPT_R << EPT_VIOLATION_RWX_SHIFT | PAGE)


def test_execute_only_pages_are_fetched_but_never_read(world: World) -> None:
    """Also not after the fetch, out of the TLB."""
    world.set_rights(EPT_X)
    for _ in range(2):
        assert world.cpu.access(GPA, FETCH) == world.frame | 0x123
        assert world.fails(READ) == (
            EXIT_REASON_EPT_VIOLATION,
            EPT_R | EPT_X << EPT_VIOLATION_RWX_SHIFT | PAGE,
        )


# -- misconfigurations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("rights", [EPT_W, EPT_W | EPT_X])
def test_writable_but_not_readable_is_a_misconfiguration(world: World, level: int, rights: int) -> None:
    world.set_rights(rights, level)
    for kind in (READ, WRITE, FETCH):
        assert world.fails(kind) == (EXIT_REASON_EPT_MISCONFIG, 0)
    assert world.cpu.fault_gpa == GPA


def test_execute_only_is_one_where_the_processor_does_not_know_it() -> None:
    world = World(execute_only=False)
    world.set_rights(EPT_X)
    assert world.fails(FETCH) == (EXIT_REASON_EPT_MISCONFIG, 0)


@pytest.mark.parametrize("kind", range(8))
def test_memory_types(world: World, kind: int) -> None:
    world.map(GPA, world.frame, EPT_RWX | kind << 3)
    if kind in (2, 3, 7):
        assert world.fails(READ) == (EXIT_REASON_EPT_MISCONFIG, 0)
    else:
        assert world.cpu.access(GPA, READ) == world.frame | 0x123


@pytest.mark.parametrize(
    ("level", "bit", "reserved"),
    [
        (1, MAXPHYADDR, True), (1, 51, True), (1, 7, False), (1, 6, False), (1, 11, False), (1, 52, False),
        (1, 63, False), (2, 3, True), (2, 6, True), (2, 51, True), (3, 4, True), (4, 5, True), (4, 7, True),
        (2, 8, False), (4, 10, False), (4, 63, False),
    ],
)  # fmt: skip
def test_reserved_bits(world: World, level: int, bit: int, reserved: bool) -> None:
    at = world.address(GPA, level) >> 3
    world.words[at] |= 1 << bit
    if reserved:
        assert world.fails(READ) == (EXIT_REASON_EPT_MISCONFIG, 0)
    else:
        assert world.cpu.access(GPA, READ) == world.frame | 0x123


def test_an_entry_that_grants_nothing_may_hold_anything(world: World) -> None:
    world.words[world.address(GPA, 2) >> 3] = ~EPT_RWX & (1 << 64) - 1
    assert world.fails(READ) == (EXIT_REASON_EPT_VIOLATION, EPT_R | PAGE)


@pytest.mark.parametrize("level", [2, 3])
def test_large_pages(world: World, level: int) -> None:
    size = 1 << 12 + 9 * (level - 1)
    gpa = 3 * size
    world.map(gpa, 0, level=level)
    assert world.cpu.access(gpa + 0x5123, WRITE) == 0x5123
    world.map(gpa, 0x1000, level=level)
    world.cpu.flush_all()
    assert world.fails(READ, gpa) == (EXIT_REASON_EPT_MISCONFIG, 0)


def test_five_levels_reach_further_than_four() -> None:
    far = 1 << 49
    for levels in (4, 5):
        world = World(levels=levels)
        leaf = world.guest_tables()
        world.words[leaf + (GVA >> 12 & 511) * 8 >> 3] = far | P | W | U | A | D
        world.cpu.set_paging(levels=4, maxphyaddr=52)
        world.map(far, world.frame)
        if levels == 5:
            assert world.cpu.access(GVA, READ) == world.frame | 0x123
        else:
            assert world.fails(READ, GVA) == (EXIT_REASON_EPT_VIOLATION, EPT_R | PAGE)


# -- Accessed and Dirty ----------------------------------------------------------------------------------


def test_accessed_is_set_at_every_level_dirty_by_a_write_in_the_leaf(world: World) -> None:
    world.cpu.access(GPA, READ)
    assert [world.entry(level=level) & (EPT_A | EPT_D) for level in (1, 2, 3, 4)] == [EPT_A] * 4
    world.cpu.access(GPA, WRITE)
    assert [world.entry(level=level) & EPT_D for level in (1, 2, 3, 4)] == [EPT_D, 0, 0, 0]


def test_they_stay_clear_where_they_are_not_used() -> None:
    world = World(ad=False)
    world.cpu.access(GPA, WRITE)
    assert [world.entry(level=level) & (EPT_A | EPT_D) for level in (1, 2, 3, 4)] == [0] * 4


def test_with_them_an_access_to_the_guests_tables_is_a_write(world: World) -> None:
    world.guest_tables()
    world.cpu.access(GVA, READ)
    assert all(world.entry(gpa) & EPT_D for gpa in (0x1000, 0x2000, 0x3000, 0x4000))
    assert not world.entry(GPA) & EPT_D
    world.set_rights(EPT_R | EPT_X, gpa=0x3000)
    granted = (EPT_R | EPT_X) << EPT_VIOLATION_RWX_SHIFT
    assert world.fails(READ, GVA) == (EXIT_REASON_EPT_VIOLATION, EPT_R | EPT_W | granted | TABLE)
    assert world.cpu.fault_error_code >> 32 == PFERR_GUEST_PAGE >> 32
    assert world.cpu.fault_gpa & ADDR == 0x3000


@pytest.mark.parametrize(("leaf", "kind"), [(P | W | U | D, READ), (P | W | U | A, WRITE)])
def test_without_them_only_setting_a_bit_of_the_guests_is(leaf: int, kind: int) -> None:
    world = World(ad=False)
    frame = world.guest_tables(leaf)
    for gpa in (0x1000, 0x2000, 0x3000, 0x4000):
        world.set_rights(EPT_R | EPT_X, gpa=gpa)
    granted = (EPT_R | EPT_X) << EPT_VIOLATION_RWX_SHIFT
    assert world.fails(kind, GVA) == (EXIT_REASON_EPT_VIOLATION, EPT_R | EPT_W | granted | TABLE)
    assert world.cpu.fault_gpa & ADDR == 0x4000
    at = frame + (GVA >> 12 & 511) * 8 >> 3
    assert world.words[at] & (A | D) == leaf & (A | D), "nothing was set"
    world.words[at] |= A | D
    assert world.cpu.access(GVA, kind) == world.frame | 0x123


def test_a_page_fault_of_the_guest_is_its_own(world: World) -> None:
    world.guest_tables(0)
    assert world.cpu.access(GVA, READ) == FAULT
    assert world.cpu.fault_vector == PF_VECTOR


# -- page-modification logging -----------------------------------------------------------------------------


@pytest.fixture
def logging(world: World) -> World:
    world.cpu.ept.pml_address = world.memory.frame()
    world.cpu.ept.pml_enabled = True
    return world


def log(world: World) -> list[int]:
    """The entries written so far, the oldest first."""
    ept = world.cpu.ept
    return [world.words[(ept.pml_address >> 3) + i] for i in range(511, ept.pml_index, -1)]


def test_a_page_is_logged_when_it_becomes_dirty(logging: World) -> None:
    logging.cpu.access(GPA, READ)
    assert log(logging) == []
    for _ in range(3):
        logging.cpu.access(GPA, WRITE)
    assert log(logging) == [GPA & ADDR]
    logging.words[logging.address(GPA) >> 3] &= ~EPT_D
    logging.cpu.flush_all()
    logging.cpu.access(GPA, WRITE)
    assert log(logging) == [GPA & ADDR] * 2


def test_so_are_the_guests_tables(logging: World) -> None:
    logging.guest_tables()
    logging.cpu.access(GVA, READ)
    assert log(logging) == [0x1000, 0x2000, 0x3000, 0x4000]


def test_a_full_log_is_an_exit_before_anything_happens(logging: World) -> None:
    logging.cpu.ept.pml_index = 0
    logging.cpu.access(GPA, WRITE)
    assert logging.cpu.ept.pml_index == 0xFFFF
    logging.words[logging.address(GPA) >> 3] &= ~EPT_D
    logging.cpu.flush_all()
    assert logging.fails(WRITE) == (EXIT_REASON_PML_FULL, 0)
    assert not logging.entry() & EPT_D
    assert logging.cpu.access(GPA, READ) == logging.frame | 0x123, "a read needs no entry"
    logging.cpu.ept.pml_index = 511
    assert logging.cpu.access(GPA, WRITE) == logging.frame | 0x123
    assert log(logging) == [GPA & ADDR]


def test_while_it_is_off_nothing_is_logged(logging: World) -> None:
    logging.cpu.ept.pml_enabled = False
    logging.cpu.access(GPA, WRITE)
    assert logging.entry() & EPT_D
    assert log(logging) == []


# -- against a reference -----------------------------------------------------------------------------------


def reference(world: World, gpa: int, kind: int) -> object:
    """What must come of an access without guest paging: the physical address, or (reason, qualification)."""
    table, rights = world.root, EPT_RWX
    for level in range(world.levels, 0, -1):
        at = table + (gpa >> 12 + 9 * (level - 1) & 511) * 8
        if at >= len(world.words) * 8:
            return "machine check"
        entry = world.words[at >> 3]
        here = entry & EPT_RWX
        if not here:
            return EXIT_REASON_EPT_VIOLATION, ACCESS[kind] | PAGE
        leaf = level == 1 or (level <= 3 and entry & PS)
        wrong = here in (EPT_W, EPT_W | EPT_X) or entry >> MAXPHYADDR & (1 << 52 - MAXPHYADDR) - 1
        if leaf:
            wrong = wrong or entry >> 3 & 7 in (2, 3, 7)
            wrong = wrong or (level > 1 and entry & (1 << 12 + 9 * (level - 1)) - 0x1000)
        else:
            wrong = wrong or entry & (0xF8 if level > 3 else 0x78)
        if wrong:
            return EXIT_REASON_EPT_MISCONFIG, 0
        rights &= here
        if leaf:
            if not rights & ACCESS[kind]:
                return EXIT_REASON_EPT_VIOLATION, ACCESS[kind] | rights << EPT_VIOLATION_RWX_SHIFT | PAGE
            size = 1 << 12 + 9 * (level - 1)
            hpa = (entry & ADDR & -size) | gpa & size - 1
            return hpa if hpa < len(world.words) * 8 else "machine check"
        table = entry & ADDR
    raise AssertionError


ENTRY = st.one_of(
    st.builds(lambda frame, bits: frame << 12 | bits, st.integers(0, 40), st.integers(0, 0xFFF)),
    st.builds(lambda frame, bits: frame << 12 | bits | 0x37, st.integers(0, 40), st.sampled_from([0, PS])),
    st.integers(0, (1 << 64) - 1),
)


@given(st.data(), st.sampled_from([4, 5]), st.booleans(), st.booleans())
def test_random_tables(data: st.DataObject, levels: int, tlb: bool, ad: bool) -> None:
    """Tables full of anything, walked twice so that caches are used: never anything but these outcomes."""
    world = World(levels=levels, tlb=tlb, ad=ad)
    for level in data.draw(st.lists(st.integers(1, levels), max_size=3)):
        world.words[world.address(GPA, level) >> 3] = data.draw(ENTRY)
        for kind in data.draw(st.permutations([READ, WRITE, FETCH])):
            expected = reference(world, GPA, kind)
            for _ in range(2):
                world.cpu.flush_all()
                try:
                    hpa = world.cpu.access(GPA, kind)
                except MachineCheck:
                    assert expected == "machine check"
                    continue
                got = (world.cpu.ept.exit, world.cpu.ept.qualification) if hpa == FAULT else hpa
                assert got == expected
        if world.entry(GPA, level) & EPT_RWX != EPT_RWX or world.entry(GPA, level) & ADDR >= 256 << 12:
            break


@pytest.mark.parametrize("mbec", [True, False])
def test_with_mode_based_execute_control_a_violation_reports_x_of_user_addresses(mbec: bool) -> None:
    world = World()
    world.cpu.set_ept(levels=4, maxphyaddr=MAXPHYADDR, mbec=mbec)
    for level in (4, 3, 2):
        world.set_rights(EPT_RWX | EPT_XU, level)
    world.set_rights(EPT_R | EPT_X | EPT_XU)
    xu = EPT_VIOLATION_PROT_XU if mbec else 0
    rx = (EPT_R | EPT_X) << EPT_VIOLATION_RWX_SHIFT
    assert world.fails(WRITE) == (EXIT_REASON_EPT_VIOLATION, EPT_W | rx | xu | PAGE)
    world.words[world.address(GPA, 3) >> 3] &= ~EPT_XU
    world.cpu.flush_all()
    assert world.fails(WRITE) == (EXIT_REASON_EPT_VIOLATION, EPT_W | rx | PAGE)
