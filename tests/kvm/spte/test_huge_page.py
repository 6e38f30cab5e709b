"""At which level a fault is mapped, and the NX mitigation (specification 5.13; sptes-and-logging 4)."""

import errno

import pytest
from kvm.world import World

from shadowmmu.kvm.memory.memory_region import RegionError
from shadowmmu.kvm.memory.nx_recovery import kvm_recover_nx_huge_pages, set_nx_huge_pages
from shadowmmu.kvm.spte.huge_page import gfn_round_for_level, kvm_mmu_max_mapping_level, pages_per_hpage

GVA, HUGE = 0x40000000, 0x10000000
GIB = 1 << 30


def test_numbers() -> None:
    assert [pages_per_hpage(level) for level in (1, 2, 3)] == [1, 512, 262144]
    assert [gfn_round_for_level(0x123456, level) for level in (1, 2, 3)] == [0x123456, 0x123400, 0x100000]


def level_of(world: World, gpa: int, largest: int = 3) -> int:
    slot = world.kvm.memslot_of(gpa >> 12)
    return kvm_mmu_max_mapping_level(world.kvm, slot, gpa >> 12, largest)


@pytest.mark.parametrize(
    ("slot", "gpa", "level"),
    [
        ("0x10000000 4M huge2m", 0x10000000, 2),
        ("0x10000000 4M huge2m", 0x10234000, 2),
        ("0x10000000 4M", 0x10000000, 1),
        ("0x10000000 4M thp", 0x10000000, 2),
        ("0x10000000 4M memfd", 0x10000000, 1),
        ("0x40000000 1G huge1g", 0x40000000, 3),
        ("0x10100000 4M thp", 0x10100000, 1),  # not aligned: the first huge page is not whole
        ("0x10100000 4M thp", 0x10200000, 2),
        ("0x10100000 4M thp", 0x10400000, 1),
        ("0x10000000 4M thp skew=0x1000", 0x10200000, 1),
        ("0x10000000 4M thp skew=0x200000", 0x10200000, 2),
        ("0x10000000 4M lazy thp", 0x10000000, 1),
    ],
)
def test_what_the_slot_and_the_host_allow(slot: str, gpa: int, level: int) -> None:
    assert level_of(World("long4", f"slot 1 {slot}"), gpa) == level


def test_limits() -> None:
    world = World("long4", "slot 1 0x40000000 1G huge1g")
    assert level_of(world, GIB, 2) == 2
    assert level_of(world, GIB, 1) == 1
    world.kvm.parameters.max_huge_page_level = 2
    assert level_of(world, GIB) == 2


def test_a_shadowed_table_inside_rules_it_out() -> None:
    """Both levels; other huge pages are as before."""
    world = World(
        "long4",
        "slot 1 0x40000000 1G huge1g",
        "pt 0x1000 1 0x40205027",
        "pt 0x40205000 0 0x40206027",
        "pt 0x40206000 0 0x40207027",
        "pt 0x40207000 0 0x800067",
    )
    assert level_of(world, GIB) == 3
    world.ok("read 0x8000000000")
    assert level_of(world, GIB) == 2
    assert level_of(world, GIB + 0x200000) == 1
    assert level_of(world, GIB + 0x5FFFFF) == 2


@pytest.mark.parametrize(
    ("guest", "host", "level", "count"),
    [
        (3, "1G huge1g", 3, "pages_1g"),
        (2, "1G huge1g", 2, "pages_2m"),
        (1, "1G huge1g", 1, "pages_4k"),
        (3, "1G thp", 2, "pages_2m"),
    ],
)
def test_the_smaller_of_both_is_mapped(guest: int, host: str, level: int, count: str) -> None:
    flags = 0x67 if guest == 1 else 0xE7
    world = World(
        "long4", f"slot 1 0x40000000 {host}", f"map 0x1000 0x8000000000 0x40000000 {flags:#x} level={guest}"
    )
    before = world.stats
    world.ok("write 0x8000123000 5") if guest > 1 else world.ok("write 0x8000000000 5")
    assert world.level(0x8000000000) == level
    gva = 0x8000123000 if guest > 1 else 0x8000000000
    assert world.machine.host_read(gva - 0x8000000000 + GIB, 8) == 5
    assert world.stats[count] > before[count]
    if level > 1:
        assert world.spte(gva) == world.hpa(GIB) | 0xEE7


def test_a_pfn_of_a_huge_page_is_its_first() -> None:
    world = World("nopaging", "slot 1 0x10000000 4M huge2m")
    world.ok("write 0x10323000 9")
    assert world.level(0x10323000) == 2
    assert world.spte(0x10323000) == world.hpa(0x10200000) | 0xEE7
    assert world.machine.host_read(0x10323000, 8) & 0xFFFFFFFF == 9


def test_a_guest_without_paging_gets_two_megabytes_at_most() -> None:
    world = World("nopaging", "slot 1 0x40000000 1G huge1g")
    world.ok("read 0x40000000")
    assert world.level(0x40000000) == 2


# -- NX --------------------------------------------------------------------------------------------------


@pytest.fixture
def world() -> World:
    """Two huge pages, the mitigation on."""
    world = World(
        "long4",
        "slot 1 0x10000000 4M huge2m",
        f"map 0x1000 {GVA:#x} {HUGE:#x} 0xe7 level=2 n=2",
        *(f"code {HUGE + offset:#x}" for offset in (0, 0x5000, 0x200000)),
    )
    world.ok("modparam kvm nx_huge_pages Y")
    return world


def test_data_is_huge_and_not_executable(world: World) -> None:
    world.ok(f"write {GVA:#x} 1")
    assert world.level(GVA) == 2
    assert world.spte(GVA) >> 63


def test_code_is_small(world: World) -> None:
    """The direct page stands for the huge page that is forbidden."""
    world.ok(f"exec {GVA + 0x5000:#x}")
    assert world.level(GVA + 0x5000) == 1
    assert not world.spte(GVA + 0x5000) >> 63
    sp = world.page(HUGE >> 12, 1, direct=True)
    assert sp.nx_huge_page_disallowed
    assert world.kvm.possible_nx_huge_pages == [sp]
    assert world.stats["nx_lpage_splits"] == 1


def test_data_of_a_split_page_is_not_made_huge_again(world: World) -> None:
    world.ok(f"exec {GVA + 0x5000:#x}", f"write {GVA + 0x105000:#x} 1")
    assert world.level(GVA + 0x105000) == 1
    assert world.machine.host_read(HUGE + 0x105000, 8) == 1
    assert world.level(GVA + 0x5000) == 1


def test_code_in_a_huge_page_of_data_splits_it(world: World) -> None:
    world.ok(f"write {GVA:#x} 1", f"exec {GVA + 0x5000:#x}")
    assert world.level(GVA + 0x5000) == 1
    assert world.stats["pages_2m"] == 0


def test_a_page_that_could_not_be_huge_is_not_listed() -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0xe7 level=2", "code 0x800000")
    world.ok("modparam kvm nx_huge_pages Y", f"exec {GVA:#x}")
    sp = world.page(0x800, 1, direct=True)
    assert sp.nx_huge_page_disallowed
    assert world.kvm.possible_nx_huge_pages == []
    assert world.stats["nx_lpage_splits"] == 0


def test_zapping_takes_it_off_the_list(world: World) -> None:
    world.ok(f"exec {GVA:#x}", f"exec {GVA + 0x200000:#x}")
    assert world.stats["nx_lpage_splits"] == 2
    world.ok("modparam kvm nx_huge_pages N")
    assert world.kvm.possible_nx_huge_pages == []
    assert world.stats["nx_lpage_splits"] == 0
    world.ok(f"exec {GVA:#x}")
    assert world.level(GVA) == 2


def test_recovery_zaps_its_share_of_the_oldest(world: World) -> None:
    world.ok(f"exec {GVA:#x}", f"exec {GVA + 0x200000:#x}")
    requests = world.kvm.stat.remote_tlb_flush_requests
    kvm_recover_nx_huge_pages(world.kvm)
    assert world.stats["nx_lpage_splits"] == 1
    assert not world.is_mapped(GVA)
    assert world.is_mapped(GVA + 0x200000)
    assert world.kvm.stat.remote_tlb_flush_requests == requests + 1
    world.kvm.parameters.nx_huge_pages_recovery_ratio = 0
    kvm_recover_nx_huge_pages(world.kvm)
    assert world.stats["nx_lpage_splits"] == 1
    world.kvm.parameters.nx_huge_pages_recovery_ratio = 1
    kvm_recover_nx_huge_pages(world.kvm)
    assert world.stats["nx_lpage_splits"] == 0


def test_recovery_only_forgets_pages_of_a_logging_slot(world: World) -> None:
    world.ok(f"exec {GVA:#x}", "dirtylog on 1")
    kvm_recover_nx_huge_pages(world.kvm)
    assert world.stats["nx_lpage_splits"] == 0
    assert world.is_mapped(GVA)
    world.ok("nop")


@pytest.mark.parametrize(
    ("value", "number", "on"),
    [
        ("force", 0, True),
        ("off", 0, False),
        ("auto", 0, False),
        ("1", 0, True),
        ("on", 0, True),
        ("n", 0, False),
        ("?", errno.EINVAL, False),
        ("never", errno.EBUSY, False),
    ],
)
def test_values_of_the_parameter(value: str, number: int, on: bool) -> None:
    world = World("long4")
    world.ok("nop")
    valid = world.kvm.mmu_valid_gen
    if number:
        with pytest.raises(RegionError) as caught:
            set_nx_huge_pages(world.kvm, value)
        assert caught.value.errno == number
    else:
        set_nx_huge_pages(world.kvm, value)
    assert world.kvm.parameters.nx_huge_pages == on
    assert (world.kvm.mmu_valid_gen != valid) == on, "a change zaps everything"


def test_code_without_paging_is_small_too() -> None:
    world = World("nopaging", "slot 1 0x10000000 4M huge2m", "code 0x10005000")
    world.ok("modparam kvm nx_huge_pages Y", "exec 0x10005000")
    assert world.level(0x10005000) == 1
    assert [sp.gfn for sp in world.kvm.possible_nx_huge_pages] == [0x10000]
    world.ok("write 0x10006000 1", "write 0x10200000 1")
    assert (world.level(0x10006000), world.level(0x10200000)) == (1, 2)
    assert world.machine.host_read(0x10006000, 4) == 1


def test_a_page_of_a_gigabyte_is_forbidden_at_its_level() -> None:
    """Only pages whose absence would allow a huge page are listed: here both levels below 1 GiB."""
    world = World(
        "long4",
        "slot 1 0x40000000 1G huge1g",
        "map 0x1000 0x8000000000 0x40000000 0xe7 level=3",
        "code 0x40205000",
    )
    world.ok("modparam kvm nx_huge_pages Y", "exec 0x8000205000")
    assert world.level(0x8000205000) == 1
    assert [(sp.gfn, sp.role & 15) for sp in world.kvm.possible_nx_huge_pages] == [(0x40000, 2), (0x40200, 1)]
    world.ok("write 0x8000206000 1", "write 0x8000400000 1")
    assert world.level(0x8000206000) == 1
    assert world.level(0x8000400000) == 2
    assert world.machine.host_read(0x40206000, 8) == 1
