"""Books about shadow pages that exist only because an executable page may not be huge (mmu.c, 6.12.111)."""

from cython import uint as u32

from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm


def account_nx_huge_page(kvm: Kvm, sp: ShadowPage, possible: u32) -> None:
    """`sp` exists because an executable page forbids a huge one; `possible`: else there could be one."""
    if not possible and kvm.design.nx_marks_only_possible_huge_pages:
        return
    sp.nx_huge_page_disallowed = True
    if possible:
        track_possible_nx_huge_page(kvm, sp)


def track_possible_nx_huge_page(kvm: Kvm, sp: ShadowPage) -> None:
    """Zapping the page would allow a huge page again."""
    if not sp.tracked_nx_huge_page:
        sp.tracked_nx_huge_page = True
        kvm.stat.nx_lpage_splits += 1
        kvm.possible_nx_huge_pages.append(sp)


def unaccount_nx_huge_page(kvm: Kvm, sp: ShadowPage) -> None:
    """The page no longer stands for a forbidden NX huge page."""
    sp.nx_huge_page_disallowed = False
    untrack_possible_nx_huge_page(kvm, sp)


def untrack_possible_nx_huge_page(kvm: Kvm, sp: ShadowPage) -> None:
    """Zapping the page would not allow a huge page any more."""
    if sp.tracked_nx_huge_page:
        sp.tracked_nx_huge_page = False
        kvm.stat.nx_lpage_splits -= 1
        kvm.possible_nx_huge_pages.remove(sp)
