"""VMAs split at the edges of what is changed, and merge where flags and anonymous memory allow it."""

import pytest

from shadowmmu.host.bits import (
    PROT_NONE,
    PROT_READ,
    PROT_RW,
    VM_ACCOUNT,
    VM_HUGETLB,
    VM_NOHUGEPAGE,
    VM_NORESERVE,
    VM_SHARED,
)
from shadowmmu.host.switches import HostSwitches
from shadowmmu.host.vma import Vma, Vmas, protected_flags

OLD, NEW = PROT_RW | VM_NOHUGEPAGE, PROT_RW | VM_ACCOUNT


def ranges(vmas: Vmas) -> list[tuple[int, int]]:
    return [(vma.first, vma.last) for vma in vmas]


def remap(vmas: Vmas, first: int, last: int, *, next_first: bool = False) -> None:
    """What mmap does: split off, replace."""
    for edge in (first, last):
        if edge < 100 and vmas.at(edge).first != edge:
            vmas.split(edge)
    vmas.switches.remap_joins_next_first = next_first
    vmas.replace(first, last, NEW)


def protect(vmas: Vmas, first: int, last: int, flags: int) -> None:
    for edge in (first, last):
        if edge < 100 and vmas.at(edge).first != edge:
            vmas.split(edge)
    vmas.modify(first, last, flags)


@pytest.fixture
def vmas() -> Vmas:
    return Vmas(100, OLD, touched=True, switches=HostSwitches())


def test_parts_that_become_alike_are_one_again(vmas: Vmas) -> None:
    protect(vmas, 10, 20, OLD & ~PROT_RW)
    assert ranges(vmas) == [(0, 10), (10, 20), (20, 100)]
    assert vmas.restricted == 1
    protect(vmas, 10, 20, OLD)
    assert ranges(vmas) == [(0, 100)]
    assert vmas.restricted == 0


def test_a_part_joins_the_neighbour_it_is_like(vmas: Vmas) -> None:
    protect(vmas, 10, 20, PROT_READ | VM_NOHUGEPAGE)
    protect(vmas, 20, 30, PROT_READ | VM_NOHUGEPAGE)
    protect(vmas, 5, 10, PROT_READ | VM_NOHUGEPAGE)
    assert ranges(vmas) == [(0, 5), (5, 30), (30, 100)]
    protect(vmas, 5, 7, OLD)
    assert ranges(vmas) == [(0, 7), (7, 30), (30, 100)]


def test_new_memory_joins_new_memory_whether_that_was_touched_or_not(vmas: Vmas) -> None:
    remap(vmas, 0, 1)
    remap(vmas, 1, 2)
    vmas.prepare_anon(0)
    remap(vmas, 2, 3)
    assert ranges(vmas) == [(0, 3), (3, 100)]
    assert vmas.at(2).anon_vma is vmas.at(0).anon_vma is not None


@pytest.mark.parametrize("next_first", [False, True])
def test_memory_that_was_touched_apart_stays_apart(vmas: Vmas, next_first: bool) -> None:
    for page in (10, 12):
        remap(vmas, page, page + 1)
        vmas.prepare_anon(page)
    remap(vmas, 11, 12, next_first=next_first)
    assert ranges(vmas)[1:-1] == ([(10, 11), (11, 13)] if next_first else [(10, 12), (12, 13)])


def test_what_is_between_makes_one_of_neighbours_of_which_one_was_never_touched(vmas: Vmas) -> None:
    remap(vmas, 10, 11)
    remap(vmas, 12, 13)
    vmas.prepare_anon(12)
    remap(vmas, 11, 12)
    assert ranges(vmas)[1:-1] == [(10, 13)]
    assert vmas.at(10).anon_vma is not None


@pytest.mark.parametrize("hands_on", [False, True])
def test_touched_memory_joins_memory_that_was_not_if_that_takes_its_anon_vma(
    vmas: Vmas, hands_on: bool
) -> None:
    vmas.switches.vma_hands_anon_vma_on = hands_on
    remap(vmas, 10, 20)
    protect(vmas, 10, 11, NEW & ~PROT_RW)
    vmas.prepare_anon(15)
    protect(vmas, 11, 20, NEW & ~PROT_RW)
    if hands_on:
        assert ranges(vmas)[1:-1] == [(10, 20)]
        assert vmas.at(10).anon_vma is not None
        return
    assert ranges(vmas)[1:-1] == [(10, 11), (11, 20)]
    protect(vmas, 10, 11, NEW)
    protect(vmas, 11, 20, NEW)
    assert ranges(vmas)[1:-1] == [(10, 11), (11, 20)], "the next is asked only for what it has itself"


def test_the_first_page_shares_the_anon_vma_of_a_neighbour_but_for_access(vmas: Vmas) -> None:
    remap(vmas, 10, 20)
    protect(vmas, 14, 16, NEW & ~PROT_RW | PROT_READ)
    vmas.prepare_anon(17)
    vmas.prepare_anon(15)
    vmas.prepare_anon(12)
    assert vmas.at(17).anon_vma is vmas.at(15).anon_vma is vmas.at(12).anon_vma is not None
    assert vmas.at(12).anon_vma is not vmas.at(5).anon_vma
    protect(vmas, 14, 16, NEW)
    assert ranges(vmas)[1:-1] == [(10, 20)]


def test_hugetlbfs_never_merges() -> None:
    vmas = Vmas(100, PROT_RW | VM_HUGETLB, touched=True, switches=HostSwitches())
    protect(vmas, 10, 20, VM_HUGETLB)
    protect(vmas, 10, 20, PROT_RW | VM_HUGETLB)
    assert len(vmas) == 3


def test_pieces_are_clipped_and_in_order(vmas: Vmas) -> None:
    for first in range(10, 50, 2):
        protect(vmas, first, first + 1, PROT_READ)
    assert len(vmas) == 41
    assert [piece[:2] for piece in vmas.pieces(11, 15)] == [(11, 12), (12, 13), (13, 14), (14, 15)]
    assert vmas.pieces(0, 5)[0][:2] == (0, 5)
    assert vmas.restricted == 20


@pytest.mark.parametrize(
    ("flags", "touched", "prot", "unaccounts", "expected"),
    [
        (VM_ACCOUNT | PROT_RW, False, PROT_READ, True, PROT_READ),
        (VM_ACCOUNT | PROT_RW, False, PROT_READ, False, PROT_READ | VM_ACCOUNT),
        (VM_ACCOUNT | PROT_RW, True, PROT_NONE, True, PROT_NONE | VM_ACCOUNT),
        (PROT_READ, False, PROT_RW, True, PROT_RW | VM_ACCOUNT),
        (PROT_READ | VM_NORESERVE, False, PROT_RW, True, PROT_RW | VM_NORESERVE),
        (PROT_READ | VM_SHARED, False, PROT_RW, True, PROT_RW | VM_SHARED),
        (PROT_READ | VM_HUGETLB, False, PROT_RW, True, PROT_RW | VM_HUGETLB),
    ],
)
def test_protection_accounts(flags: int, touched: bool, prot: int, unaccounts: bool, expected: int) -> None:
    vma = Vma(0, 1, flags, object() if touched else None)
    assert protected_flags(vma, prot, unaccounts=unaccounts) == expected
