"""Accounting of shadow pages that exist only because of the NX huge page mitigation (mmu.c, 6.12.111)."""

from cython import uint as u32

from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm


def account_nx_huge_page(kvm: Kvm, sp: ShadowPage, possible: u32) -> None:
    """Mark `sp` as needed because an executable page must not be huge; `possible`: without that it could be
    huge.
    """
    if not possible and kvm.design.nx_marks_only_possible_huge_pages:
        return
    sp.nx_huge_page_disallowed = True
    if possible:
        track_possible_nx_huge_page(kvm, sp)


def track_possible_nx_huge_page(kvm: Kvm, sp: ShadowPage) -> None:
    """Add a page to kvm.possible_nx_huge_pages: zapping it would allow a huge page again."""
    if not sp.tracked_nx_huge_page:
        sp.tracked_nx_huge_page = True
        kvm.stat.nx_lpage_splits += 1
        kvm.possible_nx_huge_pages.append(sp)


def unaccount_nx_huge_page(kvm: Kvm, sp: ShadowPage) -> None:
    """Clear the mark of a page that is zapped."""
    sp.nx_huge_page_disallowed = False
    untrack_possible_nx_huge_page(kvm, sp)


def untrack_possible_nx_huge_page(kvm: Kvm, sp: ShadowPage) -> None:
    """Remove a page from kvm.possible_nx_huge_pages."""
    if sp.tracked_nx_huge_page:
        sp.tracked_nx_huge_page = False
        kvm.stat.nx_lpage_splits -= 1
        kvm.possible_nx_huge_pages.remove(sp)
