"""Guest memory as the hypervisor reaches it: gfn -> memslot -> host page (virt/kvm/kvm_main.c, 6.12.111).

Functions return the host physical address of a page, or INVALID_PAGE where the kernel's access would fail.
"""

from cython import ulonglong as u64

from ...x86.bits import ADDR
from ..bits import INVALID_PAGE, MEM_READONLY
from ..state.memslots import MemSlot
from ..state.vm import Kvm
from .mark_dirty import mark_page_dirty_in_slot


def read_page(slot: MemSlot, gfn: u64) -> u64:
    """Return the hpa of a page to read from; the host faults it in (__get_user, kvm_read_guest)."""
    index: u64 = slot.page_index(gfn)
    page: u64 = slot.mapping.fast_page(index, 0)
    if page == 0:
        page = fault_in_page(slot, index, write=0)
        if page == 0:
            return INVALID_PAGE
    return page & ADDR


def table_page(kvm: Kvm, gfn: u64) -> u64:
    """Return the hpa of a page that holds a guest page table; INVALID_PAGE also if no visible
    slot has gfn.
    """
    page: u64 = kvm.mapped_page(gfn)
    if page != INVALID_PAGE:
        return page
    slot: MemSlot | None = kvm.visible_memslot(gfn)
    return INVALID_PAGE if slot is None else read_page(slot, gfn)


def write_page(slot: MemSlot, gfn: u64) -> u64:
    """Return the hpa of a page to write to; the host faults it in. INVALID_PAGE also for a read-only slot."""
    if slot.flags & MEM_READONLY:
        return INVALID_PAGE
    index: u64 = slot.page_index(gfn)
    page: u64 = slot.mapping.fast_page(index, 1)
    if page == 0:
        page = fault_in_page(slot, index, write=1)
        if page == 0:
            return INVALID_PAGE
    return page & ADDR


def fault_in_page(slot: MemSlot, index: u64, write: u64) -> u64:
    """Let the host fault in page `index` of the slot's mapping. Return its page word (see host/mapping.py),
    or 0 if the host does not allow the access.
    """
    return slot.mapping.fault(index, write)


def read_page_atomic(kvm: Kvm, gfn: u64) -> u64:
    """Return the hpa of a page that can be read without sleeping (kvm_vcpu_read_guest_atomic)."""
    page: u64 = kvm.mapped_page(gfn)
    if page != INVALID_PAGE:
        return page
    slot: MemSlot | None = kvm.visible_memslot(gfn)
    if slot is None:
        return INVALID_PAGE
    page = slot.mapping.fast_page(slot.page_index(gfn), 0)
    return page & ADDR if page else INVALID_PAGE


def read_guest(kvm: Kvm, gpa: u64, size: u64) -> int | None:
    """Return `size` bytes (1..8, within one page) at gpa as a number, or None if they cannot be read."""
    slot = kvm.visible_memslot(gpa >> 12)
    if slot is None:
        return None
    page = read_page(slot, gpa >> 12)
    return None if page == INVALID_PAGE else kvm.arena.load(page | (gpa & 0xFFF), size)


def write_guest(kvm: Kvm, gpa: u64, size: u64, value: u64) -> bool:
    """Write `size` bytes (1..8, within one page) and mark the page dirty. Return whether that was
    possible.
    """
    slot = store_guest(kvm, gpa, size, value)
    if slot is None:
        return False
    mark_page_dirty_in_slot(kvm, slot, gpa >> 12)
    return True


def store_guest(kvm: Kvm, gpa: u64, size: u64, value: u64) -> MemSlot | None:
    """Write `size` bytes (1..8, within one page) without marking the page dirty. Return its slot, or None if
    they cannot be written.
    """
    slot = kvm.visible_memslot(gpa >> 12)
    if slot is None:
        return None
    page = write_page(slot, gpa >> 12)
    if page == INVALID_PAGE:
        return None
    kvm.arena.store(page | (gpa & 0xFFF), size, value)
    return slot
