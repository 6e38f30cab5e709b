"""The software walk of the guest's tables (specification 1)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import INVALID_PAGE
from shadowmmu.kvm.guest_access.guest_walk import (
    gpte_access,
    gpte_changed,
    gva_to_gpa,
    read_gpte_atomic,
    walk_addr,
)
from shadowmmu.x86.bits import PFERR_F, PFERR_U, PFERR_W

GVA = 0x400000
NX = 1 << 63


@pytest.mark.parametrize(
    ("gpte", "access"), [(0x67, 7), (0x65, 5), (0x63, 3), (0x61, 1), (0x67 | NX, 6), (0x61 | NX, 0)]
)
def test_access_of_a_gpte(gpte: int, access: int) -> None:
    assert gpte_access(gpte) == access


@pytest.mark.parametrize(
    ("mode", "setup", "gva", "gpa"),
    [
        ("long4", "map 0x1000 0x400000 0x800000 0x67", 0x400123, 0x800123),
        ("long4", "map 0x1000 0x400000 0x800000 0xe7 level=2", 0x423456, 0x823456),
        ("long4", "map 0x1000 0x40000000 0 0xe7 level=3", 0x40123456, 0x123456),
        ("long5", "map 0x1000 0x1000000400000 0x800000 0x67", 0x1000000400123, 0x800123),
        ("pae", "map 0x1000 0x400000 0x800000 0x67", 0x400123, 0x800123),
        ("pae", "map 0x1000 0x400000 0x800000 0xe7 level=2", 0x423456, 0x823456),
        ("32", "map 0x1000 0x400000 0x800000 0x67", 0x400123, 0x800123),
        ("32", "map 0x1000 0x400000 0x800000 0xe7 level=2", 0x7FFFFF, 0xBFFFFF),
    ],
)
def test_addresses(mode: str, setup: str, gva: int, gpa: int) -> None:
    world = World(mode, setup)
    world.ok("nop")
    assert gva_to_gpa(world.vcpu, gva, 0) == gpa
    assert gva_to_gpa(world.vcpu, gva + 0x40000000, 0) == INVALID_PAGE


def test_without_paging_addresses_are_what_they_are() -> None:
    world = World("nopaging")
    world.ok("nop")
    assert gva_to_gpa(world.vcpu, 0x12345678, PFERR_W) == 0x12345678


@pytest.mark.parametrize(
    ("flags", "access", "error"),
    [
        (0x67, PFERR_U | PFERR_W, None),
        (0x65, PFERR_W, 3),
        (0x65, PFERR_W | PFERR_U, 7),
        (0x63, PFERR_U, 5),
        (0x67 | NX, PFERR_F, 0x11),
        (0x67, PFERR_F, None),
        (0x0, PFERR_W, 2),
        (0x0, PFERR_F, 0x10),
    ],
)
def test_permissions(flags: int, access: int, error: int | None) -> None:
    """1.7 and the error exit; F is reported under NX."""
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 {flags:#x}")
    world.ok("nop")
    walker = world.vcpu.walker
    assert walk_addr(world.vcpu, world.vcpu.mmu, walker, GVA, access) == (error is None)
    assert walker.error_code == (error or 0)


@pytest.mark.parametrize(
    ("efer", "cr4", "code"), [(0xD00, 0x20, 0x10), (0x500, 0x20, 0), (0x500, 0x100020, 0x10)]
)
def test_fetches_are_reported_under_nx_or_smep(efer: int, cr4: int, code: int) -> None:
    world = World("long4")
    world.ok(f"hostsregs efer={efer:#x} cr4={cr4:#x}")
    assert not walk_addr(world.vcpu, world.vcpu.mmu, world.vcpu.walker, GVA, PFERR_F)
    assert world.vcpu.walker.error_code == code


@pytest.mark.parametrize(
    ("cr4", "ac", "faults"), [(0x200020, False, True), (0x200020, True, False), (0x20, False, False)]
)
def test_smap_unless_ac(cr4: int, ac: bool, faults: bool) -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67")
    world.ok("nop", f"cr4 {cr4:#x}")
    world.vcpu.eflags_ac = ac
    assert walk_addr(world.vcpu, world.vcpu.mmu, world.vcpu.walker, GVA, 0) != faults


@pytest.mark.parametrize("table", ["0x1000", "0x2000", "0x3000", "0x4000"])
def test_rights_combine_over_all_levels(table: str) -> None:
    """A level without U takes it from the page, wherever it is."""
    index = 2 if table == "0x3000" else 0
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67")
    entry = world.gpte(int(table, 16), index)
    world.ok(f"hostwrite {int(table, 16) + 8 * index:#x} {entry & ~4:#x} size=8", "nop")
    walker = world.vcpu.walker
    assert walk_addr(world.vcpu, world.vcpu.mmu, walker, GVA, 0)
    assert walker.pte_access == 3
    assert not walk_addr(world.vcpu, world.vcpu.mmu, walker, GVA, PFERR_U)


@pytest.mark.parametrize("flags", [0x7, 0x27, 0x47])
def test_accessed_and_dirty_are_written_once(flags: int) -> None:
    world = World("long4", "nonleaf 0x7", f"map 0x1000 {GVA:#x} 0x800000 {flags:#x}")
    world.ok("nop")
    world.player.log.take()
    assert walk_addr(world.vcpu, world.vcpu.mmu, world.vcpu.walker, GVA, 0)
    assert world.gpte(0x4000, 0) == 0x800000 | flags | 0x20
    assert walk_addr(world.vcpu, world.vcpu.mmu, world.vcpu.walker, GVA, PFERR_W)
    assert world.gpte(0x4000, 0) == 0x800067
    assert all(world.gpte(t, i) & 0x60 == 0x20 for t, i in ((0x1000, 0), (0x2000, 0), (0x3000, 2)))
    world.player.log.take()
    assert walk_addr(world.vcpu, world.vcpu.mmu, world.vcpu.walker, GVA, PFERR_W)
    assert names(list(world.player.log.take())) == ["kvm_mmu_pagetable_walk", *["kvm_mmu_paging_element"] * 4]


def test_tables_in_a_read_only_slot_keep_their_bits() -> None:
    """1.9: the events say what would have been set."""
    world = World("long4", "slot 1 0x2000000 1M ro", "alloc 0x2000000", f"map 0x1000 {GVA:#x} 0x800000 0x7")
    world.ok("nop")
    world.player.log.take()
    assert walk_addr(world.vcpu, world.vcpu.mmu, world.vcpu.walker, GVA, PFERR_W)
    assert names(list(world.player.log.take())).count("kvm_mmu_set_dirty_bit") == 1
    assert world.gpte(0x2002000, 0) == 0x800007


def test_a_failed_walk_says_so_after_what_it_read() -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67")
    world.ok("nop")
    world.player.log.take()
    assert not walk_addr(world.vcpu, world.vcpu.mmu, world.vcpu.walker, GVA + 0x1000, PFERR_W | PFERR_U)
    events = list(world.player.log.take())
    assert names(events) == [
        "kvm_mmu_pagetable_walk",
        *["kvm_mmu_paging_element"] * 4,
        "kvm_mmu_walker_error",
    ]
    assert (events[0].addr, events[0].pferr, events[-1].pferr) == (GVA + 0x1000, 6, 6)


def test_the_pdpte_is_element_three_and_gives_no_rights() -> None:
    world = World("pae", f"map 0x1000 {GVA:#x} 0x800000 0x67")
    world.ok("nop")
    world.player.log.take()
    assert walk_addr(world.vcpu, world.vcpu.mmu, world.vcpu.walker, GVA, PFERR_W | PFERR_U)
    elements = [(e.level, e.pte) for e in world.player.log.take() if e.name == "kvm_mmu_paging_element"]
    assert elements == [(3, 0x2001), (2, 0x3027), (1, 0x800067)]


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_changed_gpte_is_noticed(level: int) -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67")
    world.ok("nop")
    walker = world.vcpu.walker
    assert walk_addr(world.vcpu, world.vcpu.mmu, walker, GVA, 0)
    assert not gpte_changed(world.vcpu, walker, level)
    table, index = {1: (0x4000, 0), 2: (0x3000, 2), 3: (0x2000, 0), 4: (0x1000, 0)}[level]
    world.machine.host_write(table + 8 * index, 8, world.gpte(table, index) ^ 0x200)
    assert gpte_changed(world.vcpu, walker, level)
    assert [gpte_changed(world.vcpu, walker, other) for other in range(1, 5) if other != level] == [False] * 3


def test_a_table_that_is_gone_has_changed() -> None:
    world = World("long4", "slot 1 0x2000000 1M", "alloc 0x2000000", f"map 0x1000 {GVA:#x} 0x800000 0x67")
    world.ok("nop")
    assert walk_addr(world.vcpu, world.vcpu.mmu, world.vcpu.walker, GVA, 0)
    host, hva = world.machine.host, world.machine.hva(0x2002000)
    host.madvise_dontneed(hva, 0x1000)
    assert gpte_changed(world.vcpu, world.vcpu.walker, 1), "it cannot be read without sleeping"
    assert not read_gpte_atomic(world.kvm, 0x2002000, 0, world.vcpu.walker)
    host.touch(hva, write=False)
    assert read_gpte_atomic(world.kvm, 0x2002000, 0, world.vcpu.walker)
    assert not read_gpte_atomic(world.kvm, 0x50000000, 0, world.vcpu.walker)
