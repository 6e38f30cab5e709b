"""Guest tables and their shadow: agreement, unsync, write protection, tracking (I15 .. I25, I31)."""

from collections import Counter
from collections.abc import Iterator

from ....kvm.bits import (
    ROLE_4BYTE_GPTE,
    ROLE_CR0_WP,
    ROLE_GUEST_MODE,
    SPTE_MMU_PRESENT,
    UNSYNC_NEVER,
    UNSYNC_NOT_NESTED,
)
from ....kvm.spte.mmio import get_mmio_spte_generation, get_mmio_spte_gfn, is_mmio_spte, mmio_generation
from ....kvm.state.memslots import MemSlot
from ....kvm.state.vm import Kvm
from ....x86.bits import ACC_W, ADDR, PS, A, D, P, U, W
from ..predicate import Finding, Scope, of_page, of_spte, predicate
from ..shadow_copy import Page, Spte, pages_at
from ..tables import Tables


def _shadowed_entry(t: Tables, spte: Spte) -> int | None:
    """Return the guest's entry that an SPTE must agree with; None if it need not."""
    page = spte.page
    if page.tdp or not page.valid or not page.has_gptes or page.unsync or page.gfn in t.unseen:
        return None
    return None if _is_nested_pae_directory(t, page) else t.gpte(page, spte.index)


def _is_nested_pae_directory(t: Tables, page: Page) -> bool:
    """Return whether a PDPTE of nested tables names the guest's table: KVM may link the directory of another
    PDPTE there.

    A walk reads these PDPTEs again (nested_svm_get_tdp_pdptr); the shadow keeps the directories that they
    named when the root was loaded.
    """
    if page.level != 2 or not page.role & ROLE_GUEST_MODE or page.role & ROLE_4BYTE_GPTE:
        return False
    return all(t.pages[address & ~0xFFF].special for address in t.pointing.get(page.hpa, ()))


def _granted(page: Page, gpte: int) -> int:
    """Return the ACC_* that a gpte grants within the role of the page."""
    return ((gpte & 7) ^ (gpte >> 63)) & page.access


def _writable_table(t: Tables, gfn: int) -> bool:
    slot = t.kvm.gfn_to_memslot(gfn)
    return slot is not None and slot.writable()


def _shadows(t: Tables, spte: Spte, gpte: int) -> str:
    return f"{t.spte_name(spte.address)} shadows {gpte:#x}"


@predicate(
    "shadow-of-present",
    Scope.ENTRY,
    "what a synced page maps is present and Accessed in the guest's table",
    "FNAME(prefetch_invalid_gpte)",
    "FNAME(sync_spte)",
    "kvm_mmu_track_write",
)
def _shadow_of_present(t: Tables, spte: Spte) -> Iterator[Finding]:
    gpte = _shadowed_entry(t, spte)
    if gpte is None:
        return
    if not gpte & P:
        yield of_spte(spte, f"{_shadows(t, spte, gpte)}, which is not present")
    elif not gpte & A and _writable_table(t, spte.page.gfn):
        yield of_spte(spte, f"{_shadows(t, spte, gpte)}, which is not Accessed")


@predicate(
    "shadow-of-frame",
    Scope.ENTRY,
    "an SPTE of a synced page maps the frame, or the table, that the guest's entry names",
    "FNAME(sync_spte)",
    "kvm_mmu_track_write",
    "kvm_mmu_get_child_sp",
)
def _shadow_of_frame(t: Tables, spte: Spte) -> Iterator[Finding]:
    gpte = _shadowed_entry(t, spte)
    if gpte is None or not gpte & P:
        return
    gfn, page = (gpte & ADDR) >> 12, spte.page
    if not spte.present:
        kept = gfn & (t.kvm.shadow_mmio_gfn_mask | t.kvm.shadow_nonpresent_or_rsvd_mask) >> 12
        mmio = get_mmio_spte_gfn(t.kvm, spte.value) if is_mmio_spte(t.kvm, spte.value) else kept
        if page.level == 1 and mmio != kept:
            yield of_spte(spte, f"{_shadows(t, spte, gpte)} but is an MMIO SPTE for gfn {mmio:x}")
    elif spte.is_leaf:
        if page.level == 1 and spte.gfn != gfn:
            yield of_spte(spte, f"{_shadows(t, spte, gpte)} but maps gfn {spte.gfn:x}")
        elif page.level > 1 and not gpte & PS:
            yield of_spte(spte, f"{_shadows(t, spte, gpte)}, a table, but maps a page")
    else:
        child = t.child(spte)
        if child is None:
            return
        if child.has_gptes and child.gfn != gfn:
            yield of_spte(spte, f"{_shadows(t, spte, gpte)} but leads to gfn {child.gfn:x}")
        elif not child.has_gptes and not gpte & PS:
            yield of_spte(spte, f"{_shadows(t, spte, gpte)}, a table, but leads to a direct page")


@predicate(
    "shadow-of-rights",
    Scope.ENTRY,
    "a leaf of a synced page allows no more than the guest's entry; a child's role has exactly its rights",
    "FNAME(walk_addr_generic)",
    "FNAME(sync_spte)",
    "kvm_mmu_child_role",
)
def _shadow_of_rights(t: Tables, spte: Spte) -> Iterator[Finding]:
    gpte = _shadowed_entry(t, spte)
    if gpte is None or not gpte & P or not spte.present:
        return
    page, granted = spte.page, _granted(spte.page, gpte)
    if spte.is_leaf:
        if not gpte & D and _writable_table(t, page.gfn):
            granted &= ~ACC_W
        if not page.role & ROLE_CR0_WP and spte.value & W and not spte.value & U:
            granted |= ACC_W
        if spte.rights & ~granted:
            yield of_spte(spte, f"{_shadows(t, spte, gpte)} but allows more")
        return
    child = t.child(spte)
    if child is not None and child.has_gptes and child.access != granted:
        says = f"{_shadows(t, spte, gpte)} but leads to {t.page_name(child.hpa)}, a page of other rights"
        yield Finding(says, (spte.address,), (child.hpa,))


@predicate(
    "mmio-generation",
    Scope.ENTRY,
    "an SPTE that is neither present nor empty is an MMIO SPTE, of no future generation",
    "make_mmio_spte",
    "check_mmio_spte",
    "kvm_mmu_invalidate_mmio_sptes",
)
def _mmio_generation(t: Tables, spte: Spte) -> Iterator[Finding]:
    if spte.value & SPTE_MMU_PRESENT or spte.value == t.kvm.frozen_spte:
        return
    name = t.spte_name(spte.address)
    if not is_mmio_spte(t.kvm, spte.value):
        yield of_spte(spte, f"{name} is {spte.value:#x}: neither present nor empty nor MMIO")
    elif get_mmio_spte_generation(t.kvm, spte.value) > mmio_generation(t.kvm):
        yield of_spte(spte, f"{name} is of a future MMIO generation")


@predicate(
    "mmio-is-no-memory",
    Scope.ENTRY,
    "an MMIO SPTE of the current generation is for a frame that no slot has, unless a sync renewed it",
    "check_mmio_spte",
    "kvm_mmu_invalidate_mmio_sptes",
)
def _mmio_is_no_memory(t: Tables, spte: Spte) -> Iterator[Finding]:
    if spte.present or not is_mmio_spte(t.kvm, spte.value):
        return
    if spte.page.has_gptes:  # sync_mmio_spte gives it the current generation without a look at the slots
        return
    current = get_mmio_spte_generation(t.kvm, spte.value) == mmio_generation(t.kvm)
    if current and t.kvm.gfn_to_memslot(spte.gfn) is not None:
        name = t.spte_name(spte.address)
        yield of_spte(spte, f"{name} is an MMIO SPTE for gfn {spte.gfn:x}, which a slot has")


# -- unsync ----------------------------------------------------------------------------------------------


@predicate(
    "unsync-is-leaf-table",
    Scope.ANY_PAGE,
    "only leaf tables are unsync, and only if nothing shadows their gfn as an upper table",
    "mmu_try_to_unsync_pages",
    "kvm_mmu_find_shadow_page",
)
def _unsync_is_leaf_table(t: Tables, page: Page) -> Iterator[Finding]:
    if page.unsync and (page.level != 1 or not page.has_gptes):
        yield of_page(page, f"{t.page_name(page.hpa)} is unsync but does not shadow a leaf table")
    if not page.valid or not page.has_gptes:
        return
    others = [other for other in t.valid_at(page.gfn) if page.unsync and other.level > 1]
    others += [other for other in t.valid_at(page.gfn) if page.level > 1 and other.unsync]
    if others:
        names = f"{t.page_name(page.hpa)} and {t.page_name(others[0].hpa)}"
        says = f"{names} shadow one gfn: one is unsync, one upper"
        yield Finding(says, pages=(page.hpa, others[0].hpa))


@predicate(
    "unsync-marked",
    Scope.LINK,
    "every way down to an unsync page is marked",
    "mark_unsync",
    "kvm_mmu_mark_parents_unsync",
    "link_shadow_page",
)
def _unsync_marked(t: Tables, spte: Spte) -> Iterator[Finding]:
    child = t.child(spte)
    if (
        child is not None
        and (child.unsync or child.sp.unsync_children)
        and spte.index not in spte.page.marked
    ):
        what = "is unsync" if child.unsync else "leads to unsync pages"
        says = f"{t.spte_name(spte.address)} is not marked, but {t.page_name(child.hpa)} below it {what}"
        yield Finding(says, (spte.address,), (child.hpa,))


@predicate(
    "unsync-counted",
    Scope.ANY_PAGE,
    "unsync_children counts the marks of a page",
    "__mmu_unsync_walk",
    "clear_unsync_child_bit",
)
def _unsync_counted(t: Tables, page: Page) -> Iterator[Finding]:
    if page.sp.unsync_children != len(page.marked):
        says = f"unsync_children is {page.sp.unsync_children}, {len(page.marked)} SPTEs are marked"
        yield of_page(page, f"{t.page_name(page.hpa)}: {says}")
    if page.sp.unsync_children and page.level < 2:
        yield of_page(page, f"{t.page_name(page.hpa)} is a leaf table with unsync children")


@predicate(
    "unsync-statistic",
    Scope.VM,
    "mmu_unsync counts the unsync pages",
    "kvm_unsync_page",
    "kvm_unlink_unsync_page",
)
def _unsync_statistic(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    if kvm.stat.mmu_unsync != t.unsync_pages:
        yield Finding(f"mmu_unsync is {kvm.stat.mmu_unsync}, there are {t.unsync_pages} unsync pages")


# -- write protection ------------------------------------------------------------------------------------


def _protected_in(t: Tables, first: int, pages: int) -> int | None:
    """Return a gfn in the range whose table must not be written without KVM seeing it, or None."""
    if pages > len(t.shadowing):
        gfns = [gfn for gfn in t.shadowing if first <= gfn < first + pages]
    else:
        gfns = [gfn for gfn in range(first, first + pages) if gfn in t.shadowing]
    return next((gfn for gfn in gfns if t.is_protected(gfn)), None)


@predicate(
    "table-write-protected",
    Scope.LEAF,
    "no SPTE allows a write to a guest table that is shadowed in sync, in either MMU",
    "account_shadowed",
    "kvm_mmu_slot_gfn_write_protect",
    "mmu_try_to_unsync_pages",
)
def _table_write_protected(t: Tables, spte: Spte) -> Iterator[Finding]:
    if not (spte.value & W or spte.mmu_writable) or _is_leftover(t, spte):
        return
    gfn = _protected_in(t, spte.gfn, pages_at(spte.level))
    if gfn is not None:
        shadow = next(page for page in t.valid_at(gfn) if not page.unsync)
        name, by = t.spte_name(spte.address), t.page_name(shadow.hpa)
        says = f"{name} allows writes to table {gfn:x}, shadowed by {by}"
        yield Finding(says, (spte.address,), (shadow.hpa,))


@predicate(
    "shadowed-table-write-protected",
    Scope.PAGE,
    "as table-write-protected, for a page that begins to shadow a table or becomes in sync",
    "account_shadowed",
    "mmu_sync_children",
)
def _shadowed_table_write_protected(t: Tables, page: Page) -> Iterator[Finding]:
    if not page.valid or not page.has_gptes or page.unsync:
        return
    for address in t.maps_of(page.gfn):
        spte = t.spte(address)
        if spte is not None and (spte.value & W or spte.mmu_writable) and not _is_leftover(t, spte):
            name = t.spte_name(address)
            says = f"{name} allows writes to table {page.gfn:x}, shadowed by {t.page_name(page.hpa)}"
            yield Finding(says, (address,), (page.hpa,))
            return


def _is_leftover(t: Tables, spte: Spte) -> bool:
    """Return whether an SPTE is in a tree of the TDP MMU that no vCPU may enter any more."""
    return spte.page.tdp and not any(not root.role & 1 << 11 for root in t.kvm.tdp_mmu_roots)


# -- accounting ------------------------------------------------------------------------------------------


@predicate(
    "write-tracked",
    Scope.TABLE,
    "a gfn is write-tracked if and only if it is shadowed as an upper-level table",
    "account_shadowed",
    "unaccount_shadowed",
    "__kvm_write_track_add_gfn",
)
def _write_tracked(t: Tables, gfn: int) -> Iterator[Finding]:
    slot = t.kvm.gfn_to_memslot(gfn)
    if slot is None:
        return
    upper = [hpa for hpa in sorted(t.shadowing.get(gfn, ())) if _is_tracked(t, t.pages[hpa])]
    if t.kvm.write_tracked(slot, gfn) != bool(upper):
        says = f"gfn {gfn:x} is {'not ' if upper else ''}write-tracked"
        by = f"shadowed as an upper table by {t.page_name(upper[0])}" if upper else "not an upper table"
        yield Finding(f"{says} but {by}", pages=tuple(upper))


def _is_tracked(t: Tables, page: Page) -> bool:
    """Return whether the guest table of a page is write-tracked: upper-level tables, and those that may not
    become unsync.
    """
    rule = t.kvm.design.unsync
    nested = bool(page.role & ROLE_GUEST_MODE)
    return page.level > 1 or rule == UNSYNC_NEVER or (rule == UNSYNC_NOT_NESTED and nested)


@predicate(
    "huge-page-disallowed",
    Scope.TABLE,
    "disallow_lpage counts the shadowed tables in a huge page, and 1 more where alignment forbids it",
    "update_gfn_disallow_lpage_count",
    "kvm_alloc_memslot_metadata",
)
def _huge_page_disallowed(t: Tables, gfn: int) -> Iterator[Finding]:
    slot = t.kvm.gfn_to_memslot(gfn)
    if slot is None:
        return
    for level in (2, 3):
        first = gfn & -pages_at(level)
        due = t.regions[slot.id, level, first] + (first in forbidden(slot, level))
        if slot.disallow_lpage(gfn, level) != due:
            found = slot.disallow_lpage(gfn, level)
            pages = tuple(sorted(t.shadowing.get(gfn, ())))
            yield Finding(
                f"disallow_lpage of level {level} at gfn {first:x} is {found}, not {due}", pages=pages
            )


@predicate(
    "tracking-counted",
    Scope.SWEEP,
    "write-tracking and disallow_lpage counts of all frames are those of the shadowed tables",
    "account_shadowed",
    "unaccount_shadowed",
)
def _tracking_counted(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    for slot in kvm.memslots:
        upper = Counter(
            gfn
            for gfn, hpas in t.shadowing.items()
            if slot.base_gfn <= gfn < slot.base_gfn + slot.npages
            for hpa in hpas
            if _is_tracked(t, t.pages[hpa])
        )
        if dict(slot.tracked()) != dict(upper):
            yield Finding(
                f"slot {slot.id}: write-tracking counts {slot.tracked()}, tables {sorted(upper.items())}"
            )
        for level in (2, 3):
            due = Counter(forbidden(slot, level))
            due.update({key[2]: n for key, n in t.regions.items() if key[:2] == (slot.id, level)})
            due = +due
            if dict(slot.lpage_entries(level)) != dict(due):
                wrong = set(slot.lpage_entries(level)) ^ set(due.items())
                yield Finding(
                    f"slot {slot.id}: disallow_lpage of level {level} differs at {sorted(wrong)[:4]}"
                )


def forbidden(slot: MemSlot, level: int) -> range | set[int]:
    """Return the first gfns of the pages of `level` that must not be huge because of the slot's edges or host
    address.
    """
    pages = pages_at(level)
    every = range(slot.base_gfn & -pages, slot.base_gfn + slot.npages, pages)
    if (slot.base_gfn ^ ((slot.mapping.hva >> 12) + slot.first_page)) % pages:
        return every
    edges = set()
    if slot.base_gfn % pages:
        edges.add(every[0])
    if (slot.base_gfn + slot.npages) % pages:
        edges.add(every[-1])
    return edges


@predicate(
    "indirect-pages-counted",
    Scope.VM,
    "indirect_shadow_pages counts the pages that shadow guest tables",
    "account_shadowed",
    "unaccount_shadowed",
)
def _indirect_pages_counted(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    there = sum(len(hpas) for hpas in t.shadowing.values())
    if kvm.indirect_shadow_pages != there:
        yield Finding(f"indirect_shadow_pages is {kvm.indirect_shadow_pages}, there are {there}")
