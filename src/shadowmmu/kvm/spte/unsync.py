"""Unsync pages: leaf tables that the guest may have changed without KVM seeing it (mmu.c, 6.12.111).

An unsync page marks the way from every root down to it: bit i of unsync_child_bitmap says that SPTE i leads
to a page that is unsync or has unsync children. There may be marks too many; the walk that finds the pages
clears them.
"""

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...x86.arrays import filled
from ...x86.bits import ADDR, PS
from ..bits import PT64_ROOT_MAX_LEVEL, ROLE_LEVEL, SPTE_ENT_PER_PAGE, SPTE_MMU_PRESENT, UNSYNC_WALK_PAGES
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from .rmap import RmapIterator
from .spte import spte_index

NO_SPACE = -1
EPERM, EEXIST = -1, -2


def mark_unsync(kvm: Kvm, sptep: u64) -> None:
    """Mark that the SPTE at sptep leads to an unsync page, in its page and up to every root."""
    sp: ShadowPage = kvm.sptep_to_sp(sptep)
    index: u64 = spte_index(sptep)
    bit: u64 = 1
    bit = bit << (index & 63)
    if sp.unsync_child_bitmap[index >> 6] & bit:
        return
    sp.unsync_child_bitmap[index >> 6] |= bit
    sp.unsync_children += 1
    if sp.unsync_children == 1:
        kvm_mmu_mark_parents_unsync(kvm, sp)


def kvm_mmu_mark_parents_unsync(kvm: Kvm, sp: ShadowPage) -> None:
    """Mark in every parent of `sp` that it leads to an unsync page."""
    it: RmapIterator = RmapIterator(kvm)
    sptep: u64 = it.first(sp.parents())
    while sptep:
        mark_unsync(kvm, sptep)
        sptep = it.next()


def clear_unsync_child_bit(sp: ShadowPage, index: u64) -> None:
    """Clear mark `index`, which must be set."""
    bit: u64 = 1
    sp.unsync_child_bitmap[index >> 6] &= ~(bit << (index & 63))
    sp.unsync_children -= 1


class UnsyncWalk:
    """A walk to the unsync leaves below a page, up to 16 pages at a time (mmu_unsync_walk, 6.12.111).

    After collect() returned True, first_leaf() and next_leaf() deliver the unsync pages one by one; after
    each is handled, clear_parents() clears the marks that led to it. Then collect() again, until it finds
    nothing.

    Attributes:
        kvm: The VM.
        pages: The pages found, in pre-order, the start page first; at most UNSYNC_WALK_PAGES
            (kvm_mmu_pages.page).
        indices: For each of them the index of the SPTE that led to it.
        position: Index in `pages` of the current leaf.
        parent: parent[level - 2] is the page of `level` on the way to the current leaf, None above the start
            (mmu_page_path.parent).
        index: index[level - 1] is the index of the SPTE that leads to the page of `level` on that way
            (mmu_page_path.idx).
    """

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm
        self.pages: list[ShadowPage] = []
        self.indices: list[int] = []
        self.position = 0
        self.parent: list[ShadowPage | None] = [None] * (PT64_ROOT_MAX_LEVEL + 1)
        self.index = filled(PT64_ROOT_MAX_LEVEL + 1)

    def collect(self, sp: ShadowPage) -> bool:
        """Find unsync leaves below `sp` and the pages on the way to them. Return whether there are any."""
        self.pages.clear()
        self.indices.clear()
        if not sp.unsync_children:
            return False
        self._add(sp, 0)
        return self._walk(sp) != 0

    def _add(self, sp: ShadowPage, index: u64) -> bool:
        """Append a page. Return whether the array is full now."""
        if sp.unsync and sp in self.pages:
            return False
        self.pages.append(sp)
        self.indices.append(index)
        return len(self.pages) == UNSYNC_WALK_PAGES

    def _walk(self, sp: ShadowPage) -> i64:
        """Return the number of unsync leaves found, or NO_SPACE once the array is full."""
        leaves: i64 = 0
        i: u64
        bit: u64 = 1
        for i in range(SPTE_ENT_PER_PAGE):
            if not sp.unsync_child_bitmap[i >> 6] & (bit << (i & 63)):
                continue
            spte: u64 = self.kvm.words[(sp.spt >> 3) + i]
            if not spte & SPTE_MMU_PRESENT or spte & PS:
                clear_unsync_child_bit(sp, i)
                continue
            child: ShadowPage = self.kvm.sptep_to_sp(spte & ADDR)
            if child.unsync_children:
                if self._add(child, i):
                    return NO_SPACE
                below: i64 = self._walk(child)
                if below == NO_SPACE:
                    return NO_SPACE
                if below == 0:
                    clear_unsync_child_bit(sp, i)
                leaves += below
            elif child.unsync:
                leaves += 1
                if self._add(child, i):
                    return NO_SPACE
            else:
                clear_unsync_child_bit(sp, i)
        return leaves

    def first_leaf(self) -> ShadowPage | None:
        """Start over the collected pages. Return the first unsync leaf."""
        top: ShadowPage = self.pages[0]
        level: u32 = top.role & ROLE_LEVEL
        self.parent[level - 2] = top
        self.parent[level - 1] = None
        self.position = 0
        return self.next_leaf()

    def next_leaf(self) -> ShadowPage | None:
        """Return the next unsync leaf, and set the path to it; None at the end."""
        while self.position + 1 < len(self.pages):
            self.position += 1
            sp: ShadowPage = self.pages[self.position]
            level: u32 = sp.role & ROLE_LEVEL
            self.index[level - 1] = self.indices[self.position]
            if level == 1:
                return sp
            self.parent[level - 2] = sp
        return None

    def clear_parents(self) -> None:
        """Clear the marks on the path to the current leaf, upwards as long as a page has no other mark."""
        level: u32 = 0
        while level < 6:
            sp: ShadowPage | None = self.parent[level]
            if sp is None:
                return
            clear_unsync_child_bit(sp, self.index[level])
            if sp.unsync_children:
                return
            level += 1


def mmu_try_to_unsync_pages(kvm: Kvm, slot: MemSlot, gfn: u64, can_unsync: u32, prefetch: u32) -> i64:
    """Make the leaf tables that shadow gfn unsync, so that gfn may become writable (6.12.111).

    Return 0, or why gfn must stay write-protected: EPERM (a shadowed upper-level table, or can_unsync is
    false), EEXIST (a prefetch, and a page is still in sync). Pages made unsync before that stay so.
    """
    if kvm.write_tracked(slot, gfn):
        return EPERM
    sp: ShadowPage | None = kvm.first_sp_with_gptes(gfn)
    while sp is not None:
        if not can_unsync:
            return EPERM
        if not sp.unsync:
            if prefetch:
                return EEXIST
            _kvm_unsync_page(kvm, sp)
        sp = kvm.next_sp_with_gptes(sp.hash_next, gfn)
    return 0


def _kvm_unsync_page(kvm: Kvm, sp: ShadowPage) -> None:
    """Mark a page unsync, and the way to it (kvm_unsync_page)."""
    if kvm.tracing:
        kvm.tracer.kvm_mmu_unsync_page(sp)
    kvm.stat.mmu_unsync += 1
    sp.unsync = True
    kvm_mmu_mark_parents_unsync(kvm, sp)


def kvm_unlink_unsync_page(kvm: Kvm, sp: ShadowPage) -> None:
    """Mark a page as in sync: it is about to be synced or zapped."""
    if kvm.tracing:
        kvm.tracer.kvm_mmu_sync_page(sp)
    sp.unsync = False
    kvm.stat.mmu_unsync -= 1
