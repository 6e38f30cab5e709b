"""The hypervisor's own memory: faults, levels, what user space does to it, and who is told."""

import errno
from dataclasses import fields

import pytest
from host.listener import MIB, Listener, at, mapped

from shadowmmu.guest.play.machine import Machine
from shadowmmu.host.address_space import AddressSpace
from shadowmmu.host.backing import Backing, HostError
from shadowmmu.host.bits import PROT_NONE, PROT_READ, PROT_RW
from shadowmmu.host.madvise import madvise
from shadowmmu.host.memory import Arena
from shadowmmu.host.switches import HostSwitches
from shadowmmu.kvm.design.design import Design
from shadowmmu.kvm.design.switches import switch_named

PRESENT, WRITABLE, ZERO = 2, 4, 8
DONTNEED, HUGEPAGE, NOHUGEPAGE, COLLAPSE = 4, 14, 15, 25


# -- where it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 0x1000, 0x200000, 0x12345000, 3 << 30 | 0x5000])
def test_addresses_are_congruent_to_the_offset(space: AddressSpace, offset: int) -> None:
    first = space.map(1000, Backing.ANON, offset=offset)
    second = space.map(1 << 18, Backing.ANON, offset=offset)
    for mapping in (first, second):
        assert (mapping.hva - offset) % (1 << 30) == 0
        assert (mapping.base_pfn - (mapping.hva >> 12)) % (1 << 18) == 0
    assert second.hva + (second.npages << 12) <= first.hva
    assert space.find(first.hva + 5000) == (first, 1)


def test_between_mappings_is_nothing(space: AddressSpace) -> None:
    mapping = space.map(10, Backing.ANON)
    for hva in (mapping.hva - 1, mapping.hva + 10 * 4096):
        with pytest.raises(HostError) as caught:
            space.find(hva)
        assert caught.value.errno == errno.EFAULT


def test_the_address_space_ends() -> None:
    space = AddressSpace(Arena())
    with pytest.raises(MemoryError):
        space.map(1 << 36, Backing.ANON)


# -- faults ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Backing.ANON, Backing.THP, Backing.HUGE2M, Backing.MEMFD])
def test_populated_memory_is_there(space: AddressSpace, listener: Listener, kind: Backing) -> None:
    mapping = mapped(space, listener, 4 * MIB, kind)
    assert mapping.page(3) == (mapping.base_pfn + 3) << 12 | PRESENT | WRITABLE
    assert mapping.fast_page(3, 1) == mapping.fault(3, 1) == mapping.page(3)
    assert listener.take() == []
    assert mapping.index_of(mapping.base_pfn + 3) == 3
    assert mapping.index_of(mapping.base_pfn - 1) is None


def test_a_read_finds_the_zero_page_a_write_replaces_it(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON, populated=False)
    assert (mapping.page(5), mapping.fast_page(5, 0)) == (0, 0)
    assert mapping.fault(5, 0) == PRESENT | ZERO
    assert (mapping.fast_page(5, 0), mapping.fast_page(5, 1)) == (PRESENT | ZERO, 0)
    assert listener.take() == []
    word = mapping.fault(5, 1)
    assert word & (PRESENT | WRITABLE | ZERO) == PRESENT | WRITABLE
    assert listener.take() == [(5, 6)], "whoever maps the zero page is told"
    assert mapping.fault(5, 1) == word
    assert listener.take() == []


def test_a_write_of_lazy_huge_memory_brings_two_megabytes(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP, populated=False)
    mapping.fault(5, 1)
    assert [mapping.level(n) for n in (0, 511, 512)] == [2, 2, 1]
    assert mapping.page(511) == (mapping.base_pfn + 511) << 12 | PRESENT | WRITABLE
    assert mapping.page(512) == 0
    mapping.fault(600, 0)
    mapping.fault(700, 1)
    assert mapping.level(700) == 1, "a page table is there already"


@pytest.mark.parametrize(("kind", "pages"), [(Backing.HUGE2M, 512), (Backing.HUGE1G, 262144)])
def test_hugetlb_comes_whole(space: AddressSpace, listener: Listener, kind: Backing, pages: int) -> None:
    mapping = mapped(space, listener, 1 << 30, kind, populated=False)
    assert mapping.level(0) == 1
    mapping.fault(pages - 1, 0)
    assert not mapping.page(0) & WRITABLE, "a read does not make private memory writable"
    mapping.fault(5, 1)
    assert mapping.page(0) & mapping.page(pages - 1) & WRITABLE
    assert mapping.level(0) == (2 if pages == 512 else 3)
    assert pages == mapping.npages or mapping.page(pages) == 0


def test_only_whole_regions_are_huge(space: AddressSpace) -> None:
    mapping = space.map(1024, Backing.THP, offset=0x100000)
    assert [mapping.level(n) for n in (0, 255, 256, 767, 768, 1023)] == [1, 1, 2, 2, 1, 1]


# -- what user space does --------------------------------------------------------------------------------


def test_dontneed_leaves_zeros(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    old = mapping.page(5)
    madvise(space, at(mapping, 5), 0x2000, DONTNEED)
    assert listener.take() == [(5, 7)]
    assert (mapping.page(4) != 0, mapping.page(5), mapping.page(6), mapping.page(7) != 0) == (
        True,
        0,
        0,
        True,
    )
    assert mapping.index_of(old >> 12) is None
    assert mapping.fault(5, 0) == PRESENT | ZERO
    new = mapping.fault(5, 1)
    assert new >> 12 != old >> 12
    assert mapping.index_of(new >> 12) == 5


def test_dontneed_inside_a_huge_page_splits_it(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    madvise(space, at(mapping, 5), 0x1000, DONTNEED)
    assert listener.take() == [(5, 6), (0, 512)]
    assert [mapping.level(n) for n in (5, 100, 512)] == [1, 1, 2]
    assert mapping.page(100) == (mapping.base_pfn + 100) << 12 | PRESENT | WRITABLE
    madvise(space, at(mapping, 512), 2 * MIB, DONTNEED)
    assert listener.take() == [(512, 1024)], "a whole one is not split"


def test_dontneed_of_shared_memory_keeps_its_frames(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.MEMFD)
    old = mapping.page(5)
    madvise(space, at(mapping, 5), 0x1000, DONTNEED)
    assert listener.take() == [(5, 6)]
    assert mapping.page(5) == 0
    assert mapping.fault(5, 0) == old


def test_protection_takes_rights_at_once_and_gives_them_back_lazily(
    space: AddressSpace, listener: Listener
) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    space.mprotect(at(mapping, 5), 0x2000, PROT_READ)
    assert listener.take() == [(0, 512), (5, 7)], "first the VMA is split, and its 2 MiB with it"
    assert (mapping.fast_page(5, 0) != 0, mapping.fast_page(5, 1), mapping.fault(5, 1)) == (True, 0, 0)
    assert mapping.fast_page(7, 1)
    space.mprotect(at(mapping, 5), 0x1000, PROT_NONE)
    assert (mapping.fast_page(5, 0), mapping.fault(5, 0)) == (0, 0)
    assert mapping.fast_page(6, 0)
    listener.take()
    space.mprotect(at(mapping, 4), 0x4000, PROT_RW)
    assert len(mapping.vmas) == 1, "one VMA again"
    assert mapping.fault(5, 1)
    assert not mapping.protected


def test_the_same_protection_tells_nobody(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    space.mprotect(at(mapping, 5), 0x2000, PROT_RW)
    assert listener.take() == []


def test_protecting_a_part_splits_a_huge_page(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    space.mprotect(at(mapping, 5), 0x1000, PROT_READ)
    assert (5, 6) in listener.take()
    assert [mapping.level(n) for n in (5, 512)] == [1, 2]


def test_collapsing_moves_small_pages_into_a_huge_one(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP, populated=False)
    mapping.fault(3, 0)
    for page in (3, 7):
        hpa = mapping.fault(page, 1) >> 12 << 12
        space.arena.store(hpa, 8, page)
    listener.take()
    madvise(space, at(mapping, 0), 2 * MIB, COLLAPSE)
    assert listener.take() == [(0, 512)]
    assert mapping.level(3) == 2
    assert [space.arena.load(mapping.page(n) >> 12 << 12, 8) for n in (3, 5, 7)] == [3, 0, 7]
    first = mapping.page(0) >> 12
    assert first % 512 == 0
    assert [mapping.page(n) >> 12 for n in (1, 511)] == [first + 1, first + 511]


@pytest.mark.parametrize("kind", [Backing.ANON, Backing.HUGE2M])
def test_what_cannot_be_collapsed(space: AddressSpace, listener: Listener, kind: Backing) -> None:
    mapping = mapped(space, listener, 4 * MIB, kind)
    with pytest.raises(HostError) as caught:
        madvise(space, mapping.hva, 2 * MIB, COLLAPSE)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(("advice", "level"), [(HUGEPAGE, 2), (NOHUGEPAGE, 1)])
def test_advice_counts_for_later_faults(
    space: AddressSpace, listener: Listener, advice: int, level: int
) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON, populated=False)
    madvise(space, mapping.hva, 4 * MIB, advice)
    mapping.fault(5, 1)
    assert mapping.level(5) == level


def test_remapping_is_new_memory(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    old = mapping.page(5)
    space.remap(at(mapping, 5), 0x1000)
    assert (5, 6) in listener.take()
    assert mapping.page(5) == 0
    assert mapping.fault(5, 1) >> 12 != old >> 12


def test_the_host_s_own_touch_faults(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON, populated=False)
    assert space.touch(at(mapping, 5) + 7, write=False) == 0
    assert space.touch(at(mapping, 5), write=True) == (mapping.page(5) >> 12) << 12 != 0
    space.mprotect(at(mapping, 5), 0x1000, PROT_READ)
    with pytest.raises(HostError) as caught:
        space.touch(at(mapping, 5), write=True)
    assert caught.value.errno == errno.EFAULT


@pytest.mark.parametrize(
    ("start", "size", "number"),
    [(1, 0x1000, errno.EINVAL), (1023 << 12, 0x2000, errno.ENOMEM), (1024 << 12, 0x1000, errno.EFAULT)],
)
def test_ranges_are_checked(
    space: AddressSpace, listener: Listener, start: int, size: int, number: int
) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    for call in (
        lambda hva: madvise(space, hva, size, DONTNEED),
        lambda hva: madvise(space, hva, size, HUGEPAGE),
        lambda hva: space.mprotect(hva, size, PROT_READ),
        lambda hva: space.remap(hva, size),
    ):
        with pytest.raises(HostError) as caught:
            call(mapping.hva + start)
        assert caught.value.errno == number


def test_ageing_asks_every_notifier_whether_the_range_was_accessed(space, listener):
    mapping = mapped(space, listener, 1 << 20, Backing.ANON)
    assert not space.age(at(mapping, 1), 0x2000, flush=False)
    listener.accessed = True
    space.notifiers.insert(0, Listener())
    assert space.age(at(mapping, 0), 0x1000, flush=True)
    assert listener.calls == [("young", 1, 3), ("flush young", 0, 1)]


def test_ageing_ends_with_the_mapping(space, listener):
    mapping = mapped(space, listener, 1 << 20, Backing.ANON)
    with pytest.raises(HostError):
        space.age(mapping.hva, (1 << 20) + 0x1000, flush=False)
    assert listener.calls == []


# -- what kernels differ in ------------------------------------------------------------------------------


def test_a_kernel_s_switches_reach_the_host() -> None:
    for name in (field.name for field in fields(HostSwitches)):
        assert getattr(HostSwitches(), name) == (switch_named(name).default == "yes")
        for value in ("no", "yes"):
            machine = Machine(design=Design({name: value}))
            assert getattr(machine.host.switches, name) == (value == "yes")


@pytest.mark.parametrize("tables", [False, True])
def test_where_mprotect_begins_to_be_announced(space: AddressSpace, listener: Listener, tables: bool) -> None:
    space.switches.mprotect_announces_tables = tables
    mapping = mapped(space, listener, 8 * MIB, Backing.ANON, populated=False)
    space.mprotect(at(mapping, 0), 8 * MIB, PROT_READ)
    assert listener.take() == [], "there is no page table at all"
    mapping.fault(1100, 0)
    space.mprotect(at(mapping, 3), 8 * MIB - 0x3000, PROT_RW)
    assert listener.take() == [(0, 512), (1024, 2048) if tables else (3, 2048)]
    space.mprotect(at(mapping, 3), 0x1000, PROT_NONE)
    assert listener.take() == ([] if tables else [(3, 4)])


@pytest.mark.parametrize("hides", [False, True])
def test_the_error_of_memory_that_cannot_be_replaced(
    space: AddressSpace, listener: Listener, hides: bool
) -> None:
    space.switches.remap_hides_error = hides
    mapping = mapped(space, listener, 8 * MIB, Backing.HUGE2M)
    with pytest.raises(HostError) as caught:
        space.remap(at(mapping, 512), 0x1000)
    assert caught.value.errno == (errno.ENOMEM if hides else errno.EINVAL)
    assert len(mapping.vmas) == 2, "it is split where it could be"


@pytest.mark.parametrize("next_first", [False, True])
def test_new_memory_between_memory_that_was_touched(
    space: AddressSpace, listener: Listener, next_first: bool
) -> None:
    space.switches.remap_joins_next_first = next_first
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    for page in (10, 12):
        space.remap(at(mapping, page), 0x1000)
        space.touch(at(mapping, page), write=True)
    space.remap(at(mapping, 11), 0x1000)
    listener.take()
    space.mprotect(at(mapping, 10), 0x3000, PROT_READ)
    assert listener.take() == ([(10, 11), (11, 13)] if next_first else [(10, 12), (12, 13)])


@pytest.mark.parametrize("unaccounts", [False, True])
def test_memory_made_read_only_before_and_after_its_first_page(
    space: AddressSpace, listener: Listener, unaccounts: bool
) -> None:
    space.switches.mprotect_unaccounts = unaccounts
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON, populated=False)
    space.remap(at(mapping, 10), 0x2000)
    space.mprotect(at(mapping, 10), 0x1000, PROT_READ)
    space.touch(at(mapping, 11), write=True)
    space.mprotect(at(mapping, 11), 0x1000, PROT_READ)
    first, second = (mapping.vmas.at(page) for page in (10, 11))
    assert first is not second
    assert (first.flags == second.flags) != unaccounts


# -- page tables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Backing.ANON, Backing.MEMFD, Backing.HUGE2M])
def test_new_memory_has_no_page_tables_and_so_may_be_huge(
    space: AddressSpace, listener: Listener, kind: Backing
) -> None:
    mapping = mapped(space, listener, 4 * MIB, kind)
    space.remap(at(mapping, 0), 2 * MIB)
    madvise(space, at(mapping, 0), 4 * MIB, HUGEPAGE)
    mapping.fault(5, 1)
    assert mapping.level(5) == 2
    madvise(space, at(mapping, 0), 2 * MIB, DONTNEED)
    mapping.fault(5, 0)
    assert mapping.index_of(mapping.page(5) >> 12) == 5
    space.remap(at(mapping, 256), 0x1000)
    mapping.fault(5, 1)
    assert mapping.level(5) == 1


def test_memory_that_was_dropped_keeps_its_page_table(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    madvise(space, at(mapping, 0), 4 * MIB, HUGEPAGE)
    madvise(space, at(mapping, 0), 4 * MIB, DONTNEED)
    mapping.fault(5, 1)
    assert mapping.level(5) == 1
