"""Physical memory of the host: one sparse arena of 4 KiB frames.

A host physical address (hpa) is a byte address in the arena, so a frame, a shadow table and an SPTE are all
places in the same bytes. The arena is reserved, not touched: a frame costs memory when it is first written::

    0                    the host's zero page: never allocated, never written
    4 KiB .. table_end   tables, translation arrays and descriptors of the hypervisor, allocated one by one
    table_end .. end     user memory, reserved in contiguous runs by the mappings of host/mapping.py
"""

import mmap
import sys
from collections import deque
from typing import cast

from cython import ulonglong as u64

from ..x86.bits import MASK64, PAGE_SHIFT, PAGE_SIZE
from .sparse_words import SparseWords

SMALLEST_ARENA = 1 << 34
BLOCK = 256
"""Bytes that are compared as one before their words are."""
MAP_NORESERVE = 0x4000  # Linux; the mmap module has no name for it before Python 3.13
RESERVES = sys.platform != "emscripten"
"""Whether address space can be reserved without memory: not in WebAssembly, which runs interpreted."""
LARGEST_WHOLE = 1 << 18
"""Words of an array that has all its memory where none can be reserved: a slot of 1 GiB needs so many."""


class OutOfFrames(MemoryError):
    """The arena has no frame left of the kind asked for."""


def sparse_words(count: int) -> memoryview:
    """Return an array of `count` zero words (u64) that costs memory only where it is written."""
    size = max(count * 8, PAGE_SIZE)
    if not RESERVES and count > LARGEST_WHOLE:
        return cast(memoryview, SparseWords(count))
    if not RESERVES:
        return memoryview(bytearray(size)).cast("Q")[:count]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return memoryview(mmap.mmap(-1, size, flags=flags)).cast("B").cast("Q")[:count]


def _reserve_most(size: int) -> memoryview:
    """Return `size` bytes as sparse words, or half, a quarter ... of it, as much as there is address space
    for.
    """
    while True:
        try:
            return sparse_words(size >> 3)
        except OSError:
            if size <= SMALLEST_ARENA:
                raise
            size >>= 1


def differing_words(old: bytes, new: bytes) -> list[int]:
    """Return the indices of the 8-byte words in which `old` and `new`, of one length, differ."""
    found = []
    for start in range(0, len(new), BLOCK):
        one, two = old[start : start + BLOCK], new[start : start + BLOCK]
        if one != two:
            words = zip(memoryview(one).cast("Q"), memoryview(two).cast("Q"), strict=True)
            found += [(start >> 3) + i for i, (before, after) in enumerate(words) if before != after]
    return found


def _low_bytes(size: u64) -> u64:
    """Return a mask of the low `size` (1..8) bytes."""
    mask: u64 = MASK64
    return mask >> (64 - size * 8)


class Arena:
    """All frames of the host.

    At most `size` bytes (a power of two) of physical memory, less where the process may not reserve as much
    address space; the first 64th of it is for the hypervisor's tables.

    Attributes:
        buffer: All of memory as u64 words; index = hpa >> 3.
        words: The same, typed in compiled code.
        size: Bytes of memory.
        next_table: hpa of the first table frame that was never allocated.
        table_end: hpa after the last table frame.
        next_user: hpa of the first user frame that was never reserved.
        free_tables: hpas of the table frames that were freed, oldest first.
    """

    def __init__(self, size: int = 1 << 42) -> None:
        self.buffer = _reserve_most(size)
        self.words = self.buffer
        self.size = self.buffer.nbytes
        self.next_table = PAGE_SIZE
        self.table_end = self.size >> 6
        self.next_user = self.size >> 6
        self.free_tables: deque[int] = deque()

    def alloc_table(self) -> int:
        """Return the hpa of a frame for the hypervisor; its contents are undefined. Raises OutOfFrames.

        Freed frames are allocated again oldest first, so that an address is not reused at once.
        """
        if self.free_tables:
            return self.free_tables.popleft()
        hpa: u64 = self.next_table
        if hpa >= self.table_end:
            raise OutOfFrames(f"no table frame left: all {self.table_end >> PAGE_SHIFT} are in use")
        self.next_table = hpa + PAGE_SIZE
        return hpa

    def free_table(self, hpa: int) -> None:
        """Free the frame at hpa."""
        self.free_tables.append(hpa)

    def reserve(self, npages: int, align: int, offset: int) -> int:
        """Return the first pfn of `npages` contiguous user frames with pfn % align == offset % align (align:
        pages).

        Raises OutOfFrames.
        """
        pfn = self.next_user >> PAGE_SHIFT
        pfn += (offset - pfn) % align
        if (pfn + npages) << PAGE_SHIFT > self.size:
            raise OutOfFrames(f"no {npages} contiguous frames left: the host has {self.size >> 30} GiB")
        self.next_user = (pfn + npages) << PAGE_SHIFT
        return pfn

    def view(self) -> memoryview:
        """Return all of memory as u64 words."""
        return self.buffer

    def page_bytes(self, hpa: int) -> bytes:
        """Return the 4 KiB at hpa."""
        return self.buffer[hpa >> 3 : (hpa + PAGE_SIZE) >> 3].tobytes()

    def is_zeros(self, hpa: u64) -> bool:
        """Return whether the 4 KiB at hpa are zeros."""
        i: u64 = 0
        while i < 512 and not self.words[(hpa >> 3) + i]:
            i += 1
        return i == 512

    def load(self, hpa: u64, size: u64) -> u64:
        """Return the little-endian value of the `size` (1..8) bytes at hpa."""
        shift: u64 = (hpa & 7) * 8
        value: u64 = self.words[hpa >> 3] >> shift
        if shift + size * 8 > 64:
            value |= (self.words[(hpa >> 3) + 1] << (64 - shift)) & MASK64
        return value & _low_bytes(size)

    def store(self, hpa: u64, size: u64, value: u64) -> None:
        """Write the low `size` (1..8) bytes of value at hpa, little-endian."""
        shift: u64 = (hpa & 7) * 8
        mask: u64 = _low_bytes(size)
        value &= mask
        word: u64 = self.words[hpa >> 3]
        self.words[hpa >> 3] = (word & ~((mask << shift) & MASK64) & MASK64) | ((value << shift) & MASK64)
        if shift + size * 8 > 64:
            word = self.words[(hpa >> 3) + 1]
            self.words[(hpa >> 3) + 1] = (word & ~(mask >> (64 - shift)) & MASK64) | (value >> (64 - shift))

    def copy_page(self, source: u64, target: u64) -> None:
        """Copy the 4 KiB at hpa `source` to hpa `target`."""
        a: u64 = source >> 3
        b: u64 = target >> 3
        i: u64
        for i in range(512):
            self.words[b + i] = self.words[a + i]
