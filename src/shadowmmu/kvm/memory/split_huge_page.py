"""Eager splitting: the huge pages of a slot are split before they are written (kvm_mmu_try_split_huge_pages,
6.12.111).

With the TDP MMU on, shadow pages for nested guests are split too; `eager_split` adds all others, where the
table is a direct page as a fault makes it below a guest's huge page. A new table maps what the huge SPTE did;
one that existed already may map less, and what is missing faults in again.
"""

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...x86.bits import PS
from ..bits import (
    MIN_FREE_MMU_PAGES,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_GUEST_MODE,
    ROLE_INVALID,
    ROLE_LEVEL,
    SPTE_MMU_PRESENT,
)
from ..pages.get_page import link_shadow_page, shadow_mmu_get_sp_for_split
from ..pages.replace_spte import split_needs_flush, zap_replaced_spte
from ..pages.zap import available_mmu_pages
from ..spte.make_spte import make_huge_page_split_spte
from ..spte.rmap import RmapIterator, rmap_add
from ..spte.spte import is_last_spte, page_access, page_gfn, spte_index
from ..state.cond_resched import mmu_lock_dropped
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.vcpu import CACHE_CAPACITY, MemoryCache
from ..state.vm import Kvm
from ..tdp.split import kvm_tdp_mmu_try_split_huge_pages

EAGAIN, ENOSPC = -11, -28
DESCS_FOR_SPLIT = 513
"""One for each SPTE of the table, one for its parents."""


class SplitCaches:
    """Objects that a VM sets aside for splitting (kvm_arch.split_*_cache).

    Attributes:
        kvm: The VM.
        shadow_pages: Frames for tables.
        descs: Number of rmap descriptors set aside; they are only counted.
    """

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm
        self.shadow_pages = MemoryCache(kvm.arena)
        self.descs = 0

    def need_topup(self) -> bool:
        """Return whether a split might need more objects than there are."""
        return self.descs < DESCS_FOR_SPLIT or not self.shadow_pages.objects

    def top_up(self) -> None:
        """Fill up what is short; mmu_lock is not held."""
        if self.descs < DESCS_FOR_SPLIT:
            self.descs = DESCS_FOR_SPLIT + CACHE_CAPACITY
        self.shadow_pages.top_up(1)


def _shadow_mmu_split_huge_page(kvm: Kvm, slot: MemSlot, sptep: u64, shadow_pages: MemoryCache) -> None:
    """Let the huge SPTE at sptep point to a table that maps the same pages."""
    huge: u64 = kvm.words[sptep >> 3]
    parent: ShadowPage = kvm.sptep_to_sp(sptep)
    index: u32 = spte_index(sptep)
    gfn: u64 = page_gfn(kvm, parent, index)
    sp: ShadowPage = shadow_mmu_get_sp_for_split(
        kvm, shadow_pages, parent, sptep, gfn, page_access(kvm, parent, index)
    )
    access: u32 = (sp.role & ROLE_ACCESS) >> ROLE_ACCESS_SHIFT
    leads_on: u32 = 0
    i: u64
    for i in range(512):
        child: u64 = sp.spt + i * 8
        old: u64 = kvm.words[child >> 3]
        if old & SPTE_MMU_PRESENT:
            leads_on |= not is_last_spte(old, sp.role & ROLE_LEVEL)
        else:
            kvm.words[child >> 3] = make_huge_page_split_spte(kvm, huge, sp.role, i)
            rmap_add(kvm, slot, sp, child, page_gfn(kvm, sp, i), access)
    zap_replaced_spte(kvm, sptep, split_needs_flush(kvm, leads_on))
    link_shadow_page(kvm, sptep, sp)


def _try_split_huge_page(kvm: Kvm, slot: MemSlot, sptep: u64) -> i64:
    """Split a huge SPTE. Return 0, EAGAIN after filling the caches (mmu_lock was dropped), or ENOSPC."""
    spte: u64 = kvm.words[sptep >> 3]
    sp: ShadowPage = kvm.sptep_to_sp(sptep)
    gfn: u64 = page_gfn(kvm, sp, spte_index(sptep))
    level: u32 = sp.role & ROLE_LEVEL
    if kvm.split_caches is None:
        kvm.split_caches = SplitCaches(kvm)
    caches: SplitCaches = kvm.split_caches
    result: i64 = 0
    if available_mmu_pages(kvm) <= MIN_FREE_MMU_PAGES:
        result = ENOSPC
    elif caches.need_topup():
        caches.top_up()
        result = EAGAIN
    else:
        taken: u64 = kvm.pte_list_descs_taken
        _shadow_mmu_split_huge_page(kvm, slot, sptep, caches.shadow_pages)
        caches.descs -= kvm.pte_list_descs_taken - taken
    if kvm.tracing:
        kvm.tracer.kvm_mmu_split_huge_page(gfn, spte, level, result)
    return result


class SplitShadowHugePages:
    """Splits the huge SPTEs in shadow pages that map pages [start, end) of a slot, of nested guests or by
    design of all.

    step() returns True where the kernel has dropped mmu_lock to fill its caches.

    Attributes:
        kvm: The VM.
        slot: The slot.
        start: First gfn.
        end: The gfn after the last.
        target_level: Level to split down to.
        level: Level of the rmaps being split; it falls from 3 to target_level.
        index: Index of the current rmap in the slot's array of `level`.
    """

    def __init__(self, kvm: Kvm, slot: MemSlot, start: u64, end: u64, target_level: u32) -> None:
        self.kvm = kvm
        self.slot = slot
        self.start = start
        self.end = end
        self.target_level = target_level
        self.level = 3
        self.index = slot.index(start, 3)

    def step(self) -> bool:
        """Split until mmu_lock is dropped (True) or everything is done (False)."""
        while self.level > self.target_level:
            last: u64 = self.slot.index(self.end - 1, self.level)
            while self.index <= last:
                if self._split_rmap(self.index):
                    return True
                self.index += 1
            self.level -= 1
            self.index = self.slot.index(self.start, self.level)
        return False

    def _split_rmap(self, index: u64) -> bool:
        """Split the SPTEs of one rmap, from its start after each split. Return whether the lock
        was dropped.
        """
        heads: memoryview = self.slot.rmap_heads(self.level)
        it: RmapIterator = RmapIterator(self.kvm)
        sptep: u64 = it.first(heads[index])
        while sptep:
            if not self._is_splittable(sptep):
                sptep = it.next()
                continue
            result: i64 = _try_split_huge_page(self.kvm, self.slot, sptep)
            if result == EAGAIN:
                return True
            if result:
                return False
            sptep = it.first(heads[index])
        return False

    def _is_splittable(self, sptep: u64) -> bool:
        """Return whether an SPTE is huge and in a page that is to be split."""
        sp: ShadowPage = self.kvm.sptep_to_sp(sptep)
        if not sp.role & ROLE_GUEST_MODE and not self.kvm.design.eager_split:
            return False
        if sp.role & ROLE_INVALID or sp.unsync:
            return False
        return self.kvm.words[sptep >> 3] & PS != 0


def kvm_mmu_try_split_huge_pages(
    kvm: Kvm, slot: MemSlot, start: u64, end: u64, target_level: u32, shared: u32
) -> None:
    """Split what maps pages [start, end) of a slot at a level above target_level.

    Only with the TDP MMU, except in the design that splits everywhere. `shared`: the TDP MMU's part is done
    with mmu_lock held for reading. The caller flushes.
    """
    if not kvm.tdp_mmu_enabled() and not kvm.design.eager_split:
        return
    if kvm.have_rmaps():
        split: SplitShadowHugePages = SplitShadowHugePages(kvm, slot, start, end, target_level)
        while split.step():
            mmu_lock_dropped(kvm)
    if kvm.tdp_mmu_enabled():
        kvm_tdp_mmu_try_split_huge_pages(kvm, start, end, target_level, shared)
