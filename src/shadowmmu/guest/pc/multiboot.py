"""What a loader leaves in memory: multiboot information (specification 0.6.96, 3.3), the BIOS data area."""

import struct
from collections.abc import Sequence

__all__ = ["BOOT_MAGIC", "bios_data", "boot_information"]

BOOT_MAGIC = 0x2BADB002
HAS_MEMORY, HAS_BOOT_DEVICE, HAS_COMMAND_LINE, HAS_MODULES, HAS_MEMORY_MAP, HAS_LOADER_NAME = (
    1,
    2,
    4,
    8,
    1 << 6,
    1 << 9,
)
AVAILABLE, RESERVED = 1, 2
LOWER_END, UPPER_START = 0x9FC00, 0x100000
HEADER_SIZE = 116
LOADER = b"shadowmmu\0"
PLACES = (0x9000, 0x80000, 0x40000, 0x1000)
"""Where in the lower 640 KiB the information may be."""

BIOS_COM1, BIOS_EBDA, BIOS_MEMORY = 0x400, 0x40E, 0x413
"""Where the BIOS data area has the first serial port, the segment of the extended area, KiB below that."""


def bios_data(memory: int) -> list[tuple[int, bytes]]:
    """Return (address, bytes) of what programs read in the BIOS data areas.

    `memory` is the size of the first slot in bytes.
    """
    if memory < UPPER_START:
        return []
    words = ((BIOS_COM1, 0x3F8), (BIOS_EBDA, LOWER_END >> 4), (BIOS_MEMORY, LOWER_END >> 10))
    extended_kib = UPPER_START - 0x60000 - LOWER_END >> 10
    return [(place, struct.pack("<H", word)) for place, word in words] + [(LOWER_END, bytes([extended_kib]))]


def boot_information(
    command_line: str,
    slots: Sequence[tuple[int, int]],
    taken: Sequence[tuple[int, int]],
    modules: Sequence[tuple[int, int]] = (),
) -> tuple[int, bytes]:
    """Return (address, bytes) of the information.

    slots are (address, size) of memory, taken ranges (from, to), modules those that are of modules.
    """
    line = command_line.encode() + b"\0"
    memory_map = _memory_map(slots)
    size = HEADER_SIZE + len(memory_map) + len(line) + len(LOADER) + 16 * len(modules)
    address = _place(size, slots, taken)
    map_at = address + HEADER_SIZE
    modules_at = map_at + len(memory_map)
    line_at = modules_at + 16 * len(modules)
    upper = max(slots[0][1] - UPPER_START, 0) >> 10
    header = bytearray(HEADER_SIZE)
    flags = HAS_MEMORY | HAS_BOOT_DEVICE | HAS_COMMAND_LINE | HAS_MEMORY_MAP | HAS_LOADER_NAME
    flags |= HAS_MODULES if modules else 0
    struct.pack_into("<5I", header, 0, flags, LOWER_END + 0x400 >> 10, upper, 0x8000FFFF, line_at)
    struct.pack_into("<2I", header, 20, len(modules), modules_at if modules else 0)
    struct.pack_into("<2I", header, 44, len(memory_map), map_at)
    struct.pack_into("<I", header, 64, line_at + len(line))
    name = line_at + len(line) - 1
    table = b"".join(struct.pack("<4I", start, to, name, 0) for start, to in modules)
    return address, bytes(header) + memory_map + table + line + LOADER


def _memory_map(slots: Sequence[tuple[int, int]]) -> bytes:
    ranges = []
    for start, size in slots:
        if start == 0 and size > UPPER_START:
            ranges += [(0, LOWER_END, AVAILABLE), (LOWER_END, UPPER_START - LOWER_END, RESERVED)]
            ranges.append((UPPER_START, size - UPPER_START, AVAILABLE))
        else:
            ranges.append((start, size, AVAILABLE))
    return b"".join(struct.pack("<IQQI", 20, start, size, kind) for start, size, kind in ranges)


def _place(size: int, slots: Sequence[tuple[int, int]], taken: Sequence[tuple[int, int]]) -> int:
    """Return a place that the program does not cover; after it if it covers all of the usual ones."""
    end = slots[0][1]
    after = max((to for start, to in taken if start < end), default=0) + 0xFFF & ~0xFFF
    for place in (*PLACES, after):
        inside = place + size <= end
        if inside and all(place + size <= start or place >= to for start, to in taken):
            return place
    return PLACES[0]
