"""Guest memory as the hypervisor reaches it: what faults pages in, and what fails."""

import pytest
from kvm.world import World

from shadowmmu.kvm.bits import INVALID_PAGE, MEMSLOT_INVALID
from shadowmmu.kvm.guest_access.guest_memory import (
    read_guest,
    read_page,
    read_page_atomic,
    table_page,
    write_guest,
    write_page,
)

LAZY, READ_ONLY, HOLE = 0x2000000, 0x3000000, 0x5000000
ZERO_PAGE = 0


@pytest.fixture
def world() -> World:
    return World("long4", f"slot 1 {LAZY:#x} 1M lazy", f"slot 2 {READ_ONLY:#x} 1M ro")


def test_numbers_of_any_size_and_alignment(world: World) -> None:
    assert write_guest(world.kvm, 0x800FF9, 7, 0x11223344556677)
    assert read_guest(world.kvm, 0x800FFC, 4) == 0x11223344
    assert read_guest(world.kvm, 0x800FFF, 1) == 0x11
    assert read_guest(world.kvm, 0x801000, 8) == 0


def test_reading_faults_the_zero_page_in_and_writing_a_real_one(world: World) -> None:
    slot = world.kvm.memslot_of(LAZY >> 12)
    assert read_page_atomic(world.kvm, LAZY >> 12) == INVALID_PAGE
    assert read_page(slot, LAZY >> 12) == ZERO_PAGE
    assert read_page_atomic(world.kvm, LAZY >> 12) == ZERO_PAGE
    assert read_guest(world.kvm, LAZY + 0x1000, 8) == 0
    assert write_guest(world.kvm, LAZY + 0x2000, 8, 5)
    assert write_guest(world.kvm, LAZY, 8, 6)
    assert [read_guest(world.kvm, LAZY + 0x1000 * n, 8) for n in range(3)] == [6, 0, 5]
    assert world.machine.arena.page_bytes(ZERO_PAGE) == bytes(4096)
    assert write_page(slot, LAZY >> 12) == world.hpa(LAZY) != ZERO_PAGE


def test_tables_are_read_where_they_are(world: World) -> None:
    assert table_page(world.kvm, 1) == world.hpa(0x1000)
    assert table_page(world.kvm, LAZY >> 12) == ZERO_PAGE
    assert table_page(world.kvm, HOLE >> 12) == INVALID_PAGE


@pytest.mark.parametrize("gpa", [HOLE, READ_ONLY])
def test_what_cannot_be_written(world: World, gpa: int) -> None:
    assert not write_guest(world.kvm, gpa, 8, 1)
    assert read_guest(world.kvm, gpa, 8) == (None if gpa == HOLE else 0)


def test_memory_the_host_protects(world: World) -> None:
    world.ok("mprotect 0x800000 0x1000 ro", "mprotect 0x801000 0x1000 none")
    assert read_guest(world.kvm, 0x800000, 8) == 0
    assert not write_guest(world.kvm, 0x800000, 8, 1)
    assert read_guest(world.kvm, 0x801000, 8) is None
    assert read_page_atomic(world.kvm, 0x801) == INVALID_PAGE
    assert table_page(world.kvm, 0x801) == INVALID_PAGE


def test_a_slot_about_to_go_is_no_memory(world: World) -> None:
    slot = world.kvm.memslot_of(1)
    slot.flags |= MEMSLOT_INVALID
    assert read_guest(world.kvm, 0x1000, 8) is None
    assert not write_guest(world.kvm, 0x1000, 8, 1)
    assert read_page_atomic(world.kvm, 1) == table_page(world.kvm, 1) == INVALID_PAGE
    slot.flags &= ~MEMSLOT_INVALID


def test_writes_get_dirty(world: World) -> None:
    world.ok("dirtylog on 1")
    write_guest(world.kvm, LAZY + 0x5008, 4, 1)
    read_guest(world.kvm, LAZY + 0x6000, 4)
    assert world.do("getdirty 1").result["dirty"] == [f"{LAZY + 0x5000:#x}"]
