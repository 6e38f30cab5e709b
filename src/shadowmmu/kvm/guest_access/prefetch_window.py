"""The window of SPTEs that are prefetched around a fault where it is not the merged one, and reading its
gptes.

Mail 003 began with 16 SPTEs from the faulting one on; its review asked for an aligned group, so that memory
scanned backwards gains too, and for one read of all gptes. Merged were 8, aligned.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import PAGE_SIZE
from ..bits import PREFETCH_FROM_FAULT
from ..design.design import Design
from ..state.fault import GuestWalker
from ..state.vm import Kvm


def window_first(design: Design, index: u32) -> u32:
    """Return the index of the first SPTE of the window around SPTE `index` of a table."""
    if design.prefetch_window & PREFETCH_FROM_FAULT:
        return index
    return index & ~(design.prefetch_window - 1)


def window_end(design: Design, index: u32, entries: u32) -> u32:
    """Return the index after the window, in a table of so many entries."""
    end: u32 = window_first(design, index) + (design.prefetch_window & ~PREFETCH_FROM_FAULT)
    return end if end < entries else entries


def read_window(kvm: Kvm, w: GuestWalker, page: u64, offset: u64, four_byte: u32) -> None:
    """Read the gptes of the window around the one at byte `offset` of the guest table's page into
    w.prefetch_ptes.
    """
    if not kvm.design.prefetch_window or kvm.design.prefetch_gpte_reads:
        return
    size: u32 = 4 if four_byte else 8
    index: u32 = offset // size
    first: u32 = window_first(kvm.design, index)
    count: u32 = window_end(kvm.design, index, PAGE_SIZE // size) - first
    i: u32
    for i in range(count):
        at: u64 = page + (first + i) * size
        word: u64 = kvm.words[at >> 3]
        if four_byte:
            word = word >> 32 if at & 4 else word & 0xFFFFFFFF
        w.prefetch_ptes[i] = word
    kvm.stat.prefetch_gptes += count
