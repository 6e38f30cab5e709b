"""SPTEs that point to tables, and the rights of leaf SPTEs (I7 .. I9, I23, N1)."""

from collections.abc import Iterator

from ....kvm.bits import (
    ROLE_4BYTE_GPTE,
    ROLE_ACCESS,
    ROLE_CR0_WP,
    ROLE_DIRECT,
    ROLE_GUEST_MODE,
    ROLE_INVALID,
    ROLE_LEVEL,
    ROLE_PASSTHROUGH,
    ROLE_QUADRANT,
    SPTE_MMU_PRESENT,
)
from ....kvm.spte.rmap import pte_list
from ....kvm.spte.spte import saved_rights
from ....x86.bits import ACC_W, ACC_X, ADDR, A, P, U, W
from ..predicate import Finding, Scope, of_spte, predicate
from ..shadow_copy import Page, Spte
from ..tables import Tables

INHERITED = ~(ROLE_LEVEL | ROLE_ACCESS | ROLE_DIRECT | ROLE_QUADRANT | ROLE_INVALID | ROLE_PASSTHROUGH)


@predicate(
    "parents-are-links",
    Scope.ANY_PAGE,
    "an SPTE points to a page if and only if it is among the page's parents, once",
    "kvm_mmu_link_parent_pte",
    "kvm_mmu_page_set_parent_pte",
    "drop_parent_pte",
)
def _parents_are_links(t: Tables, page: Page) -> Iterator[Finding]:
    parents = pte_list(t.kvm, page.sp.parents())
    pointing = t.pointing.get(page.hpa, set())
    if len(parents) == len(pointing) and pointing == set(parents):
        return
    name = t.page_name(page.hpa)
    for address in sorted({sptep for sptep in parents if parents.count(sptep) > 1}):
        yield Finding(f"{name} has parent {t.spte_name(address)} twice", (address,), (page.hpa,))
    for address in sorted(set(parents) - pointing):
        says = f"{name} has parent {t.spte_name(address)}, which does not point to it"
        yield Finding(says, (address,), (page.hpa,))
    for address in sorted(pointing - set(parents)):
        says = f"{t.spte_name(address)} points to {name}, which does not have it among its parents"
        yield Finding(says, (address,), (page.hpa,))


@predicate(
    "link-leads-to-table",
    Scope.LINK,
    "an SPTE that points to a table points to an allocated one, one level down",
    "link_shadow_page",
    "kvm_mmu_free_shadow_page",
)
def _link_leads_to_table(t: Tables, spte: Spte) -> Iterator[Finding]:
    child = t.child(spte)
    if child is None:
        yield of_spte(
            spte,
            f"{t.spte_name(spte.address)} points to {spte.value & ADDR:#x}, where no table is (any more)",
        )
    elif child.level != spte.level - 1:
        yield of_spte(
            spte, f"{t.spte_name(spte.address)} of level {spte.level} points to level {child.level}"
        )
    elif child.tdp != spte.page.tdp:
        yield of_spte(spte, f"{t.spte_name(spte.address)} points to a table of the other MMU")


@predicate(
    "child-role",
    Scope.LINK,
    "a child's role follows from its parent's: what it inherits, quadrant, direct below direct",
    "kvm_mmu_child_role",
    "kvm_mmu_get_child_sp",
)
def _child_role(t: Tables, spte: Spte) -> Iterator[Finding]:
    child, parent = t.child(spte), spte.page
    if child is None or parent.tdp:
        return
    wrong = ""
    if (parent.role ^ child.role) & INHERITED:
        wrong = f"differs from its parent's in bits {(parent.role ^ child.role) & INHERITED:#x}"
    elif parent.role & ROLE_DIRECT and not child.role & ROLE_DIRECT:
        wrong = "is not direct below a direct page"
    elif child.role & ROLE_PASSTHROUGH:
        wrong = "is passthrough below the root"
    elif parent.role & ROLE_PASSTHROUGH and child.gfn != parent.gfn:
        wrong = "is of another gfn than its passthrough parent"
    elif child.quadrant != _quadrant_due(spte, child):
        wrong = f"has quadrant {child.quadrant}"
    if wrong:
        says = f"the role of {t.page_name(child.hpa)}, below {t.spte_name(spte.address)}, {wrong}"
        yield Finding(says, (spte.address,), (child.hpa,))


def _quadrant_due(spte: Spte, child: Page) -> int:
    if child.special or not spte.page.role & ROLE_4BYTE_GPTE:
        return 0
    return spte.index % (1 << child.level)


@predicate(
    "link-rights",
    Scope.LINK,
    "an SPTE that points to a table grants all rights: only leaf SPTEs restrict them",
    "make_nonleaf_spte",
)
def _link_rights(t: Tables, spte: Spte) -> Iterator[Finding]:
    bits, page = spte.value & ~ADDR, spte.page
    if page.special and page.level == 3 and not page.sp.parent_ptes:
        right = bits & ~A == SPTE_MMU_PRESENT | P  # a PDPTE, in which some processors set A
    else:
        right = bits == t.kvm.spte_nonleaf_bits
    if not right:
        yield of_spte(
            spte, f"{t.spte_name(spte.address)} points to a table with bits {spte.value & ~ADDR:#x}"
        )


@predicate(
    "leaf-within-role",
    Scope.LEAF,
    "a leaf SPTE allows no more than the role of its page",
    "make_spte",
    "kvm_mmu_get_shadow_page",
)
def _leaf_within_role(t: Tables, spte: Spte) -> Iterator[Finding]:
    page = spte.page
    converted = not page.role & ROLE_CR0_WP and spte.value & W and not spte.value & U
    if page.tdp or (converted and not page.role & ROLE_DIRECT):
        return
    allowed = page.access | (ACC_W if converted else 0)
    if spte.rights & ~allowed:
        yield of_spte(spte, f"{t.spte_name(spte.address)} allows more than the role of its page")


@predicate(
    "writable-chain",
    Scope.LEAF,
    "W implies MMU-writable, and MMU-writable implies host-writable",
    "make_spte",
    "spte_write_protect",
    "is_writable_pte",
)
def _writable_chain(t: Tables, spte: Spte) -> Iterator[Finding]:
    if spte.value & W and not spte.mmu_writable:
        yield of_spte(spte, f"{t.spte_name(spte.address)} is writable but not MMU-writable")
    elif spte.mmu_writable and not spte.host_writable:
        yield of_spte(spte, f"{t.spte_name(spte.address)} is MMU-writable but not host-writable")


@predicate(
    "leaf-bits",
    Scope.LEAF,
    "a leaf SPTE has the bits that all have, and can be read unless it is access-tracked",
    "make_spte",
    "mark_spte_for_access_track",
)
def _leaf_bits(t: Tables, spte: Spte) -> Iterator[Finding]:
    kept = t.kvm.spte_leaf_bits & ~t.kvm.shadow_acc_track_mask
    readable = saved_rights(t.kvm, spte.value) if spte.is_tracked else spte.value
    if spte.value & kept != kept or not readable & P:
        yield of_spte(spte, f"{t.spte_name(spte.address)} is not a leaf SPTE that the processor can use")


@predicate(
    "huge-not-executable",
    Scope.LEAF,
    "with nx_huge_pages no huge page is executable",
    "make_spte",
    "disallowed_hugepage_adjust",
    "set_nx_huge_pages",
)
def _huge_not_executable(t: Tables, spte: Spte) -> Iterator[Finding]:
    if spte.level > 1 and spte.rights & ACC_X and t.kvm.is_nx_huge_page_enabled():
        yield of_spte(spte, f"{t.spte_name(spte.address)} is huge and executable")


@predicate(
    "nested-role",
    Scope.LINK,
    "below a page for L2 are only pages for L2, and below one for L1 only pages for L1",
    "kvm_mmu_child_role",
    "kvm_calc_shadow_npt_root_page_role",
)
def _nested_role(t: Tables, spte: Spte) -> Iterator[Finding]:
    child = t.child(spte)
    if child is not None and (child.role ^ spte.page.role) & ROLE_GUEST_MODE:
        says = f"{t.spte_name(spte.address)} leads from one guest's tables to the other's"
        yield Finding(says, (spte.address,), (child.hpa,))
