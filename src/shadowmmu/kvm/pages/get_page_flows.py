"""Other ways than the merged one (get_page.py) to find or allocate a shadow page; `get_page_flow` chooses.

All give a page of the same gfn and role, and zap the same pages on the way. They differ in this::

            a miss is counted     collisions are     an unsync page    a flush        kvm_mmu_get_page
            when                  counted            is synced         after that     comes
    merged  the search failed     after the commit   in the search     if needed      at the end
    sketch  the page is made      before the commit  in the search     always         at the end
    v3      the page is made      by the search      after the search  always         at the end
    single  the search failed     at the very end    in the search     if needed      before the commit

"The commit" flushes and frees what the search has zapped. `sketch` counts once it has the page's frames, `v3`
before. The flood counter of a page found is reset to 0, in `v3` even if syncing it fails. `sketch` is mail
000's, `v3` what it answers; `single` is kvm_mmu_get_page of 5.18 and 5.19.
"""

from cython import longlong as i64, uint as u32, ulonglong as u64

from ..bits import GET_PAGE_SINGLE, GET_PAGE_SKETCH, GET_PAGE_V3, ROLE_DIRECT, ROLE_LEVEL
from ..spte.flush import kvm_flush_remote_tlbs
from ..state.shadow_page import ShadowPage
from ..state.vcpu import MemoryCache, Vcpu
from ..state.vm import Kvm
from .alloc_page import kvm_mmu_alloc_shadow_page
from .sync import kvm_sync_page
from .zap import kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page


class PageSearch:
    """A search for gfn and role in their bucket, newest page first.

    Attributes:
        kvm: The VM.
        bucket: Number of the bucket.
        collisions: Number of valid pages of other gfns before the page found.
        invalid_list: Unsync pages of gfn that were zapped because an upper-level page is wanted.
        found: The page, perhaps unsync; None if there is none.
    """

    def __init__(self, kvm: Kvm, gfn: u64, role: u32) -> None:
        self.kvm = kvm
        self.bucket = kvm.hash_bucket(gfn)
        self.collisions = 0
        self.invalid_list: list[ShadowPage] = []
        self.found: ShadowPage | None = None
        sp: ShadowPage | None = kvm.page_hash[self.bucket]
        while sp is not None:
            if kvm.is_obsolete(sp):
                pass
            elif sp.gfn != gfn:
                self.collisions += 1
            elif sp.role == role:
                self.found = sp
                break
            elif role & ROLE_LEVEL > 1 and sp.unsync:
                kvm_mmu_prepare_zap_page(kvm, sp, self.invalid_list)
            sp = sp.hash_next

    def count_collisions(self) -> None:
        """Raise max_mmu_page_hash_collisions to `collisions` if that is larger."""
        self.kvm.tally.hash_passed += self.collisions
        if self.collisions > self.kvm.stat.max_mmu_page_hash_collisions:
            self.kvm.stat.max_mmu_page_hash_collisions = self.collisions

    def commit(self) -> None:
        """Flush and free the pages that were zapped."""
        kvm_mmu_commit_zap_page(self.kvm, self.invalid_list)

    def sync(self, vcpu: Vcpu | None, always_flush: u32) -> None:
        """Sync the page found if it is unsync; if that fails it is zapped, and `found` is None."""
        sp: ShadowPage | None = self.found
        if sp is None or not sp.unsync or vcpu is None:
            return
        result: i64 = kvm_sync_page(vcpu, sp, self.invalid_list)
        if result < 0:
            self.found = None
        elif result > 0 or always_flush:
            kvm_flush_remote_tlbs(self.kvm)

    def forget_flooding(self) -> None:
        """Reset the flood counter of the page found: it is in use."""
        if self.found is not None and not self.found.role & ROLE_DIRECT:
            self.found.write_flooding_count = 0


def get_page_by_flow(
    kvm: Kvm,
    vcpu: Vcpu | None,
    shadow_pages: MemoryCache,
    translation_pages: MemoryCache,
    gfn: u64,
    role: u32,
) -> ShadowPage:
    """Return the shadow page for gfn with that role, found or new, by the design's flow, which is not the
    merged one.
    """
    flow: u32 = kvm.design.get_page_flow
    search: PageSearch = PageSearch(kvm, gfn, role)
    if flow == GET_PAGE_SKETCH:
        search.sync(vcpu, 1)
        search.forget_flooding()
        search.count_collisions()
        search.commit()
    elif flow == GET_PAGE_V3:
        search.forget_flooding()
        search.count_collisions()
        search.sync(vcpu, 1)
        search.commit()
    else:
        search.sync(vcpu, 0)
        search.forget_flooding()
    found: ShadowPage | None = search.found
    sp: ShadowPage
    if found is None:
        sp = _make(kvm, shadow_pages, translation_pages, gfn, search.bucket, role)
    else:
        sp = found
    if kvm.tracing:
        kvm.tracer.kvm_mmu_get_page(sp, found is None)
    if flow == GET_PAGE_SINGLE:
        search.commit()
        search.count_collisions()
    return sp


def _make(
    kvm: Kvm, shadow_pages: MemoryCache, translation_pages: MemoryCache, gfn: u64, bucket: u64, role: u32
) -> ShadowPage:
    """Return a new page and count the miss. Raises OutOfFrames; the sketch has not counted a miss then."""
    missed_late: u32 = kvm.design.get_page_flow == GET_PAGE_SKETCH
    if not missed_late:
        kvm.stat.mmu_cache_miss += 1
    sp: ShadowPage = kvm_mmu_alloc_shadow_page(kvm, shadow_pages, translation_pages, gfn, bucket, role)
    if missed_late:
        kvm.stat.mmu_cache_miss += 1
    return sp
