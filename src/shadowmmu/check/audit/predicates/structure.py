"""Shadow pages: their lists, their hash, their names, their generation (I1 .. I6, I29, I30, I32)."""

from collections import Counter
from collections.abc import Iterator

from ....kvm.bits import MEMSLOT_INVALID, ROLE_DIRECT, ROLE_INVALID, SPTE_MMU_PRESENT
from ....kvm.state.vm import Kvm
from ..predicate import Finding, Scope, of_page, predicate
from ..shadow_copy import Page
from ..tables import Tables

PAGES_OF_ONE_FAULT = 16


@predicate(
    "page-hashed",
    Scope.PAGE,
    "every shadow page is in the hash bucket of its gfn",
    "kvm_mmu_alloc_shadow_page",
    "kvm_mmu_free_shadow_page",
)
def _page_hashed(t: Tables, page: Page) -> Iterator[Finding]:
    if not any(other is page.sp for other in t.kvm.hashed_pages(page.gfn)):
        yield of_page(page, f"{t.page_name(page.hpa)} is not in its hash bucket")


@predicate(
    "page-listed",
    Scope.PAGE,
    "a page is on the list of active pages unless it was zapped; a zapped one exists only while it is a root",
    "__kvm_mmu_prepare_zap_page",
    "kvm_mmu_free_roots",
)
def _page_listed(t: Tables, page: Page) -> Iterator[Finding]:
    zapped = bool(page.role & ROLE_INVALID)
    if bool(page.sp.on_list) == zapped:
        state = "was zapped but is" if zapped else "is valid but not"
        yield of_page(page, f"{t.page_name(page.hpa)} {state} on the list of active pages")
    if zapped and not page.sp.root_count:
        yield of_page(page, f"{t.page_name(page.hpa)} was zapped, is not a root, and was not freed")


@predicate(
    "page-unique",
    Scope.PAGE,
    "gfn and role identify at most one valid page",
    "kvm_mmu_find_shadow_page",
)
def _page_unique(t: Tables, page: Page) -> Iterator[Finding]:
    same = t.named.get((page.gfn, page.role), set())
    if page.valid and len(same) > 1:
        names = " and ".join(t.page_name(hpa) for hpa in sorted(same))
        yield Finding(f"{names} have the same gfn and role", pages=tuple(sorted(same)))


@predicate(
    "zapped-page-empty",
    Scope.PAGE,
    "a zapped page maps nothing and nothing points to it",
    "__kvm_mmu_prepare_zap_page",
    "kvm_mmu_page_unlink_children",
    "kvm_mmu_unlink_parents",
)
def _zapped_page_empty(t: Tables, page: Page) -> Iterator[Finding]:
    if not page.role & ROLE_INVALID:
        return
    if page.sp.parent_ptes:
        yield of_page(page, f"{t.page_name(page.hpa)} was zapped but has parents")
    for spte in t.sptes_of(page):
        if spte.value & SPTE_MMU_PRESENT:
            says = f"{t.page_name(page.hpa)} was zapped but {t.spte_name(spte.address)} is present"
            yield Finding(says, sptes=(spte.address,))
            return


@predicate(
    "generation",
    Scope.PAGE,
    "pages of the old generation exist only as zapped roots",
    "kvm_mmu_zap_all_fast",
    "kvm_zap_obsolete_pages",
)
def _generation(t: Tables, page: Page) -> Iterator[Finding]:
    if page.sp.mmu_valid_gen != t.kvm.mmu_valid_gen and not page.role & ROLE_INVALID:
        yield of_page(page, f"{t.page_name(page.hpa)} is still of generation {page.sp.mmu_valid_gen}")


@predicate(
    "nx-page",
    Scope.PAGE,
    "only direct pages are marked for the NX mitigation, and only marked ones are listed for recovery",
    "account_nx_huge_page",
    "track_possible_nx_huge_page",
)
def _nx_page(t: Tables, page: Page) -> Iterator[Finding]:
    yield from _about_nx(t, page)


@predicate(
    "tdp-nx-page",
    Scope.TDP_PAGE,
    "as nx-page, for tables of the TDP MMU",
    "track_possible_nx_huge_page",
    "tdp_mmu_unlink_sp",
)
def _tdp_nx_page(t: Tables, page: Page) -> Iterator[Finding]:
    yield from _about_nx(t, page)


def _about_nx(t: Tables, page: Page) -> Iterator[Finding]:
    sp = page.sp
    if sp.tracked_nx_huge_page and not sp.nx_huge_page_disallowed:
        yield of_page(
            page,
            f"{t.page_name(page.hpa)} is listed for NX recovery but not marked as needed by the mitigation",
        )
    if sp.nx_huge_page_disallowed and not page.role & ROLE_DIRECT:
        yield of_page(
            page,
            f"{t.page_name(page.hpa)} shadows a guest table but is marked as needed by the NX mitigation",
        )


@predicate(
    "nx-list",
    Scope.VM,
    "possible_nx_huge_pages holds the tracked pages, and nx_lpage_splits is their number",
    "track_possible_nx_huge_page",
    "unaccount_nx_huge_page",
)
def _nx_list(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    listed = kvm.possible_nx_huge_pages
    if len(listed) != kvm.stat.nx_lpage_splits:
        yield Finding(f"nx_lpage_splits is {kvm.stat.nx_lpage_splits}, {len(listed)} pages are listed")
    for sp in listed:
        page = t.pages.get(sp.hpa)
        if page is None or page.sp is not sp:
            yield Finding(f"a freed page, {sp!r}, is listed for NX recovery")
        elif not sp.tracked_nx_huge_page:
            yield of_page(page, f"{t.page_name(page.hpa)} is listed for NX recovery but not marked")


@predicate(
    "pages-counted",
    Scope.VM,
    "n_used_mmu_pages counts the active pages and the zapped roots, and stays near its limit",
    "kvm_mod_used_mmu_pages",
    "make_mmu_pages_available",
)
def _pages_counted(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    off_list = (page for page in t.pages.values() if not page.sp.on_list)
    zapped = sum(not page.tdp and not page.special for page in off_list)
    there = len(t.active) + zapped
    if kvm.n_used_mmu_pages != there:
        yield Finding(f"n_used_mmu_pages is {kvm.n_used_mmu_pages}, there are {there} pages")
    if kvm.n_used_mmu_pages > kvm.n_max_mmu_pages + PAGES_OF_ONE_FAULT:
        yield Finding(f"n_used_mmu_pages is {kvm.n_used_mmu_pages}, the limit {kvm.n_max_mmu_pages}")


@predicate(
    "active-order",
    Scope.VM,
    "the list of active pages is in the order in which they were made",
    "kvm_mmu_alloc_shadow_page",
    "kvm_mmu_zap_oldest_mmu_pages",
)
def _active_order(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    if len(set(map(id, t.active))) != len(t.active):
        yield Finding("a page is on the list of active pages twice")
    if t.active == t.former_active:
        return
    former, now = t.former_active, t.active
    if kvm.design.value("active_pages") != "fifo":
        former, now = former[::-1], now[::-1]
    old = {id(sp): n for n, sp in enumerate(former)}
    kept = [old[id(sp)] for sp in now if id(sp) in old]
    if kept != sorted(kept) or any(id(sp) not in old for sp in now[len(now) - len(kept) :]):
        yield Finding("pages changed their places on the list of active pages")


@predicate(
    "no-page-twice",
    Scope.SWEEP,
    "every active page is on the list once, and is the owner of its frame",
    "kvm_mmu_alloc_shadow_page",
)
def _no_page_twice(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    for sp, count in Counter(kvm.active_mmu_pages.pages()).items():
        if count > 1 or kvm.page_at(sp.hpa) is not sp:
            yield Finding(f"{sp!r} is on the list of active pages but not at its address")


@predicate(
    "active-list-intact",
    Scope.VM,
    "no page was put on the list of pages to be freed while it was on the list of active pages",
    "__kvm_mmu_prepare_zap_page",
    "kvm_mmu_child_role",
)
def _active_list_intact(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    count = kvm.active_mmu_pages.corrupted
    if count:
        yield Finding(f"{count} invalid pages were zapped while they were on the list of active pages")


@predicate(
    "slots-settled",
    Scope.VM,
    "no memory slot is flagged KVM_MEMSLOT_INVALID once the ioctl is done",
    "kvm_set_memslot",
)
def _slots_settled(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    for slot in kvm.memslots:
        if slot.flags & MEMSLOT_INVALID:
            yield Finding(f"slot {slot.id} is still flagged KVM_MEMSLOT_INVALID")
    if kvm.mmu_valid_gen not in (0, 1):
        yield Finding(f"mmu_valid_gen is {kvm.mmu_valid_gen}")
