"""Emptying an SPTE that a table replaces, and the flush for it (__link_shadow_page; mail 001).

Three generations: once a huge SPTE was dropped and its range flushed, always (drop_large_spte, before 5.20).
Then eager splits skipped the flush where the table maps what the huge SPTE did. The stable kernels zap
whatever is there, a table too, and flush everything.
"""

from cython import uint as u32, ulonglong as u64

from ..bits import (
    DEFECT_REPLACED_UNFLUSHED,
    ROLE_LEVEL,
    SPLIT_FLUSH_ALWAYS,
    SPLIT_FLUSH_IF_NOT_IDENTICAL,
    SPLIT_FLUSH_STABLE,
)
from ..spte.flush import kvm_flush_remote_tlbs_range
from ..spte.huge_page import pages_per_hpage
from ..spte.rmap import drop_spte
from ..spte.spte import is_last_spte, page_gfn, spte_index
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from .zap import kvm_mmu_remote_flush_or_zap, mmu_page_zap_pte


def split_needs_flush(kvm: Kvm, leads_on: u32) -> bool:
    """Return whether the table that an eager split links makes a flush necessary, in designs that ask.

    `leads_on`: an SPTE of the table existed before and leads to a further table, which may map only a part of
    what the huge SPTE did. Unmapping without a flush is wrong: a later unmapping of the rest finds nothing
    there and does not flush either.
    """
    rule: u32 = kvm.design.split_flush
    return rule == SPLIT_FLUSH_ALWAYS or (rule == SPLIT_FLUSH_IF_NOT_IDENTICAL and leads_on != 0)


def zap_replaced_spte(kvm: Kvm, sptep: u64, flush: u32) -> None:
    """Empty the present SPTE at sptep and flush. `flush` 0: a huge SPTE needs no flush, unless the design
    always does.
    """
    parent: ShadowPage = kvm.sptep_to_sp(sptep)
    level: u32 = parent.role & ROLE_LEVEL
    if kvm.design.split_flush == SPLIT_FLUSH_STABLE or not is_last_spte(kvm.words[sptep >> 3], level):
        invalid_list: list[ShadowPage] = []
        mmu_page_zap_pte(kvm, parent, sptep, invalid_list)
        flush = kvm.design.defect != DEFECT_REPLACED_UNFLUSHED
        kvm_mmu_remote_flush_or_zap(kvm, invalid_list, flush)
        return
    drop_spte(kvm, sptep)
    if flush:
        start: u64 = page_gfn(kvm, parent, spte_index(sptep))
        if kvm.design.ranged_flush_start:
            start = parent.gfn
        kvm_flush_remote_tlbs_range(kvm, start, pages_per_hpage(level))
