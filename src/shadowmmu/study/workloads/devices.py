"""Devices: registers at addresses without memory (MMIO), and slots that come and change around them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from ...guest.workload.stream_cpu import Stream
from ..configuration import Guest
from ..workload import workload
from .migration import after_direct_map, beyond_memory
from .patterns import mapped_process, user_reads

__all__: list[str] = []

PAGE = 4096
READ, WRITE = 0, 1
STATUS, DOORBELL = 0x10, 0x20
"""Offsets of two registers in each page of a device."""


def _map_device(guest: Guest, pages: int) -> int:
    """Map the pages of a device's registers beyond the guest kernel's map of memory; return their address."""
    gva = after_direct_map(guest)
    guest.vm.map(gva, beyond_memory(guest), pages * PAGE, user=False, mmio=True)
    return gva


def _drive(guest: Guest, device: int, pages: int) -> None:
    """Read the status and ring the doorbell in each page of a device."""
    stream = Stream()
    for page in range(pages):
        at = device + page * PAGE
        stream.accesses(array("B", [READ, WRITE]), array("Q", [at + STATUS, at + DOORBELL]))
    guest.cpus[0].run(stream)


@workload("mmio-device", pages="pages of registers, one for each queue", rounds="times that all are used")
def mmio_device(guest: Guest, pages: int = 8, rounds: int = 500) -> Iterator[None]:
    """A driver works a device with several queues: for each it reads a status and rings a doorbell."""
    device = _map_device(guest, pages)
    yield
    for _ in range(rounds):
        _drive(guest, device, pages)


@workload(
    "mmio-slots",
    pages="pages of memory that are mapped",
    rounds="slots that are added, at most 62",
    registers="pages of registers that the guest uses after each",
)
def mmio_slots(guest: Guest, pages: int = 8_192, rounds: int = 50, registers: int = 8) -> Iterator[None]:
    """Slots are added while a guest works devices: each address could be memory now, and is found again."""
    free = beyond_memory(guest) << 1
    process = mapped_process(guest, pages)
    device = _map_device(guest, registers)
    user_reads(guest, process, range(pages))
    _drive(guest, device, registers)
    yield
    for turn in range(min(rounds, 62)):
        with guest.host:
            guest.vm.add_slot(free + turn * PAGE, PAGE, id=1 + turn)
        _drive(guest, device, registers)
        user_reads(guest, process, range(0, pages, 64))
