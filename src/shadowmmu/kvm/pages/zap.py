"""Zapping shadow pages: prepare, commit, by generation, by age (arch/x86/kvm/mmu/mmu.c, 6.12.111).

A page is prepared (emptied, unlinked, marked invalid) into a list; committing the list flushes once and frees
its pages. A page in use as a root is only emptied; it is freed when its last user drops it.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR
from ..bits import (
    BATCH_ZAP_PAGES,
    DEFECT_FREED_UNFLUSHED,
    DEFECT_OBSOLETE_ROOT_KEPT,
    DEFECT_PARENT_LEFT,
    DEFECT_UNACCOUNTED_TWICE,
    MIN_FREE_MMU_PAGES,
    REFILL_PAGES,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    ROLE_GUEST_MODE,
    ROLE_INVALID,
    ROLE_LEVEL,
    SPTE_MMU_PRESENT,
)
from ..spte.flush import kvm_flush_remote_tlbs, kvm_make_all_cpus_request
from ..spte.nx_huge_page import unaccount_nx_huge_page
from ..spte.parent_pte import mmu_page_remove_parent_pte
from ..spte.rmap import RmapIterator, drop_spte, pte_list_free
from ..spte.spte import is_last_spte, mmu_spte_clear_no_track
from ..spte.unsync import UnsyncWalk, kvm_unlink_unsync_page
from ..state.cond_resched import mmu_lock_dropped
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from ..tdp.roots import kvm_tdp_mmu_invalidate_all_roots
from ..tdp.zap import ZapRoots
from .account import unaccount_shadowed


def drop_parent_pte(kvm: Kvm, child: ShadowPage, sptep: u64) -> None:
    """Empty the non-leaf SPTE at sptep, which points to `child`."""
    if kvm.design.defect != DEFECT_PARENT_LEFT:
        mmu_page_remove_parent_pte(kvm, child, sptep)
    mmu_spte_clear_no_track(kvm, sptep)


def mmu_page_zap_pte(kvm: Kvm, sp: ShadowPage, sptep: u64, invalid_list: list[ShadowPage] | None) -> u64:
    """Empty one SPTE of `sp`, whatever it is. Return 1 if that put a page on the list, else 0.

    A child left without parents stays in the hash. But one that maps L2's memory with nested paging is zapped
    if there is a list for it, even if it is a root (nested_zap_spares_roots).
    """
    spte: u64 = kvm.words[sptep >> 3]
    if not spte & SPTE_MMU_PRESENT:
        if spte != kvm.design.empty_spte:
            mmu_spte_clear_no_track(kvm, sptep)
    elif is_last_spte(spte, sp.role & ROLE_LEVEL):
        drop_spte(kvm, sptep)
    else:
        child: ShadowPage = kvm.sptep_to_sp(spte & ADDR)
        drop_parent_pte(kvm, child, sptep)
        orphan: bool = child.role & ROLE_GUEST_MODE != 0 and not child.parent_ptes
        if kvm.design.nested_zap_spares_roots and child.root_count:
            orphan = False
        if orphan and invalid_list is not None and kvm.parameters.tdp_enabled:
            return 1 if kvm_mmu_prepare_zap_page(kvm, child, invalid_list) else 0
    return 0


def _zap_unsync_children(kvm: Kvm, parent: ShadowPage, invalid_list: list[ShadowPage]) -> u64:
    """Zap the unsync pages below `parent`. Return their number."""
    zapped: u64 = 0
    if parent.role & ROLE_LEVEL == 1 or not parent.unsync_children:
        return 0
    walk: UnsyncWalk = UnsyncWalk(kvm)
    while walk.collect(parent):
        sp: ShadowPage | None = walk.first_leaf()
        while sp is not None:
            kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
            walk.clear_parents()
            zapped += 1
            sp = walk.next_leaf()
    return zapped


def _unlink_parents(kvm: Kvm, sp: ShadowPage) -> None:
    """Empty all SPTEs that point to `sp`."""
    it: RmapIterator = RmapIterator(kvm)
    sptep: u64 = it.first(sp.parents())
    while sptep:
        mmu_spte_clear_no_track(kvm, sptep)
        sptep = it.next()
    pte_list_free(kvm, sp.parents())
    sp.parent_ptes = 0
    sp.multimapped = False


def kvm_mmu_prepare_zap_page(kvm: Kvm, sp: ShadowPage, invalid_list: list[ShadowPage]) -> u64:
    """Empty and unlink a page. Return the number of pages put on the list (children and itself).

    Its unsync children are zapped too, with nested paging also L2's. A page in use as a root leaves the
    active list and stays counted.
    """
    if kvm.tracing:
        kvm.tracer.kvm_mmu_prepare_zap_page(sp)
    kvm.stat.mmu_shadow_zapped += 1
    zapped: u64 = _zap_unsync_children(kvm, sp, invalid_list)
    empty: u64 = kvm.design.empty_spte
    i: u64
    for i in range(512):
        if kvm.words[(sp.spt >> 3) + i] != empty:
            zapped += mmu_page_zap_pte(kvm, sp, sp.spt + i * 8, invalid_list)
    _unlink_parents(kvm, sp)
    counted: bool = not sp.role & ROLE_INVALID or kvm.design.defect == DEFECT_UNACCOUNTED_TWICE
    if counted and sp.has_gptes():
        unaccount_shadowed(kvm, sp)
    if sp.unsync:
        kvm_unlink_unsync_page(kvm, sp)
    zapped_root: bool = False
    if sp.on_list:
        if sp.role & ROLE_INVALID and not sp.root_count:
            kvm.active_mmu_pages.corrupted += 1
        kvm.active_mmu_pages.remove(sp)
    if not sp.root_count:
        zapped += 1
        invalid_list.append(sp)
        kvm.n_used_mmu_pages -= 1
    else:
        zapped_root = not kvm.is_obsolete(sp)
    if sp.nx_huge_page_disallowed:
        unaccount_nx_huge_page(kvm, sp)
    sp.role |= ROLE_INVALID
    if zapped_root:
        kvm_make_all_cpus_request(kvm, REQ_MMU_FREE_OBSOLETE_ROOTS)
    return zapped


def kvm_mmu_commit_zap_page(kvm: Kvm, invalid_list: list[ShadowPage]) -> None:
    """Flush once and free the pages of the list; do nothing if it is empty."""
    if not invalid_list:
        return
    if kvm.design.defect != DEFECT_FREED_UNFLUSHED:
        kvm_flush_remote_tlbs(kvm)
    sp: ShadowPage
    for sp in invalid_list:
        _free_shadow_page(kvm, sp)
    invalid_list.clear()


def _free_shadow_page(kvm: Kvm, sp: ShadowPage) -> None:
    """Remove a page from the hash and free its frames."""
    bucket: u64 = kvm.hash_bucket(sp.gfn)
    other: ShadowPage | None = kvm.page_hash[bucket]
    if other is sp:
        kvm.page_hash[bucket] = sp.hash_next
    else:
        while other is not None and other.hash_next is not sp:
            other = other.hash_next
        if other is None:
            raise LookupError(f"{sp!r} is not in its bucket")
        other.hash_next = sp.hash_next
    sp.hash_next = None
    kvm.owners[sp.spt >> 12] = None
    kvm.arena.free_table(sp.spt)
    if sp.translations:
        kvm.arena.free_table(sp.translations)


def kvm_mmu_remote_flush_or_zap(kvm: Kvm, invalid_list: list[ShadowPage], flush: u32) -> None:
    """Commit the list, which flushes; if it is empty, flush if `flush` is set."""
    if invalid_list:
        kvm_mmu_commit_zap_page(kvm, invalid_list)
    elif flush:
        kvm_flush_remote_tlbs(kvm)


# -- many pages ------------------------------------------------------------------------------------------


def kvm_mmu_zap_oldest_mmu_pages(kvm: Kvm, count: u64) -> u64:
    """Zap at least `count` of the oldest pages that are not roots, if there are as many. Return the number
    zapped.
    """
    if kvm.active_mmu_pages.oldest is None:
        return 0
    invalid_list: list[ShadowPage] = []
    total: u64 = 0
    sp: ShadowPage | None = kvm.active_mmu_pages.oldest
    while sp is not None:
        following: ShadowPage | None = sp.newer
        if sp.root_count:
            sp = following
            continue
        zapped: u64 = kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
        total += zapped
        if total >= count:
            break
        sp = kvm.active_mmu_pages.oldest if zapped > 1 else following
    kvm_mmu_commit_zap_page(kvm, invalid_list)
    kvm.stat.mmu_recycled += total
    return total


def available_mmu_pages(kvm: Kvm) -> u64:
    """Return the number of shadow pages that may still be allocated."""
    if kvm.n_max_mmu_pages > kvm.n_used_mmu_pages:
        return kvm.n_max_mmu_pages - kvm.n_used_mmu_pages
    return 0


def make_mmu_pages_available(kvm: Kvm) -> bool:
    """Recycle the oldest pages if fewer than 5 may still be allocated, until 25 may. Return
    whether any may.
    """
    available: u64 = available_mmu_pages(kvm)
    if available >= MIN_FREE_MMU_PAGES:
        return True
    kvm_mmu_zap_oldest_mmu_pages(kvm, REFILL_PAGES - available)
    return available_mmu_pages(kvm) != 0


def kvm_mmu_change_mmu_pages(kvm: Kvm, goal: u64) -> None:
    """Set the limit of shadow pages. If more exist the oldest are zapped, and the number that stays is the
    limit.
    """
    if kvm.n_used_mmu_pages > goal:
        kvm_mmu_zap_oldest_mmu_pages(kvm, kvm.n_used_mmu_pages - goal)
        goal = kvm.n_used_mmu_pages
    kvm.n_max_mmu_pages = goal


class ZapObsoletePages:
    """Zaps the pages of the old generation, oldest first, in steps of at least 10 pages
    (kvm_zap_obsolete_pages).

    step() returns True while there is more to do: at that point the kernel may drop mmu_lock. The last step
    commits all that was zapped.

    Attributes:
        kvm: The VM.
        zapped: Pages zapped and not committed yet.
        done: The last step was made.
    """

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm
        self.zapped: list[ShadowPage] = []
        self.done = False

    def step(self) -> bool:
        """Zap the next pages. Return whether there are more."""
        batch: u64 = 0
        sp: ShadowPage | None = self.kvm.active_mmu_pages.oldest
        while sp is not None and self.kvm.is_obsolete(sp):
            if batch >= BATCH_ZAP_PAGES:
                return True
            following: ShadowPage | None = sp.newer
            itself: u64 = 0 if sp.root_count else 1
            zapped: u64 = kvm_mmu_prepare_zap_page(self.kvm, sp, self.zapped)
            batch += zapped
            sp = self.kvm.active_mmu_pages.oldest if zapped > itself else following
        kvm_mmu_commit_zap_page(self.kvm, self.zapped)
        self.done = True
        return False


class ZapAllFast:
    """Zaps all obsolete pages: the shadow pages of the old generation, then the TDP MMU's roots.

    step() returns True where the kernel may drop mmu_lock.

    Attributes:
        pages: The zap of the shadow pages.
        roots: The zap of the TDP MMU's roots.
    """

    def __init__(self, kvm: Kvm) -> None:
        self.pages = ZapObsoletePages(kvm)
        self.roots = ZapRoots(kvm, 1)

    def step(self) -> bool:
        """Make the next step. Return whether there are more."""
        if not self.pages.done and self.pages.step():
            return True
        return self.roots.step()


def kvm_mmu_zap_all_fast(kvm: Kvm) -> None:
    """Make every page of the MMU obsolete by switching the generation, then zap them all (6.12.111)."""
    zap = kvm_mmu_start_zap_all_fast(kvm)
    while zap.step():
        mmu_lock_dropped(kvm)


def kvm_mmu_start_zap_all_fast(kvm: Kvm) -> ZapAllFast:
    """Switch the generation, and request every vCPU to free its obsolete roots. Return the zapping that is
    left.
    """
    if kvm.tracing:
        kvm.tracer.kvm_mmu_zap_all_fast(kvm.mmu_valid_gen, kvm.n_used_mmu_pages)
    kvm.mmu_valid_gen ^= 1
    kvm_tdp_mmu_invalidate_all_roots(kvm)
    if kvm.design.defect != DEFECT_OBSOLETE_ROOT_KEPT:
        kvm_make_all_cpus_request(kvm, REQ_MMU_FREE_OBSOLETE_ROOTS)
    return ZapAllFast(kvm)
