"""Changing an SPTE of the TDP MMU, and the accounting that follows (arch/x86/kvm/mmu/tdp_mmu.c, 6.12.111).

There are three ways to store: compare-and-exchange with mmu_lock held for reading; with mmu_lock held for
writing an exchange, or a plain store where nobody else can change the SPTE; and via the frozen value where a
TLB flush must come before the next mapping.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR, W
from ..bits import ROLE_LEVEL, SPTE_MMU_PRESENT
from ..spte.atomic import cmpxchg64, fetch_andnot64, xchg64
from ..spte.flush import kvm_flush_remote_tlbs
from ..spte.nx_huge_page import unaccount_nx_huge_page
from ..spte.spte import count_pages, is_last_spte
from ..state.oops import KernelOops
from ..state.shadow_page import ShadowPage
from ..state.tdp_iter import TdpIter
from ..state.vm import Kvm
from .rcu import call_rcu


class InvalidSpteChange(KernelOops):
    """A mapping was replaced by one of another page without being zapped in between: the kernel panics."""


def spte_has_volatile_bits(kvm: Kvm, spte: u64) -> bool:
    """Return whether a fast page fault or the processor may change a present SPTE at any time."""
    writable: u64 = kvm.shadow_mmu_writable_mask
    if spte & (W | writable) == writable or not spte & kvm.spte_young_mask:
        return True
    return spte & W != 0 and not spte & kvm.spte_written_mask


def kvm_tdp_mmu_write_spte(kvm: Kvm, sptep: u64, old: u64, new: u64, level: u32) -> u64:
    """Store an SPTE with mmu_lock held for writing. Return what it really was."""
    if old & SPTE_MMU_PRESENT and is_last_spte(old, level) and spte_has_volatile_bits(kvm, old):
        return xchg64(kvm, sptep, new)
    kvm.words[sptep >> 3] = new
    return old


def tdp_mmu_set_spte(kvm: Kvm, sptep: u64, old: u64, new: u64, gfn: u64, level: u32) -> u64:
    """Change an SPTE with mmu_lock held for writing, with accounting. Return what it really was."""
    old = kvm_tdp_mmu_write_spte(kvm, sptep, old, new, level)
    handle_changed_spte(kvm, gfn, old, new, level, 0)
    return old


def tdp_mmu_iter_set_spte(kvm: Kvm, it: TdpIter, new: u64) -> None:
    """Change the walk's current SPTE with mmu_lock held for writing; it.old_spte is what it really was."""
    it.old_spte = tdp_mmu_set_spte(kvm, it.sptep, it.old_spte, new, it.gfn, it.level)


def _try_cmpxchg(kvm: Kvm, it: TdpIter, new: u64) -> bool:
    """Store if the SPTE is still it.old_spte, and set it.old_spte to what it was. Return whether it was
    stored.
    """
    expected: u64 = it.old_spte
    it.old_spte = cmpxchg64(kvm, it.sptep, expected, new)
    return it.old_spte == expected


def tdp_mmu_set_spte_atomic(kvm: Kvm, it: TdpIter, new: u64) -> bool:
    """Change the walk's current SPTE with mmu_lock held for reading. Return False, with nothing changed, if
    another CPU changed it first.

    it.old_spte must not be frozen: only the CPU that froze an SPTE may change it.
    """
    if not _try_cmpxchg(kvm, it, new):
        return False
    handle_changed_spte(kvm, it.gfn, it.old_spte, new, it.level, 1)
    return True


def tdp_mmu_zap_spte_atomic(kvm: Kvm, it: TdpIter) -> bool:
    """Empty the walk's current SPTE by way of the frozen value, so that nothing is mapped there before the
    TLBs are flushed. Return False if another CPU changed it first.
    """
    if not _try_cmpxchg(kvm, it, kvm.frozen_spte):
        return False
    if kvm.design.tdp_zap_reports_frozen:
        handle_changed_spte(kvm, it.gfn, it.old_spte, kvm.frozen_spte, it.level, 1)
    kvm_flush_remote_tlbs(kvm)
    kvm.words[it.sptep >> 3] = kvm.design.empty_spte
    if not kvm.design.tdp_zap_reports_frozen:
        handle_changed_spte(kvm, it.gfn, it.old_spte, kvm.design.empty_spte, it.level, 1)
    return True


def tdp_mmu_clear_spte_bits(kvm: Kvm, it: TdpIter, bits: u64) -> None:
    """Clear A, D or W with mmu_lock held for writing. It needs no accounting, and is traced here."""
    if spte_has_volatile_bits(kvm, it.old_spte):
        it.old_spte = fetch_andnot64(kvm, it.sptep, bits)
    else:
        kvm.words[it.sptep >> 3] = it.old_spte & ~bits
    if kvm.tracing:
        kvm.tracer.kvm_tdp_mmu_spte_changed(0, it.gfn, it.level, it.old_spte, it.old_spte & ~bits)


def handle_changed_spte(kvm: Kvm, gfn: u64, old: u64, new: u64, level: u32, shared: u32) -> int:
    """Account for a change of an SPTE from `old` to `new`: page statistics, tracepoint, a removed table.

    `shared`: mmu_lock is held for reading. Dirty logging is done where SPTEs become writable, not here.
    Raises InvalidSpteChange.
    """
    was_leaf: bool = old & SPTE_MMU_PRESENT != 0 and is_last_spte(old, level)
    is_leaf: bool = new & SPTE_MMU_PRESENT != 0 and is_last_spte(new, level)
    if was_leaf and is_leaf and (old ^ new) & ADDR:
        raise InvalidSpteChange(f"gfn {gfn:#x} level {level}: {old:#x} is replaced by {new:#x}")
    if old == new:
        return 0
    if kvm.tracing and not kvm.design.tdp_zap_traces_after:
        kvm.tracer.kvm_tdp_mmu_spte_changed(0, gfn, level, old, new)
    if is_leaf != was_leaf:
        count_pages(kvm, level, 1 if is_leaf else -1)
        if was_leaf and not old & kvm.spte_young_mask:
            kvm.tally.leaves_unused += 1
    if old & SPTE_MMU_PRESENT and not was_leaf and (is_leaf or not new & SPTE_MMU_PRESENT):
        handle_removed_pt(kvm, kvm.sptep_to_sp(old & ADDR), shared)
    if kvm.tracing and kvm.design.tdp_zap_traces_after:
        kvm.tracer.kvm_tdp_mmu_spte_changed(0, gfn, level, old, new)
    return 0


def handle_removed_pt(kvm: Kvm, sp: ShadowPage, shared: u32) -> None:
    """Freeze the SPTEs of an unlinked table for good, remove all tables below it, and free it.

    A walk that is still in the table cannot change a frozen SPTE. With mmu_lock held for reading another zap
    may be about to empty an SPTE that it froze: wait for that, else the SPTE could be used again.
    """
    if kvm.tracing:
        kvm.tracer.kvm_mmu_prepare_zap_page(sp)
    kvm.tdp_mmu_pages -= 1
    kvm.tally.tdp_tables_zapped += 1
    if sp.nx_huge_page_disallowed:
        unaccount_nx_huge_page(kvm, sp)
    level: u32 = sp.role & ROLE_LEVEL
    shift: u64 = 9 * (level - 1)
    i: u64
    old: u64
    for i in range(512):
        sptep: u64 = sp.spt + i * 8
        if shared:
            old = xchg64(kvm, sptep, kvm.frozen_spte)
            while old == kvm.frozen_spte:
                old = xchg64(kvm, sptep, kvm.frozen_spte)
        else:
            old = kvm.words[sptep >> 3]
            if not old & SPTE_MMU_PRESENT:
                continue
            old = kvm_tdp_mmu_write_spte(kvm, sptep, old, kvm.frozen_spte, level)
        handle_changed_spte(kvm, sp.gfn + (i << shift), old, kvm.frozen_spte, level, shared)
    call_rcu(kvm, sp)
