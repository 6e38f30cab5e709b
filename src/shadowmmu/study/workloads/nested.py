"""A guest that is a hypervisor, L1: what its own guest, L2, and its nested tables come to."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from ...guest.workload.stream import STORE8
from ...guest.workload.stream_cpu import Stream
from ...vm.slots import Backing, Slot
from ...x86.bits import A, D, P, U, W
from ..configuration import Guest
from ..workload import workload

__all__: list[str] = []

PAGE, HUGE, GIANT, PAGES_PER_HUGE = 4096, 1 << 21, 1 << 30, 512
FIRST, ALIAS = 1 << 30, 2 << 30
"""L2's addresses of the huge pages, and their second addresses."""
MEMORY = 1 << 44
"""L1's address of the huge pages."""
READ, WRITE = 0, 1


def _huge_memory(guest: Guest, pages: int) -> Slot:
    """Give L1 memory in 2 MiB pages of the host's, which L2 has at FIRST and at ALIAS in such pages."""
    slot = guest.vm.add_slot(MEMORY, pages * HUGE, id=1, backing=Backing.HUGE2M)
    for at in (FIRST, ALIAS):
        guest.vm.nested.map(at, MEMORY, pages * HUGE, page_size="2M")
    return slot


def _giant_memory(guest: Guest) -> Slot:
    """Do the same with one page of 1 GiB."""
    slot = guest.vm.add_slot(MEMORY, GIANT, id=1, backing=Backing.HUGE1G)
    for at in (FIRST, ALIAS):
        guest.vm.nested.map(at, MEMORY, GIANT, page_size="1G")
    return slot


def _run_l2(guest: Guest, kinds: array[int] | int, gpas: Iterable[int]) -> None:
    """Let L2 make accesses (0 read, 1 write) at its own addresses; L1 does not run meanwhile."""
    addresses = array("Q", gpas)
    l2 = guest.vm.vcpus[0].l2
    if not addresses:
        return
    if not l2.running:
        l2.read(addresses[0])
    stream = Stream()
    stream.accesses(kinds, addresses)
    guest.cpus[0].run(stream)


def _huge_gpas(pages: int) -> range:
    return range(FIRST, FIRST + pages * HUGE, HUGE)


@workload(
    "nested-split",
    nested=True,
    pages="pages of 2 MiB that L2 has written",
    aliased="percent of them of which L2 used a small part at a second address, when logging was on",
    giant="1 if they are parts of one page of 1 GiB, which is split before",
)
def nested_split(guest: Guest, pages: int = 256, aliased: int = 30, giant: int = 0) -> Iterator[None]:
    """Huge pages of L2 are split when the host clears the dirty log, some into tables that exist already."""
    slot = _giant_memory(guest) if giant else _huge_memory(guest, pages)
    pages = min(pages, slot.size // HUGE)
    guest.vm.manual_dirty_log(initially_set=True)
    _run_l2(guest, WRITE, _huge_gpas(pages))
    with guest.host:
        slot.dirty_log = True
    shared = sorted(guest.rng.sample(range(pages), pages * min(aliased, 100) // 100))
    _run_l2(guest, READ, (ALIAS + page * HUGE for page in shared))
    yield
    with guest.host:
        slot.clear_dirty_log(range(pages * PAGES_PER_HUGE))
    _run_l2(guest, READ, _huge_gpas(pages))


@workload("nested-log-on", nested=True, pages="pages of 2 MiB that L2 has written")
def nested_log_on(guest: Guest, pages: int = 64) -> Iterator[None]:
    """The host switches dirty logging on for the huge pages of L2, and L2 reads one word of each."""
    slot = _huge_memory(guest, pages)
    _run_l2(guest, WRITE, _huge_gpas(pages))
    yield
    with guest.host:
        slot.dirty_log = True
    _run_l2(guest, READ, _huge_gpas(pages))


@workload(
    "nested-log-writes",
    nested=True,
    pages="pages of 2 MiB of L2's memory",
    written="percent of their 4 KiB pages that L2 writes; it reads the others",
)
def nested_log_writes(guest: Guest, pages: int = 64, written: int = 50) -> Iterator[None]:
    """Dirty logging is on, and L2 goes over its memory once: it writes some pages and reads the others."""
    slot = _huge_memory(guest, pages)
    _run_l2(guest, WRITE, _huge_gpas(pages))
    with guest.host:
        slot.dirty_log = True
    small = pages * PAGES_PER_HUGE
    chosen = set(guest.rng.sample(range(small), small * min(written, 100) // 100))
    kinds = array("B", [WRITE if page in chosen else READ for page in range(small)])
    yield
    _run_l2(guest, kinds, range(FIRST, FIRST + small * PAGE, PAGE))


@workload(
    "nested-tables",
    nested=True,
    pages="4 KiB pages of L2's memory",
    rounds="times that L1 moves pages, flushes and runs L2",
    taken="pages that it moves each time",
    spread="pages from one that is moved to the next",
)
def nested_tables(
    guest: Guest, pages: int = 8_192, rounds: int = 50, taken: int = 64, spread: int = 1
) -> Iterator[None]:
    """L1 moves pages of L2 to other frames: it writes their gptes, flushes, and runs L2, which reads them."""
    frames = [guest.kernel.frames.take() for _ in range(pages)]
    nested = guest.vm.nested
    for page, frame in enumerate(frames):
        nested.map(FIRST + page * PAGE, frame)
    gptes = [nested.gpte_address(FIRST + page * PAGE) for page in range(pages)]
    _run_l2(guest, READ, range(FIRST, FIRST + pages * PAGE, PAGE))
    guest.vm.vcpus[0].l2.exit()
    yield
    for _ in range(rounds):
        first = guest.rng.randrange(pages)
        moved = sorted({(first + n * max(spread, 1)) % pages for n in range(taken)})
        guest.cpus[0].run(_move(guest, gptes, moved))
        guest.vm.run_scenario("vmcb tlb=1")
        _run_l2(guest, READ, (FIRST + page * PAGE for page in moved))
        guest.vm.vcpus[0].l2.exit()


def _move(guest: Guest, gptes: list[int], pages: list[int]) -> Stream:
    """Return L1's stores that give pages of L2 the frames of their neighbours."""
    stream = Stream()
    frames = [guest.vm.host_read(gptes[page]) & ~(PAGE - 1) for page in pages]
    for page, frame in zip(pages, frames[1:] + frames[:1], strict=True):
        stream.add(STORE8, guest.kernel.direct_address(gptes[page]), frame | P | W | U | A | D)
    return stream
