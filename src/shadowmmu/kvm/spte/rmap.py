"""Reverse maps: from a guest frame to the SPTEs that map it, from a shadow page to those that point to it.

A head is one word, as in KVM 6.12: 0 for none; the address of the only SPTE; or the address of a descriptor
with bit 0 set. A descriptor (struct pte_list_desc, 128 bytes) is 16 words in a frame of the arena::

    0  address of the next descriptor     1  number of SPTEs here | number in all that follow << 32
    2..15  addresses of SPTEs

Only the head descriptor may be partly filled. A free descriptor links to the next free one through word 0.

With `rmap_grows_at_tail` new descriptors are appended, any may be partly filled, and the upper half of word 1
is 0.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import PAGE_SIZE, W
from ..bits import PTE_LIST_EXT, RMAP_RECYCLE_THRESHOLD
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from .atomic import fetch_andnot64, xchg64
from .flush import kvm_flush_remote_tlbs_range
from .huge_page import pages_per_hpage
from .spte import (
    count_pages,
    mark_spte_for_access_track,
    mmu_spte_clear_track_bits,
    mmu_spte_update,
    page_gfn,
    set_page_translation,
    spte_index,
)


class RmapIterator:
    """A walk over the SPTEs of a head: from its newest descriptor to its oldest, entries 0 to 13
    (rmap_get_first, rmap_get_next).

    The list must not change while it is walked; after a removal start again.

    Attributes:
        kvm: The VM.
        desc: Physical address of the current descriptor; 0 at the end, or if the head is a single SPTE.
        pos: Index of the current SPTE in the descriptor, 0 to 13.
    """

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm
        self.desc = 0
        self.pos = 0

    def first(self, head: u64) -> u64:
        """Return the address of the first SPTE, or 0."""
        if not head & 1:
            self.desc = 0
            return head
        self.desc = head & ~1
        self.pos = 0
        return self.kvm.words[(self.desc >> 3) + 2]

    def next(self) -> u64:
        """Return the address of the next SPTE, or 0."""
        if self.desc == 0:
            return 0
        self.pos += 1
        if self.pos < (self.kvm.words[(self.desc >> 3) + 1] & 0xFFFFFFFF):
            return self.kvm.words[(self.desc >> 3) + 2 + self.pos]
        self.desc = self.kvm.words[self.desc >> 3]
        self.pos = 0
        return self.kvm.words[(self.desc >> 3) + 2] if self.desc else 0


def alloc_desc(kvm: Kvm) -> u64:
    """Return the physical address of a descriptor with undefined contents. Raises OutOfFrames."""
    kvm.pte_list_descs_taken += 1
    desc: u64 = kvm.free_pte_list_desc
    if desc == 0:
        frame: u64 = kvm.arena.alloc_table()
        i: u64
        for i in range(0, PAGE_SIZE, 128):
            kvm.words[(frame + i) >> 3] = frame + i + 128 if i + 128 < PAGE_SIZE else 0
        desc = frame
    kvm.free_pte_list_desc = kvm.words[desc >> 3]
    return desc


def free_desc(kvm: Kvm, desc: u64) -> None:
    """Free a descriptor."""
    kvm.words[desc >> 3] = kvm.free_pte_list_desc
    kvm.free_pte_list_desc = desc


def pte_list_count(kvm: Kvm, head: u64) -> u64:
    """Return the number of SPTEs on the list of a head."""
    if not head & 1:
        return 1 if head else 0
    desc: u64 = head & ~1
    counts: u64 = kvm.words[(desc >> 3) + 1]
    if not kvm.design.rmap_grows_at_tail:
        return (counts & 0xFFFFFFFF) + (counts >> 32)
    count: u64 = 0
    while desc:
        count += kvm.words[(desc >> 3) + 1]
        desc = kvm.words[desc >> 3]
    return count


def _count_on_add(kvm: Kvm, head: u64) -> u64:
    """Return the number of SPTEs that pte_list_add counts: all, with growth at the tail only those up to the
    first descriptor with room.
    """
    if not head & 1 or not kvm.design.rmap_grows_at_tail:
        return pte_list_count(kvm, head)
    count: u64 = 0
    desc: u64 = head & ~1
    while desc:
        here: u64 = kvm.words[(desc >> 3) + 1]
        count += here
        if here < PTE_LIST_EXT:
            break
        desc = kvm.words[desc >> 3]
    return count


def pte_list_add(kvm: Kvm, head: u64, sptep: u64) -> u64:
    """Add an SPTE to the list of a head. Return the new head."""
    if head == 0:
        return sptep
    if not head & 1:
        desc: u64 = alloc_desc(kvm)
        kvm.words[desc >> 3] = 0
        kvm.words[(desc >> 3) + 1] = 2
        kvm.words[(desc >> 3) + 2] = head
        kvm.words[(desc >> 3) + 3] = sptep
        return desc | 1
    if kvm.design.rmap_grows_at_tail:
        _add_at_tail(kvm, head & ~1, sptep)
        return head
    desc = head & ~1
    count: u64 = kvm.words[(desc >> 3) + 1] & 0xFFFFFFFF
    if count == PTE_LIST_EXT:
        more: u64 = desc
        tail: u64 = pte_list_count(kvm, head)
        desc = alloc_desc(kvm)
        kvm.words[desc >> 3] = more
        kvm.words[(desc >> 3) + 1] = tail << 32
        count = 0
    kvm.words[(desc >> 3) + 2 + count] = sptep
    kvm.words[(desc >> 3) + 1] += 1
    return desc | 1


def _add_at_tail(kvm: Kvm, desc: u64, sptep: u64) -> None:
    """Add an SPTE to the first descriptor that is not full, or to a new last one."""
    while kvm.words[(desc >> 3) + 1] == PTE_LIST_EXT:
        if kvm.words[desc >> 3] == 0:
            fresh: u64 = alloc_desc(kvm)
            kvm.words[fresh >> 3] = 0
            kvm.words[(fresh >> 3) + 1] = 0
            kvm.words[desc >> 3] = fresh
        desc = kvm.words[desc >> 3]
    count: u64 = kvm.words[(desc >> 3) + 1]
    kvm.words[(desc >> 3) + 2 + count] = sptep
    kvm.words[(desc >> 3) + 1] = count + 1


def pte_list_remove(kvm: Kvm, head: u64, sptep: u64) -> u64:
    """Remove an SPTE from the list of a head. Return the new head.

    Raises LookupError if it is not on the list: the MMU's structures are corrupt.
    """
    if not head & 1:
        if head != sptep:
            raise LookupError(f"rmap holds {head:#x}, not SPTE {sptep:#x}")
        return 0
    first: u64 = head & ~1
    desc: u64 = first
    before: u64 = 0
    while desc:
        count: u64 = kvm.words[(desc >> 3) + 1] & 0xFFFFFFFF
        i: u64
        for i in range(count):
            if kvm.words[(desc >> 3) + 2 + i] == sptep:
                if kvm.design.rmap_grows_at_tail:
                    return _fill_hole_in_place(kvm, head, before, desc, (desc >> 3) + 2 + i)
                return _pte_list_fill_hole(kvm, first, (desc >> 3) + 2 + i)
        before = desc
        desc = kvm.words[desc >> 3]
    raise LookupError(f"rmap does not hold SPTE {sptep:#x}")


def _pte_list_fill_hole(kvm: Kvm, first: u64, hole: u64) -> u64:
    """Move the head descriptor's last entry into the hole; free the descriptor if that empties it. Return the
    new head.
    """
    counts: u64 = kvm.words[(first >> 3) + 1] - 1
    last: u64 = counts & 0xFFFFFFFF
    kvm.words[hole] = kvm.words[(first >> 3) + 2 + last]
    kvm.words[(first >> 3) + 1] = counts
    if last:
        return first | 1
    more: u64 = kvm.words[first >> 3]
    free_desc(kvm, first)
    return more | 1 if more else 0


def _fill_hole_in_place(kvm: Kvm, head: u64, before: u64, desc: u64, hole: u64) -> u64:
    """Move the last entry of the same descriptor into the hole; unlink the descriptor if that empties it.
    Return the new head.
    """
    last: u64 = kvm.words[(desc >> 3) + 1] - 1
    kvm.words[hole] = kvm.words[(desc >> 3) + 2 + last]
    kvm.words[(desc >> 3) + 1] = last
    if last:
        return head
    more: u64 = kvm.words[desc >> 3]
    free_desc(kvm, desc)
    if before:
        kvm.words[before >> 3] = more
        return head
    return more | 1 if more else 0


def pte_list_free(kvm: Kvm, head: u64) -> None:
    """Free the descriptors of a head."""
    if head & 1:
        desc: u64 = head & ~1
        while desc:
            more: u64 = kvm.words[desc >> 3]
            free_desc(kvm, desc)
            desc = more


def pte_list(kvm: Kvm, head: u64) -> list[int]:
    """Return the addresses of the SPTEs of a head, in stored order."""
    found = []
    it: RmapIterator = RmapIterator(kvm)
    sptep: u64 = it.first(head)
    while sptep:
        found.append(sptep)
        sptep = it.next()
    return found


# -- the rmap of a slot's frames ---------------------------------------------------------------------


def rmap_add(kvm: Kvm, slot: MemSlot, sp: ShadowPage, sptep: u64, gfn: u64, access: u32) -> int:
    """Record that the leaf SPTE at sptep, in `sp`, maps gfn with the guest's `access` (6.12.111).

    If more than 1000 SPTEs map the frame already, all are zapped, the new one too.
    """
    level: u32 = sp.level()
    set_page_translation(kvm, sp, spte_index(sptep), gfn, access)
    count_pages(kvm, level, 1)
    head: u64 = slot.rmap_head(gfn, level)
    count: u64 = 0
    if head:
        count = _count_on_add(kvm, head)
        head = pte_list_add(kvm, head, sptep)
    else:
        head = sptep
    slot.set_rmap_head(gfn, level, head)
    _record_rmap_size(kvm, count)
    if count > RMAP_RECYCLE_THRESHOLD:
        kvm_zap_all_rmap_sptes(kvm, slot, gfn, level)
        kvm_flush_remote_tlbs_range(kvm, gfn, pages_per_hpage(level))
    return 0


def _record_rmap_size(kvm: Kvm, count: u64) -> int:
    """Raise max_mmu_rmap_size to `count` if it is larger."""
    if count > kvm.stat.max_mmu_rmap_size:
        kvm.stat.max_mmu_rmap_size = count
    return 0


def rmap_remove(kvm: Kvm, sptep: u64) -> None:
    """Remove the leaf SPTE at sptep from the rmap of its gfn."""
    sp: ShadowPage = kvm.sptep_to_sp(sptep)
    gfn: u64 = page_gfn(kvm, sp, spte_index(sptep))
    slot: MemSlot = kvm.memslot_of(gfn)
    level: u32 = sp.level()
    slot.set_rmap_head(gfn, level, pte_list_remove(kvm, slot.rmap_head(gfn, level), sptep))


def drop_spte(kvm: Kvm, sptep: u64) -> bool:
    """Empty an SPTE and, if it maps a page, remove it from its rmap. Return whether it was present."""
    if not mmu_spte_clear_track_bits(kvm, sptep):
        return False
    rmap_remove(kvm, sptep)
    return True


def kvm_zap_all_rmap_sptes(kvm: Kvm, slot: MemSlot, gfn: u64, level: u32) -> bool:
    """Empty every SPTE that maps gfn at `level`. Return whether there was one."""
    head: u64 = slot.rmap_head(gfn, level)
    if head == 0:
        return False
    it: RmapIterator = RmapIterator(kvm)
    sptep: u64 = it.first(head)
    while sptep:
        mmu_spte_clear_track_bits(kvm, sptep)
        sptep = it.next()
    pte_list_free(kvm, head)
    slot.set_rmap_head(gfn, level, 0)
    return True


def kvm_age_rmap(kvm: Kvm, slot: MemSlot, gfn: u64, level: u32, clear: u32) -> bool:
    """Return whether gfn was accessed through an SPTE of `level`; `clear`: mark them as not accessed."""
    young: u32 = 0
    it: RmapIterator = RmapIterator(kvm)
    sptep: u64 = it.first(slot.rmap_head(gfn, level))
    while sptep:
        spte: u64 = kvm.words[sptep >> 3]
        if spte & kvm.spte_young_mask:
            young = 1
            if clear and kvm.ad_enabled:
                fetch_andnot64(kvm, sptep, kvm.shadow_accessed_mask)
            elif clear:
                xchg64(kvm, sptep, mark_spte_for_access_track(kvm, spte))
        sptep = it.next()
    return young != 0


def spte_write_protect(kvm: Kvm, sptep: u64, pt_protect: u32) -> bool:
    """Clear W in an SPTE, with pt_protect MMU_WRITABLE too. Return whether a flush is needed."""
    spte: u64 = kvm.words[sptep >> 3]
    if not spte & W and not (pt_protect and spte & kvm.shadow_mmu_writable_mask):
        return False
    if pt_protect:
        spte &= ~kvm.shadow_mmu_writable_mask
    return mmu_spte_update(kvm, sptep, spte & ~W)


def rmap_write_protect(kvm: Kvm, head: u64, pt_protect: u32) -> bool:
    """Write-protect every SPTE of a head as spte_write_protect does. Return whether a flush is needed."""
    if head == 0:
        return False
    if not head & 1:
        return spte_write_protect(kvm, head, pt_protect)
    flush: u32 = 0
    it: RmapIterator = RmapIterator(kvm)
    sptep: u64 = it.first(head)
    while sptep:
        flush |= spte_write_protect(kvm, sptep, pt_protect)
        sptep = it.next()
    return flush != 0
