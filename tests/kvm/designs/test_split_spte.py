"""Mail 002, patch 2: an SPTE in two words, and what a reader without mmu_lock may see of it.

The interleavings of the mail's thread by hand, and then all that there are.
"""

from collections.abc import Iterator
from itertools import combinations_with_replacement

import pytest
from kvm.world import World

from shadowmmu.kvm.bits import SPTE_MMU_PRESENT
from shadowmmu.kvm.spte.split_spte import LocklessRead, SpteWrite

OLD, NEW = 0xA11110801, 0xB11110801
"""The mail's SPTEs, with bit 11, by which KVM knows today that one maps something: the same low half."""
LOW = 0x11110801


class Table:
    """SPTE 7 of a shadow page of a 32-bit host; it holds OLD."""

    def __init__(self, *, host_word: str = "32", count: str = "yes") -> None:
        design = {"host_word": host_word, "clear_spte_count": count, "empty_spte": "0"}
        self.world = World("long4", "map 0x1000 0x400000 0x800000 0x67", design=design)
        self.world.ok("read 0x400000")
        self.kvm = self.world.kvm
        self.sp = self.world.page(4, 1)
        self.sptep = self.sp.hpa + 8 * 7
        self.write(OLD)
        self.sp.clear_spte_count = 0

    def write(self, value: int, *, fetch: bool = False) -> SpteWrite:
        """All of a write, with nobody in between."""
        write = SpteWrite(self.kvm, self.sptep, value, fetch=fetch)
        while write.step():
            pass
        return write

    def spte(self) -> int:
        return self.kvm.read_spte(self.sptep)


# -- one after the other ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["yes", "no"])
@pytest.mark.parametrize("host_word", ["32", "64"])
@pytest.mark.parametrize("fetch", [False, True])
def test_with_nobody_in_between_there_is_no_difference(host_word: str, count: str, fetch: bool) -> None:
    table = Table(host_word=host_word, count=count)
    for value in (OLD & ~2, 0, NEW, 0, 0, OLD):
        before = table.spte()
        write = table.write(value, fetch=fetch)
        assert write.old == before
        assert table.spte() == value
        read = LocklessRead(table.kvm, table.sptep)
        while read.step():
            pass
        assert (read.value, read.retries) == (value, 0)


@pytest.mark.parametrize(
    ("new", "fetch", "accesses"),
    [
        (0, False, ("low", "high", "count")),
        (0, True, ("exchange low", "load high", "high", "count")),
        (OLD & ~2, False, ("low", "high")),
        (OLD & ~2, True, ("exchange low", "load high", "high")),
    ],
)
def test_the_stores_of_a_present_spte(new: int, fetch: bool, accesses: tuple[str, ...]) -> None:
    """The half with the present bit goes first; only an SPTE that goes is counted, after that."""
    table = Table()
    assert SpteWrite(table.kvm, table.sptep, new, fetch=fetch).accesses == accesses
    table = Table(count="no")
    assert "count" not in SpteWrite(table.kvm, table.sptep, new, fetch=fetch).accesses
    table = Table(host_word="64")
    assert SpteWrite(table.kvm, table.sptep, new, fetch=fetch).accesses == ("both",)


def test_an_empty_spte_gets_the_present_bit_last() -> None:
    table = Table()
    table.write(0)
    write = SpteWrite(table.kvm, table.sptep, NEW)
    assert write.accesses == ("high", "low")
    assert write.step()
    assert table.spte() == 0xB00000000, "not present yet"
    assert not write.step()
    assert table.spte() == NEW


def test_the_exchange_keeps_what_the_processor_sets() -> None:
    """Accessed or Dirty, set after the writer looked, are in what it gets back."""
    table = Table()
    write = SpteWrite(table.kvm, table.sptep, 0, fetch=True)
    table.kvm.arena.store(table.sptep, 8, OLD | 0x60)
    while write.step():
        pass
    assert write.old == OLD | 0x60


@pytest.mark.parametrize(
    ("host_word", "count", "counted"), [("32", "yes", 2), ("32", "no", 0), ("64", "yes", 0)]
)
def test_the_mmu_counts_what_pages_lose(host_word: str, count: str, counted: int) -> None:
    """Two translations go when the guest flushes after it emptied them."""
    world = World(
        "long4",
        "map 0x1000 0x400000 0x800000 0x67 n=4",
        "map 0x1000 0x7f0000000000 0x4000 0x67",
        design={"host_word": host_word, "clear_spte_count": count},
    )
    world.ok("read 0x400000", "write 0x7f0000000000 0", "write 0x7f0000000008 0")
    before = world.page(4, 1).clear_spte_count
    world.ok("cr3 0x1000")
    assert world.page(4, 1).clear_spte_count - before == counted
    assert not world.is_mapped(0x400000)


# -- the mail's interleavings ----------------------------------------------------------------------------


def test_harmless_the_high_half_of_an_spte_that_is_gone() -> None:
    """Paolo Bonzini's question: the reader sees the new low and the old high half, and both checks pass.

    But the low half says that nothing is mapped, so nobody looks at the high one.
    """
    table = Table()
    clear, read = SpteWrite(table.kvm, table.sptep, 0), LocklessRead(table.kvm, table.sptep)
    assert clear.step(), "write low"
    assert [read.step() for _ in ("count", "low", "high")] == [True] * 3
    assert clear.step(), "write high"
    assert read.step(), "check low"
    assert not read.step(), "check count"
    assert not clear.step(), "update count"
    assert read.value == 0xA00000000
    assert not read.value & SPTE_MMU_PRESENT
    assert read.retries == 0


def reused_between_the_loads(count: str) -> LocklessRead:
    """Xiao Guangrong's answer: the SPTE is emptied and set to one of the same low half meanwhile."""
    table = Table(count=count)
    read = LocklessRead(table.kvm, table.sptep)
    while read.next != "high":
        read.step()
    table.write(0)
    read.step()
    table.write(NEW)
    while read.step():
        pass
    return read


def test_harmful_the_halves_of_two_sptes() -> None:
    read = reused_between_the_loads("no")
    assert read.value == LOW, "a page that neither SPTE maps"
    assert read.value & SPTE_MMU_PRESENT
    assert read.retries == 0


def test_the_count_makes_the_reader_look_again() -> None:
    read = reused_between_the_loads("yes")
    assert (read.value, read.retries) == (NEW, 1)


def test_the_count_is_the_page_s() -> None:
    """Another SPTE of the page that goes makes the reader look again, too."""
    table = Table()
    read = LocklessRead(table.kvm, table.sptep)
    while read.next != "count again":
        read.step()
    other = SpteWrite(table.kvm, table.sp.hpa, 0)
    while other.step():
        pass
    while read.step():
        pass
    assert (read.value, read.retries) == (OLD, 1)


# -- all interleavings -----------------------------------------------------------------------------------


def values_read(table: Table, *, fetch: bool) -> set[int]:
    """What a reader may get while another vCPU empties the SPTE and sets it to NEW, over all orders of steps.

    A schedule says after how many of the writer's steps each of the reader's first loads is made; the loads
    of later tries come when the writer is done.
    """
    writer_steps, loads = (7, 5) if table.kvm.design.host_word == 32 else (2, 1)
    found = set()
    for schedule in combinations_with_replacement(range(writer_steps + 1), loads):
        table.write(OLD)
        read, done = LocklessRead(table.kvm, table.sptep), 0
        writer = steps(table, 0, NEW, fetch=fetch)
        for due in schedule:
            while done < due:
                next(writer, None)
                done += 1
            if not read.step():
                break
        for _ in writer:
            pass
        while read.next and read.step():
            pass
        found.add(read.value)
    return found


def steps(table: Table, *values: int, fetch: bool) -> Iterator[None]:
    """Writes one after the other; a step each time."""
    for value in values:
        write = SpteWrite(table.kvm, table.sptep, value, fetch=fetch)
        more = True
        while more:
            more = write.step()
            yield


@pytest.mark.parametrize("fetch", [False, True])
@pytest.mark.parametrize(
    ("host_word", "count", "torn"),
    [("64", "yes", set()), ("32", "yes", set()), ("32", "no", {LOW})],
)
def test_every_interleaving(host_word: str, count: str, torn: set[int], fetch: bool) -> None:
    """A present SPTE that a reader gets is the old or the new one; without the count it may be neither."""
    read = values_read(Table(host_word=host_word, count=count), fetch=fetch)
    assert {value for value in read if value & SPTE_MMU_PRESENT} == {OLD, NEW} | torn
    assert 0 in read
    others = {value for value in read if value and not value & SPTE_MMU_PRESENT}
    assert others <= {OLD & ~0xFFFFFFFF, NEW & ~0xFFFFFFFF}
    assert bool(others) == (host_word == "32")
