"""What the host does to a running guest: dirty logging, slots that change, memory that it takes back."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from ...guest.workload.stream_cpu import Stream
from ...vm.slots import Backing
from ..configuration import Guest
from ..workload import workload
from .patterns import gvas, mapped_process, user_reads, user_writes

__all__ = ["after_direct_map", "beyond_memory"]

PAGE, HUGE, ALIGNED, GIB = 4096, 1 << 21, 1 << 22, 1 << 30
READ, WRITE = 0, 1


def beyond_memory(guest: Guest) -> int:
    """Return a guest-physical address where no slot is."""
    return -(-guest.vm.slots[0].size // GIB) * GIB


def after_direct_map(guest: Guest) -> int:
    """Return an address of the guest's kernel where nothing is mapped, aligned to its huge pages."""
    return guest.kernel.direct_address(-(-guest.vm.slots[0].size // ALIGNED) * ALIGNED)


@workload(
    "migration",
    pages="pages of the heap",
    rounds="rounds of GET and CLEAR while the guest runs",
    written="percent of the pages that are written in each round",
)
def migration(guest: Guest, pages: int = 8_192, rounds: int = 5, written: int = 50) -> Iterator[None]:
    """Live migration: logging is switched on, then each round reads and clears the log of a running guest."""
    process = mapped_process(guest, pages)
    user_writes(guest, process, range(pages))
    guest.vm.manual_dirty_log()
    yield
    slot = guest.vm.slots[0]
    with guest.host:
        slot.dirty_log = True
    for _ in range(rounds):
        chosen = set(guest.rng.sample(range(pages), pages * min(written, 100) // 100))
        user_reads(guest, process, (page for page in range(pages) if page not in chosen))
        user_writes(guest, process, sorted(chosen))
        with guest.host:
            slot.clear_dirty_log(slot.dirty_pages())
    with guest.host:
        slot.dirty_log = False


@workload(
    "huge-log-writes",
    pages="pages of 2 MiB of the guest, which the host has in such pages, too",
    written="percent of their 4 KiB pages that the guest writes; it reads the others",
)
def huge_log_writes(guest: Guest, pages: int = 64, written: int = 100) -> Iterator[None]:
    """Dirty logging is on for huge pages, and the guest goes over them once, through its kernel's map."""
    gpa = beyond_memory(guest)
    slot = guest.vm.add_slot(gpa, pages * HUGE, id=1, backing=Backing.HUGE2M)
    start = after_direct_map(guest)
    guest.vm.map(start, gpa, pages * HUGE, page_size=guest.kernel.mode.page_size(2))
    every = range(start, start + pages * HUGE, PAGE)
    _run_kernel(guest, WRITE, every[::512])
    with guest.host:
        slot.dirty_log = True
    chosen = set(guest.rng.sample(every, len(every) * min(written, 100) // 100))
    kinds = array("B", [WRITE if address in chosen else READ for address in every])
    yield
    _run_kernel(guest, kinds, every)


def _run_kernel(guest: Guest, kinds: array[int] | int, addresses: Iterable[int]) -> None:
    stream = Stream()
    stream.accesses(kinds, array("Q", addresses))
    guest.cpus[0].run(stream)


@workload("zap-all", pages="pages that are mapped when everything is zapped")
def zap_all(guest: Guest, pages: int = 65_536) -> Iterator[None]:
    """A slot is deleted, for which KVM zaps all that it maps, and the guest runs on."""
    process = mapped_process(guest, pages)
    slot = guest.vm.add_slot(beyond_memory(guest), "1M", id=1)
    user_reads(guest, process, range(pages))
    yield
    with guest.host:
        slot.delete()
    user_reads(guest, process, range(0, pages, 64))


@workload("slot-churn", pages="pages of the heap", rounds="times that a slot appears and goes")
def slot_churn(guest: Guest, pages: int = 4_096, rounds: int = 20) -> Iterator[None]:
    """A slot, such as that of a device's memory, is added and deleted while the guest runs."""
    process = mapped_process(guest, pages)
    user_reads(guest, process, range(pages))
    gpa = beyond_memory(guest)
    yield
    for _ in range(rounds):
        with guest.host:
            guest.vm.add_slot(gpa, "1M", id=1).delete()
        user_reads(guest, process, range(pages))


@workload(
    "balloon",
    pages="pages of the heap",
    rounds="times that the host takes memory back",
    taken="pages that it takes each time",
)
def balloon(guest: Guest, pages: int = 4_096, rounds: int = 20, taken: int = 256) -> Iterator[None]:
    """The host takes pages of the guest back (MADV_DONTNEED), and the guest touches them again."""
    process = mapped_process(guest, pages)
    user_reads(guest, process, range(pages))
    frames = [process.pages[gva >> 12] & ~(PAGE - 1) for gva in gvas(range(pages))]
    yield
    for _ in range(rounds):
        for frame in guest.rng.sample(frames, min(taken, pages)):
            with guest.host:
                guest.vm.madvise(frame, PAGE, 4)
        user_reads(guest, process, range(pages))
