"""What the multi-generational LRU asks secondary MMUs about, and in which order."""

import pytest
from host.listener import MIB, Listener, at, mapped

from shadowmmu.host.address_space import AddressSpace
from shadowmmu.host.backing import Backing
from shadowmmu.host.bits import PROT_NONE, PROT_READ
from shadowmmu.host.lru_gen import lru_gen_age
from shadowmmu.host.mapping import Mapping

TABLE = [(page, page + 1) for page in range(512, 1024)]
HUGE = [(first, first + 512) for first in range(0, 2048, 512)]


def asked(space: AddressSpace, listener: Listener) -> list[tuple[int, int]]:
    """Ranges of pages that one walk asks about."""
    listener.calls.clear()
    lru_gen_age(space)
    return [call[1:] for call in listener.calls if call[0] == "young"]


@pytest.fixture
def mapping(space: AddressSpace, listener: Listener) -> Mapping:
    return mapped(space, listener, 8 * MIB, Backing.THP)


def test_memory_that_nobody_may_access_is_skipped(
    space: AddressSpace, listener: Listener, mapping: Mapping
) -> None:
    space.mprotect(at(mapping, 0), 4 * MIB, PROT_NONE)
    assert asked(space, listener) == HUGE[2:]


def test_huge_pages_come_after_the_page_tables_of_their_vma(
    space: AddressSpace, listener: Listener, mapping: Mapping
) -> None:
    space.madvise_dontneed(at(mapping, 512), 4096)
    space.mprotect(at(mapping, 1536), 2 * MIB, PROT_READ)
    assert asked(space, listener) == [*TABLE[1:], HUGE[0], HUGE[2], HUGE[3]]


@pytest.mark.parametrize("edges", [[600], [600, 700]])
def test_a_page_table_is_walked_to_its_end_through_the_next_vmas(
    space: AddressSpace, listener: Listener, mapping: Mapping, edges: list[int]
) -> None:
    """Only then the huge pages of the first VMA."""
    for edge, end in zip(edges, [*edges[1:], 2048], strict=True):
        space.mprotect(at(mapping, edge), (end - edge) << 12, PROT_READ if edge == edges[0] else PROT_NONE)
    last = [(page, page + 1) for page in range(512, 1024 if len(edges) == 1 else 700)]
    rest = HUGE[2:] if len(edges) == 1 else []
    assert asked(space, listener) == [*last, HUGE[0], *rest]


def test_65_huge_pages_are_a_batch(space: AddressSpace, listener: Listener) -> None:
    mapping = mapped(space, listener, 136 * MIB, Backing.THP)
    space.madvise_dontneed(at(mapping, 67 * 512), 2 * MIB - 4096)
    huge = [(512 * region, 512 * region + 512) for region in range(67)]
    assert asked(space, listener) == [*huge[:65], (68 * 512 - 1, 68 * 512), *huge[65:]]
