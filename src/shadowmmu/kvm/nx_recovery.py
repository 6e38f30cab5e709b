"""NX huge pages: switching the mitigation, and getting huge pages back (mmu.c, 6.12.111)."""

from .shadow_page import ShadowPage
from .vm import Kvm
from .zap import (
    kvm_mmu_prepare_zap_page,
    kvm_mmu_remote_flush_or_zap,
    kvm_mmu_zap_all_fast,
    unaccount_nx_huge_page,
)


def set_nx_huge_pages(kvm: Kvm, value: str) -> bool:
    """Write the module parameter: off, force, auto or a boolean; False if it is none of these.

    A change zaps every shadow page. auto means off here: the processor has no iTLB multihit bug.
    """
    words = {"off": False, "auto": False, "force": True}
    if value in words:
        new = words[value]
    elif value[:1] in "yYtT1":
        new = True
    elif value[:1] in "nNfF0":
        new = False
    else:
        return False
    if new != kvm.parameters.nx_huge_pages:
        kvm.parameters.nx_huge_pages = new
        kvm_mmu_zap_all_fast(kvm)
    return True


def kvm_recover_nx_huge_pages(kvm: Kvm) -> None:
    """One pass of the recovery worker: zap 1/ratio of the pages that stand for forbidden huge pages."""
    ratio = kvm.parameters.nx_huge_pages_recovery_ratio
    to_zap = -(-kvm.stat.nx_lpage_splits // ratio) if ratio else 0
    invalid_list: list[ShadowPage] = []
    for _ in range(to_zap):
        if not kvm.possible_nx_huge_pages:
            break
        sp = kvm.possible_nx_huge_pages[0]
        slot = kvm.gfn_to_memslot(sp.gfn)
        if slot is not None and slot.logs_dirty():
            unaccount_nx_huge_page(kvm, sp)
        else:
            kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
    kvm_mmu_remote_flush_or_zap(kvm, invalid_list, 0)
