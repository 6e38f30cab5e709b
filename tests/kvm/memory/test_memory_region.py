"""Memory slots: creating, moving, deleting, generations (specification 11.8, 12.2; sptes-and-logging 2.2)."""

import errno

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import GEN_UPDATE_IN_PROGRESS, MEMSLOT_INVALID
from shadowmmu.kvm.memory.memory_region import (
    RegionError,
    activate_memslots,
    id_to_memslot,
    kvm_set_memory_region,
)

GVA = 0x400000


@pytest.fixture
def world() -> World:
    world = World("long4", "slot 1 0x2000000 1M", f"map 0x1000 {GVA:#x} 0x2000000 0x67")
    world.ok(f"write {GVA:#x} 7")
    return world


def generation(world: World) -> int:
    assert not world.kvm.memslots_generation & GEN_UPDATE_IN_PROGRESS
    return world.kvm.memslots_generation


@pytest.mark.parametrize(
    ("line", "bumps", "zaps"),
    [
        ("slot 2 0x3000000 1M", 1, False),
        ("delslot 1", 2, True),
        ("movslot 1 0x3000000", 2, True),
        ("dirtylog on 1", 1, False),
        ("movslot 1 0x2000000", 0, False),
        ("dirtylog off 1", 0, False),
    ],
)
def test_generations_and_zaps(world: World, line: str, bumps: int, zaps: bool) -> None:
    """Even numbers for this address space; deleting and moving activate twice and zap everything."""
    before, valid = generation(world), world.kvm.mmu_valid_gen
    events = world.ok(line)
    assert generation(world) == before + 2 * bumps
    assert ("kvm_mmu_zap_all_fast" in names(events)) == zaps
    assert (world.kvm.mmu_valid_gen != valid) == zaps


@pytest.mark.parametrize(
    ("line", "errno"),
    [
        ("slot 2 0x2080000 1M", "EEXIST"),
        ("movslot 1 0x0", "EEXIST"),
        ("delslot 7", "EINVAL"),
        ("slot 1 0x2000000 2M", "EINVAL"),
        ("slot 1 0x2000000 1M", "EINVAL"),
        ("roflag on 1", "EINVAL"),
    ],
)
def test_refused(world: World, line: str, errno: str) -> None:
    """Other memory, another size, read-only instead of writable: no slot changes so, and none overlap."""
    before = generation(world)
    assert world.do(line).result == {"outcome": "error", "errno": errno}
    assert generation(world) == before
    assert world.is_mapped(GVA)


def test_the_generation_s_wrap_zaps_everything(world: World) -> None:
    """12.3: when the 19 bits that MMIO SPTEs keep come round."""
    world.ok("dirtylog on 1")
    world.kvm.memslots_generation = 0x7FFFC
    valid = world.kvm.mmu_valid_gen
    world.ok("dirtylog off 1")
    assert (generation(world), world.kvm.mmu_valid_gen) == (0x7FFFE, valid)
    events = world.ok("dirtylog on 1")
    assert generation(world) == 0x80000
    assert world.kvm.mmu_valid_gen != valid
    assert names(events)[0] == "kvm_mmu_zap_all_fast"
    world.ok("dirtylog off 1")
    assert world.kvm.mmu_valid_gen != valid


def test_a_deleted_slot_is_no_memory_and_comes_back_with_it(world: World) -> None:
    world.ok("delslot 1")
    assert id_to_memslot(world.kvm, 1) is None
    assert world.do(f"read {GVA:#x}").result["mmio"]
    world.ok("slot 1 0x2000000 1M keep")
    assert world.do(f"read {GVA:#x}").result["value"] == "0x7"


def test_a_moved_slot_takes_its_memory_and_log_along(world: World) -> None:
    world.ok("dirtylog on 1", f"write {GVA:#x} 8", "movslot 1 0x3000000")
    assert world.machine.host_read(0x3000000, 8) == 8
    assert world.do("getdirty 1").result["dirty"] == ["0x3000000"]
    assert "mmio" in world.do(f"read {GVA:#x}").result


def test_walks_see_no_slot_that_is_about_to_go(world: World) -> None:
    slot = world.kvm.memslot_of(0x2000)
    slot.flags |= MEMSLOT_INVALID
    assert world.kvm.visible_memslot(0x2000) is None
    assert world.kvm.gfn_to_memslot(0x2000) is slot
    slot.flags &= ~MEMSLOT_INVALID
    assert world.kvm.visible_memslot(0x2000) is slot


@pytest.mark.parametrize(("size", "limit"), [("16M", 164), ("64M", 409), ("1G", 5324), ("4K", 82)])
def test_the_limit_of_shadow_pages_is_a_fiftieth_of_memory(size: str, limit: int) -> None:
    """Of the slot, the 16 MiB at 0 and the eight pages of the guest's code."""
    world = World("long4")
    world.ok(f"slot 5 0x40000000 {size}")
    assert world.kvm.n_max_mmu_pages == limit
    world.ok("delslot 5")
    assert world.kvm.n_max_mmu_pages == (4096 + 8) // 50
    assert World("long4", "slot 0 0x0 1M").kvm.n_max_mmu_pages == 64


def test_a_limit_set_by_user_space_stays() -> None:
    world = World("long4")
    world.ok("nrmmu 77", "slot 5 0x40000000 64M")
    assert world.kvm.n_max_mmu_pages == 77


def test_slots_are_found_by_address_only() -> None:
    world = World("long4", "slot 7 0x3000000 1M", "slot 3 0x5000000 1M")
    kvm = world.kvm
    assert [slot.id for slot in kvm.memslots] == [0, 7, 3, 63]
    for slot in kvm.memslots:
        assert kvm.gfn_to_memslot(slot.base_gfn) is slot
        assert kvm.gfn_to_memslot(slot.base_gfn + slot.npages - 1) is slot
        assert kvm.gfn_to_memslot(slot.base_gfn + slot.npages) is not slot
    assert kvm.gfn_to_memslot(0x4000) is None
    with pytest.raises(LookupError):
        kvm.memslot_of(0x4000)


def test_activation_marks_the_update_while_it_lasts(world: World) -> None:
    """A wrap zaps in the middle of it: what is built then must not be trusted later."""
    seen = []

    world.kvm.tracer.add(lambda event: seen.append(world.kvm.memslots_generation), "kvm_mmu_zap_all_fast")
    world.kvm.memslots_generation = 0x7FFFE
    activate_memslots(world.kvm, world.kvm.memslots)
    assert seen == [0x7FFFE | GEN_UPDATE_IN_PROGRESS]
    assert generation(world) == 0x80000


@pytest.mark.parametrize(
    ("gpa", "size", "flags"),
    [
        (0x4000800, 0x1000, 0),
        (0x4000000, 0x800, 0),
        (0x4000000, 0x1000, 4),
        (1 << 52, 0x1000, 0),
        ((1 << 52) - 0x1000, 0x2000, 0),
        ((1 << 64) - 0x1000, 0x1000, 0),
    ],
)
def test_bad_addresses_sizes_and_flags(world: World, gpa: int, size: int, flags: int) -> None:
    mapping = world.kvm.memslot_of(0x2000).mapping
    before = generation(world)
    with pytest.raises(RegionError) as caught:
        kvm_set_memory_region(world.kvm, 9, gpa, size, flags, mapping)
    assert caught.value.errno == errno.EINVAL
    assert generation(world) == before
    assert id_to_memslot(world.kvm, 9) is None


def test_a_slot_may_begin_inside_its_memory(world: World) -> None:
    mapping = world.kvm.memslot_of(0x2000).mapping
    kvm_set_memory_region(world.kvm, 9, 0x4000000, 0x2000, 0, mapping, 5)
    slot = world.kvm.memslot_of(0x4001)
    assert (slot.page_index(0x4001), slot.first_page) == (6, 5)
    world.ok("nop")
