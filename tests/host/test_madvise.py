"""Every kind of madvise(): what it does to pages and VMAs, what is announced, what is refused."""

import errno

import pytest
from host.listener import MIB, Listener, at, mapped

from shadowmmu.host.address_space import AddressSpace
from shadowmmu.host.backing import Backing, HostError
from shadowmmu.host.bits import PROT_NONE, PROT_READ, PROT_RW
from shadowmmu.host.madvise import NotModelled, madvise
from shadowmmu.host.mapping import Mapping

NORMAL, RANDOM, WILLNEED, DONTNEED, FREE, REMOVE, DONTFORK, MERGEABLE = 0, 1, 3, 4, 8, 9, 10, 12
DOFORK = 11
HUGEPAGE, NOHUGEPAGE, WIPEONFORK, COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE = 14, 15, 18, 20, 21, 22, 23
DONTNEED_LOCKED, COLLAPSE, HWPOISON = 24, 25, 100
ZERO_PAGE = 2 | 8
REGION = (0, 512)


def advise(space: AddressSpace, mapping: Mapping, first: int, npages: int, advice: int) -> None:
    madvise(space, at(mapping, first), npages << 12, advice)


def errno_of(space: AddressSpace, mapping: Mapping, first: int, npages: int, advice: int) -> int | None:
    try:
        advise(space, mapping, first, npages, advice)
    except HostError as error:
        return error.errno
    return 0


def put(space: AddressSpace, mapping: Mapping, page: int, value: int) -> None:
    space.arena.store(space.touch(at(mapping, page), write=True), 8, value)


def get(space: AddressSpace, mapping: Mapping, page: int) -> int:
    return space.arena.load(space.touch(at(mapping, page), write=False), 8)


# -- what there is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("advice", [-1, 5, 6, 7, 26, 99, 102, 103, 1 << 16])
def test_there_is_no_such_advice(space: AddressSpace, listener: Listener, advice: int) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    assert errno_of(space, mapping, 0, 1, advice) == errno.EINVAL


@pytest.mark.parametrize("advice", [HWPOISON, 101])
def test_memory_errors_are_not_modelled(space: AddressSpace, listener: Listener, advice: int) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    with pytest.raises(NotModelled):
        advise(space, mapping, 0, 1, advice)


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        (Backing.ANON, {REMOVE: errno.EINVAL, COLLAPSE: errno.EINVAL}),
        (Backing.MEMFD, {FREE: errno.EINVAL, WIPEONFORK: errno.EINVAL, COLLAPSE: errno.EINVAL}),
        (
            Backing.HUGE2M,
            {
                FREE: errno.EINVAL,
                REMOVE: errno.EACCES,
                WIPEONFORK: errno.EINVAL,
                COLD: errno.EINVAL,
                PAGEOUT: errno.EINVAL,
                COLLAPSE: errno.EINVAL,
            },
        ),
    ],
)
def test_what_memory_takes_no_advice(
    space: AddressSpace, listener: Listener, kind: Backing, refused: dict[int, int]
) -> None:
    for advice in (*range(5), *range(8, 26)):
        mapping = mapped(space, listener, 2 * MIB, kind)
        assert errno_of(space, mapping, 0, 512, advice) == refused.get(advice, 0), advice


@pytest.mark.parametrize("advice", [RANDOM, 2, DONTFORK, MERGEABLE, HUGEPAGE, 16, WIPEONFORK])
def test_advice_that_is_remembered_splits_the_vma(
    space: AddressSpace, listener: Listener, advice: int
) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    advise(space, mapping, 5, 2, advice)
    assert listener.take() == [REGION]
    assert len(mapping.vmas) == 3
    advise(space, mapping, 5, 2, advice)
    assert listener.take() == []
    undo = {RANDOM: NORMAL, 2: NORMAL, HUGEPAGE: NOHUGEPAGE}.get(advice, advice + 1)
    advise(space, mapping, 0, 1024, undo)
    assert len(mapping.vmas) == 1
    assert listener.take() == []


@pytest.mark.parametrize("advice", [NORMAL, WILLNEED, 11, 13, NOHUGEPAGE, 17, 19, COLD])
def test_advice_that_changes_nothing(space: AddressSpace, listener: Listener, advice: int) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    advise(space, mapping, 5, 2, advice)
    assert (len(mapping.vmas), listener.take()) == (1, [])


def test_a_part_of_a_hugetlbfs_page_takes_no_advice_of_its_own(
    space: AddressSpace, listener: Listener
) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.HUGE2M)
    assert errno_of(space, mapping, 0, 1, DONTFORK) == errno.EINVAL
    assert errno_of(space, mapping, 1, 1, DONTNEED_LOCKED) == errno.EINVAL
    assert errno_of(space, mapping, 0, 1, DONTNEED_LOCKED) == 0
    assert listener.take() == []


# -- pages ------------------------------------------------------------------------------------------------


def test_removed_shared_memory_is_zeros(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.MEMFD)
    for page in (4, 5, 6):
        put(space, mapping, page, page)
    space.mprotect(at(mapping, 5), 0x1000, PROT_READ)
    listener.take()
    advise(space, mapping, 5, 1, REMOVE)
    assert listener.take() == [(5, 6)]
    assert [get(space, mapping, page) for page in (4, 5, 6)] == [4, 0, 6]


def test_removal_ends_where_memory_is_no_longer_shared(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.MEMFD)
    for page in range(4):
        put(space, mapping, page, page + 1)
    space.remap(at(mapping, 1), 0x1000)
    assert errno_of(space, mapping, 0, 4, REMOVE) == errno.EINVAL
    assert [get(space, mapping, page) for page in range(4)] == [0, 0, 3, 4]


def test_populating_faults_in(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON, populated=False)
    advise(space, mapping, 0, 2, POPULATE_READ)
    assert [mapping.page(page) for page in range(3)] == [ZERO_PAGE, ZERO_PAGE, 0]
    advise(space, mapping, 1, 2, POPULATE_WRITE)
    assert listener.take() == [(1, 2)]
    assert all(mapping.page(page) >> 12 for page in (1, 2))


@pytest.mark.parametrize(
    ("prot", "advice", "allowed"),
    [(PROT_NONE, POPULATE_READ, False), (PROT_READ, POPULATE_READ, True), (PROT_READ, POPULATE_WRITE, False)],
)
def test_populating_needs_the_right(
    space: AddressSpace, listener: Listener, prot: int, advice: int, allowed: bool
) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON, populated=False)
    space.mprotect(at(mapping, 2), 0x1000, prot)
    assert errno_of(space, mapping, 1, 2, advice) == (0 if allowed else errno.EINVAL)
    assert mapping.page(1), "the VMA before it has been populated"


def test_memory_freed_lazily_is_lost_unless_it_is_written(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    for page in range(4):
        put(space, mapping, page, page + 1)
    advise(space, mapping, 0, 3, FREE)
    assert listener.take() == [(0, 3)]
    assert [get(space, mapping, page) for page in range(4)] == [1, 2, 3, 4]
    put(space, mapping, 1, 22)
    mapping.written(2)
    advise(space, mapping, 0, 4, PAGEOUT)
    assert listener.take() == [(0, 1), (1, 2), (2, 3)]
    assert [get(space, mapping, page) for page in range(4)] == [0, 22, 3, 4]
    advise(space, mapping, 0, 4, PAGEOUT)
    assert listener.take() == [], "without swap there is nothing to do"


def test_shared_memory_is_paged_out_to_the_page_cache(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.MEMFD)
    put(space, mapping, 5, 7)
    advise(space, mapping, 5, 2, PAGEOUT)
    assert listener.take() == [(5, 6), (6, 7)]
    assert mapping.page(5) == 0
    assert get(space, mapping, 5) == 7


def test_reclaim_by_age_is_not_modelled(space: AddressSpace, listener: Listener) -> None:
    space.switches.reclaim_asks_age = True
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    with pytest.raises(NotModelled):
        advise(space, mapping, 0, 1, PAGEOUT)


@pytest.mark.parametrize("advice", [FREE, COLD, PAGEOUT])
@pytest.mark.parametrize("zero_page", [False, True])
def test_advice_for_a_part_of_a_huge_page_splits_it(
    space: AddressSpace, listener: Listener, advice: int, zero_page: bool
) -> None:
    space.switches.split_maps_zero_page = zero_page
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    put(space, mapping, 3, 7)
    advise(space, mapping, 3, 2, advice)
    assert listener.take() == [(3, 5)] * (advice == FREE) + [REGION, REGION]
    assert mapping.level(3) == 1
    assert get(space, mapping, 3) == 7
    assert (mapping.page(4) == ZERO_PAGE) == zero_page


@pytest.mark.parametrize("advice", [FREE, COLD, PAGEOUT])
def test_advice_for_a_whole_huge_page(space: AddressSpace, listener: Listener, advice: int) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    advise(space, mapping, 0, 512, advice)
    assert listener.take() == {FREE: [REGION], COLD: [], PAGEOUT: [REGION, REGION]}[advice]
    assert mapping.level(0) == (1 if advice == PAGEOUT else 2)


@pytest.mark.parametrize("advice", [FREE, COLD, PAGEOUT])
def test_the_huge_page_of_zeros_stays_whole(space: AddressSpace, listener: Listener, advice: int) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP, populated=False)
    mapping.fault(5, 0)
    advise(space, mapping, 3, 2, advice)
    assert listener.take() == [(3, 5)] * (advice == FREE)
    assert mapping.level(3) == 2


def test_a_huge_page_mapped_in_parts_is_still_one(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    advise(space, mapping, 5, 1, DONTNEED)
    listener.take()
    advise(space, mapping, 7, 1, COLD)
    assert listener.take() == [REGION, REGION]
    advise(space, mapping, 7, 1, COLD)
    assert listener.take() == [], "now it is split"


def test_only_vmas_up_to_the_last_mapped_part_take_part_in_a_split(
    space: AddressSpace, listener: Listener
) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    space.mprotect(at(mapping, 256), 2 * MIB, PROT_READ)
    listener.take()
    advise(space, mapping, 7, 1, COLD)
    assert listener.take() == [REGION, (0, 256), REGION, (256, 512)]
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    space.mprotect(at(mapping, 256), 2 * MIB, PROT_READ)
    advise(space, mapping, 256, 256, DONTNEED)
    listener.take()
    advise(space, mapping, 7, 1, COLD)
    assert listener.take() == [REGION, (0, 256)]


def test_lazily_freed_huge_pages_cannot_be_paged_out_here(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    advise(space, mapping, 0, 512, FREE)
    with pytest.raises(NotModelled):
        advise(space, mapping, 0, 1, PAGEOUT)


# -- collapsing -------------------------------------------------------------------------------------------


def test_a_vma_smaller_than_a_huge_page_cannot_be_collapsed(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    space.remap(at(mapping, 512), 0x1000)
    mapping.fault(512, 1)
    assert errno_of(space, mapping, 512, 512, COLLAPSE) == errno.EINVAL
    assert errno_of(space, mapping, 513, 511, COLLAPSE) == errno.EINVAL
    assert errno_of(space, mapping, 0, 1, COLLAPSE) == 0, "no whole region is in the range"
    assert errno_of(space, mapping, 1, 1, COLLAPSE) == errno.EINVAL


def test_memory_that_was_never_touched_cannot_be_collapsed(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.THP, populated=False)
    assert errno_of(space, mapping, 0, 1, COLLAPSE) == errno.EINVAL
    mapping.fault(600, 1)
    assert errno_of(space, mapping, 0, 1, COLLAPSE) == 0
    assert errno_of(space, mapping, 0, 512, COLLAPSE) == errno.EINVAL, "nothing is there"


def test_read_only_memory_cannot_be_collapsed(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.ANON)
    advise(space, mapping, 0, 1024, HUGEPAGE)
    space.mprotect(at(mapping, 0), 2 * MIB, PROT_READ)
    assert errno_of(space, mapping, 0, 1024, COLLAPSE) == errno.EINVAL
    assert mapping.level(0) == 1
    space.mprotect(at(mapping, 0), 2 * MIB, PROT_RW)
    assert errno_of(space, mapping, 0, 1024, COLLAPSE) == 0
    assert mapping.level(0) == mapping.level(512) == 2


def test_shared_memory_is_not_collapsed_here(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 4 * MIB, Backing.MEMFD)
    assert errno_of(space, mapping, 0, 512, COLLAPSE) == errno.EINVAL
    advise(space, mapping, 0, 1024, HUGEPAGE)
    with pytest.raises(NotModelled):
        advise(space, mapping, 0, 512, COLLAPSE)


# -- what kernels differ in --------------------------------------------------------------------------------


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("advice", [FREE, COLD, PAGEOUT])
def test_a_huge_page_that_is_split_is_announced_once_or_twice(
    space: AddressSpace, listener: Listener, advice: int, twice: bool
) -> None:
    space.switches.split_announces_twice = twice
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    advise(space, mapping, 3, 1, advice)
    assert listener.take() == [(3, 4)] * (advice == FREE) + [REGION] * (1 + twice)


@pytest.mark.parametrize("needed", [False, True])
def test_pages_that_cannot_be_written_are_collapsed_or_not(
    space: AddressSpace, listener: Listener, needed: bool
) -> None:
    space.switches.collapse_needs_writable = needed
    mapping = mapped(space, listener, 4 * MIB, Backing.THP, populated=False)
    put(space, mapping, 600, 1)
    mapping.fault(0, 0)
    advise(space, mapping, 1, 1, DONTNEED)
    assert errno_of(space, mapping, 0, 512, COLLAPSE) == (errno.EINVAL if needed else 0)
    assert mapping.level(0) == (1 if needed else 2)
    assert get(space, mapping, 0) == 0


@pytest.mark.parametrize("refused", [False, True])
def test_a_part_of_a_huge_page_is_collapsed_to_no_effect_or_not(
    space: AddressSpace, listener: Listener, refused: bool
) -> None:
    space.switches.collapse_refuses_parts = refused
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    assert errno_of(space, mapping, 0, 1, COLLAPSE) == 0
    assert errno_of(space, mapping, 1, 1, COLLAPSE) == (errno.EINVAL if refused else 0)
    assert listener.take() == []


@pytest.mark.parametrize("refused", [False, True])
def test_hugetlb_memory_can_be_forked_again_or_not(
    space: AddressSpace, listener: Listener, refused: bool
) -> None:
    space.switches.dofork_refuses_hugetlb = refused
    mapping = mapped(space, listener, 4 * MIB, Backing.HUGE2M)
    advise(space, mapping, 0, 512, DONTFORK)
    assert errno_of(space, mapping, 0, 512, DOFORK) == (errno.EINVAL if refused else 0)


@pytest.mark.parametrize("huge", [False, True])
def test_a_write_to_the_huge_page_of_zeros(space: AddressSpace, listener: Listener, huge: bool) -> None:
    space.switches.huge_zeros_become_huge = huge
    mapping = mapped(space, listener, 4 * MIB, Backing.THP, populated=False)
    mapping.fault(0, 0)
    put(space, mapping, 5, 7)
    assert listener.take() == [REGION] + ([] if huge else [(5, 6)])
    assert (mapping.level(5), mapping.level(6)) == ((2, 2) if huge else (1, 1))
    assert [get(space, mapping, page) for page in (4, 5, 6)] == [0, 7, 0]
    assert not space.is_zeros(mapping.page(5) >> 12)


@pytest.mark.parametrize("frees", [False, True])
def test_two_megabytes_that_were_dropped_may_be_huge_again(
    space: AddressSpace, listener: Listener, frees: bool
) -> None:
    space.switches.dontneed_frees_tables = frees
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    advise(space, mapping, 5, 1, DONTNEED)
    advise(space, mapping, 0, 511, DONTNEED)
    put(space, mapping, 0, 1)
    assert mapping.level(0) == 1, "not all of the page table was covered"
    advise(space, mapping, 0, 512, DONTNEED)
    put(space, mapping, 0, 1)
    assert mapping.level(0) == (2 if frees else 1)


@pytest.mark.parametrize("twice", [False, True])
def test_a_huge_page_that_several_vmas_map_is_announced_by_each(
    space: AddressSpace, listener: Listener, twice: bool
) -> None:
    space.switches.split_announces_twice = twice
    mapping = mapped(space, listener, 4 * MIB, Backing.THP)
    space.mprotect(at(mapping, 100), 0x1000, PROT_READ)
    listener.take()
    advise(space, mapping, 3, 1, COLD)
    parts = [(0, 100), (100, 101), (101, 512)]
    assert listener.take() == [span for part in parts for span in ([REGION] * twice + [part])]
