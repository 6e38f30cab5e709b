"""The TDP MMU: trees, leaves, roots (T1, T3, T5, T9, T12)."""

from collections.abc import Iterator

from ....kvm.bits import ROLE_DIRECT, ROLE_INVALID
from ....kvm.state.vm import Kvm
from ....kvm.tracepoints.role_layout import layout_of
from ....x86.bits import ACC_U, PS
from ..predicate import Finding, Scope, of_page, of_spte, predicate
from ..shadow_copy import Page, Spte
from ..tables import Tables


@predicate(
    "tdp-linked-once",
    Scope.TDP_PAGE,
    "a table is linked at one place, its ptep, or is a root",
    "tdp_mmu_link_sp",
    "tdp_mmu_init_child_sp",
    "handle_removed_pt",
)
def _tdp_linked_once(t: Tables, page: Page) -> Iterator[Finding]:
    pointing = sorted(t.pointing.get(page.hpa, ()))
    is_root = any(sp is page.sp for sp in t.kvm.tdp_mmu_roots)
    name = t.page_name(page.hpa)
    if is_root and pointing:
        yield Finding(f"root {name} is linked", tuple(pointing), (page.hpa,))
    elif not is_root and len(pointing) != 1:
        yield Finding(f"{name} is linked at {len(pointing)} places", tuple(pointing), (page.hpa,))
    elif not is_root and page.sp.ptep != pointing[0]:
        says = f"the ptep of {name} is {t.spte_name(page.sp.ptep)}, where it is not linked"
        yield Finding(says, tuple(pointing), (page.hpa,))


@predicate(
    "tdp-child",
    Scope.LINK,
    "a table of the TDP MMU has the gfn and the role that its place implies",
    "tdp_mmu_init_child_sp",
)
def _tdp_child(t: Tables, spte: Spte) -> Iterator[Finding]:
    child, parent = t.child(spte), spte.page
    if child is None or not parent.tdp:
        return
    if child.gfn != spte.gfn:
        yield of_spte(spte, f"{t.spte_name(spte.address)} of gfn {spte.gfn:x} leads to gfn {child.gfn:x}")
    if child.role | ROLE_INVALID != (parent.role - 1) | ROLE_INVALID:
        role = layout_of(t.kvm.design).role(child.role)
        says = f"{t.spte_name(spte.address)} leads to {t.page_name(child.hpa)} of role {role:#x}"
        yield Finding(says, (spte.address,), (child.hpa,))


@predicate(
    "tdp-page",
    Scope.TDP_PAGE,
    "a table of the TDP MMU is direct, on no list, without parents, never unsync",
    "tdp_mmu_init_sp",
)
def _tdp_page(t: Tables, page: Page) -> Iterator[Finding]:
    sp = page.sp
    if not page.role & ROLE_DIRECT or sp.on_list or sp.parent_ptes or sp.unsync:
        yield of_page(page, f"{t.page_name(page.hpa)} looks like a page of the shadow MMU")


@predicate(
    "tdp-leaf",
    Scope.LEAF,
    "a leaf SPTE of the TDP MMU allows user accesses, and has PS above level 1",
    "make_spte",
    "tdp_mmu_map_handle_target_level",
)
def _tdp_leaf(t: Tables, spte: Spte) -> Iterator[Finding]:
    if not spte.page.tdp or spte.is_tracked:
        return
    if not spte.rights & ACC_U or (spte.level > 1 and not spte.value & PS):
        yield of_spte(spte, f"{t.spte_name(spte.address)} is not a valid leaf SPTE of the TDP MMU")


@predicate(
    "tdp-not-frozen",
    Scope.ENTRY,
    "no SPTE stays frozen",
    "tdp_mmu_zap_spte_atomic",
    "handle_removed_pt",
)
def _tdp_not_frozen(t: Tables, spte: Spte) -> Iterator[Finding]:
    if spte.value == t.kvm.frozen_spte:
        yield of_spte(spte, f"{t.spte_name(spte.address)} is frozen")


@predicate(
    "tdp-counted",
    Scope.VM,
    "tdp_mmu_pages counts the linked tables, and nobody is in an RCU section",
    "tdp_account_mmu_page",
    "tdp_unaccount_mmu_page",
)
def _tdp_counted(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    there = sum(page.tdp for page in t.pages.values()) - len(kvm.tdp_mmu_roots)
    if kvm.tdp_mmu_pages != there:
        yield Finding(f"tdp_mmu_pages is {kvm.tdp_mmu_pages}, there are {there} linked tables")
    if kvm.rcu_readers or kvm.rcu_waiting:
        yield Finding(f"{kvm.rcu_readers} RCU readers, {len(kvm.rcu_waiting)} tables that wait for them")


@predicate(
    "tdp-roots",
    Scope.VM,
    "a root is counted by its vCPUs and, while valid, by the MMU; valid ones differ in role",
    "kvm_tdp_mmu_alloc_root",
    "kvm_tdp_mmu_put_root",
    "kvm_tdp_mmu_invalidate_roots",
)
def _tdp_roots(t: Tables, kvm: Kvm) -> Iterator[Finding]:
    roles = [sp.role for sp in kvm.tdp_mmu_roots if not sp.role & ROLE_INVALID]
    if len(roles) != len(set(roles)):
        yield Finding("two valid roots have the same role", pages=tuple(sp.hpa for sp in kvm.tdp_mmu_roots))
    for sp in kvm.tdp_mmu_roots:
        page = t.pages.get(sp.hpa)
        if page is None:
            yield Finding(f"a freed table, {sp!r}, is among the roots")
            continue
        zapped = bool(sp.role & ROLE_INVALID)
        due = t.roots[sp.hpa] + (not zapped)
        if sp.root_count != due:
            yield of_page(page, f"root {t.page_name(sp.hpa)} is counted {sp.root_count} times, not {due}")
        if sp.scheduled_root_to_zap or (zapped and not t.roots[sp.hpa]):
            yield of_page(page, f"root {t.page_name(sp.hpa)} was zapped and not freed")
        if zapped and any(spte.present for spte in t.sptes_of(page)):
            yield of_page(page, f"root {t.page_name(sp.hpa)} was zapped but is not empty")
