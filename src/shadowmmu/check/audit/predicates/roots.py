"""Roots: counted, cached once, current; which MMU runs (I26 .. I28, N2, N3)."""

from collections.abc import Iterator
from itertools import chain

from ....kvm.bits import INVALID_PAGE, REQ_MMU_FREE_OBSOLETE_ROOTS, ROLE_GUEST_MODE, ROLE_INVALID
from ....kvm.state.mmu import KvmMmu
from ....kvm.state.vcpu import Vcpu
from ....x86.bits import A, P, U, W
from ..predicate import Finding, Scope, of_page, predicate
from ..shadow_copy import Page
from ..tables import Tables


@predicate(
    "root-counted",
    Scope.PAGE,
    "root_count is the number of current and previous roots that are the page",
    "mmu_alloc_root",
    "mmu_free_root_page",
)
def _root_counted(t: Tables, page: Page) -> Iterator[Finding]:
    if page.sp.root_count != t.roots[page.hpa]:
        says = f"root_count is {page.sp.root_count}, it is a root {t.roots[page.hpa]} times"
        yield of_page(page, f"{t.page_name(page.hpa)}: {says}")


@predicate(
    "root-lives",
    Scope.VCPU,
    "a root of a vCPU is an allocated table of the right guest",
    "kvm_mmu_free_roots",
    "kvm_mmu_new_pgd",
)
def _root_lives(t: Tables, vcpu: Vcpu) -> Iterator[Finding]:
    for roots, of_l2 in zip(t.vcpu_roots[vcpu.id], (False, True), strict=True):
        for hpa in roots:
            page = t.pages.get(hpa)
            if page is None:
                yield Finding(
                    f"vCPU {vcpu.id} has {hpa:#x} as root, where no table is (any more)", vcpus=(vcpu,)
                )
            elif bool(page.role & ROLE_GUEST_MODE) != of_l2:
                yield of_page(page, f"root {t.page_name(hpa)} of vCPU {vcpu.id} is of the other guest")


@predicate(
    "root-not-obsolete",
    Scope.VCPU,
    "a vCPU with an obsolete root has a request to free it",
    "kvm_mmu_zap_all_fast",
    "kvm_mmu_free_obsolete_roots",
    "__kvm_mmu_prepare_zap_page",
)
def _root_not_obsolete(t: Tables, vcpu: Vcpu) -> Iterator[Finding]:
    if vcpu.requests & REQ_MMU_FREE_OBSOLETE_ROOTS:
        return
    for hpa in chain(*t.vcpu_roots[vcpu.id]):
        page = t.pages.get(hpa)
        if page is not None and not page.valid:
            says = f"vCPU {vcpu.id} keeps the obsolete root {t.page_name(hpa)} without a request to free it"
            yield Finding(says, pages=(hpa,), vcpus=(vcpu,))


@predicate(
    "root-cached-once",
    Scope.VCPU,
    "the current and the previous roots of an MMU differ in guest root or role",
    "cached_root_find_and_keep_current",
    "kvm_mmu_new_pgd",
)
def _root_cached_once(t: Tables, vcpu: Vcpu) -> Iterator[Finding]:
    for mmu in (vcpu.root_mmu, vcpu.guest_mmu):
        slots = [(mmu.root_pgd, mmu.root_hpa), *(mmu.prev_root(i) for i in range(3))]
        none = (0, INVALID_PAGE, mmu.special_root())
        names = [
            (pgd, t.pages[hpa].role)
            for pgd, hpa in slots
            if hpa not in none and hpa in t.pages and not t.pages[hpa].role & ROLE_INVALID
        ]
        if len(names) != len(set(names)):
            yield Finding(f"vCPU {vcpu.id} has a root cached twice", vcpus=(vcpu,))
        for _, hpa in (mmu.prev_root(i) for i in range(3)):
            if hpa != INVALID_PAGE and hpa in (0, mmu.special_root()):
                yield Finding(f"vCPU {vcpu.id} has cached a root that is not a shadow page", vcpus=(vcpu,))


@predicate(
    "mmu-of-guest",
    Scope.VCPU,
    "while L2 runs guest_mmu and nested_mmu are in use, else root_mmu",
    "nested_svm_init_mmu_context",
    "nested_svm_uninit_mmu_context",
)
def _mmu_of_guest(t: Tables, vcpu: Vcpu) -> Iterator[Finding]:
    nested = vcpu.guest_mode
    if (
        nested != (vcpu.mmu is vcpu.guest_mmu)
        or nested != (vcpu.walk_mmu is vcpu.nested_mmu)
        or nested != (vcpu.l1_state is not None)
    ):
        yield Finding(
            f"vCPU {vcpu.id} runs {'L2' if nested else 'L1'} on the MMU of the other", vcpus=(vcpu,)
        )


@predicate(
    "special-tables",
    Scope.VCPU,
    "each table above the four directories holds one SPTE, which points to the table below",
    "mmu_alloc_special_roots",
)
def _special_tables(t: Tables, vcpu: Vcpu) -> Iterator[Finding]:
    mmu: KvmMmu = vcpu.guest_mmu
    if not mmu.root_is_special():
        return
    above = [table for table in (mmu.pml5_root, mmu.pml4_root) if table]
    for table, below in zip(above, [*above[1:], mmu.pae_root], strict=True):
        words = t.kvm.read_table(table)
        if words[0] != below | P | W | U | A or any(words[1:]):
            yield Finding(f"vCPU {vcpu.id}: the table above pae_root is wrong", vcpus=(vcpu,))
    if any(t.kvm.read_table(mmu.pae_root)[4:]):
        yield Finding(f"vCPU {vcpu.id}: pae_root holds more than four entries", vcpus=(vcpu,))


@predicate(
    "special-pages",
    Scope.SPECIAL,
    "a special page is on no list, not hashed, the root of one vCPU or below it, and has few directories",
    "mmu_alloc_special_roots",
)
def _special_pages(t: Tables, page: Page) -> Iterator[Finding]:
    sp, name = page.sp, t.page_name(page.hpa)
    if not t.kvm.design.special_roots:
        yield of_page(page, f"{name} is special, but this design has no such pages")
    if sp.on_list or any(other is sp for other in t.kvm.hashed_pages(page.gfn)):
        yield of_page(page, f"{name} is special, but listed or hashed")
    due = 0 if sp.parent_ptes else 1
    if not sp.root_count == t.roots[page.hpa] == due:
        says = f"root_count is {sp.root_count}, it is a root {t.roots[page.hpa]} times"
        yield of_page(page, f"{name} is special: {says}")
    allowed = {0} if page.level > 3 else {0, 1, 2, 3}
    wrong = [spte for spte in t.sptes_of(page) if spte.present and spte.index not in allowed]
    if wrong:
        says = f"{name} is special, but {t.spte_name(wrong[0].address)} is present"
        yield Finding(says, (wrong[0].address,), (page.hpa,))
