"""Zapping in the TDP MMU: a range, a table, whole roots (tdp_mmu.c, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import PS
from ..bits import DEFECT_TDP_UNMAP_UNFLUSHED, ROLE_INVALID, ROLE_LEVEL, SPTE_MMU_PRESENT
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from .roots import kvm_tdp_mmu_put_root, tdp_mmu_next_root
from .spte_changed import tdp_mmu_iter_set_spte, tdp_mmu_set_spte, tdp_mmu_set_spte_atomic
from .walk import TdpWalk

MAX_GFN = 1 << 40


class ZapLeafs(TdpWalk):
    """Empties the leaf SPTEs that map pages of [start, end), with mmu_lock held for writing.

    Zapping in an invalid root needs no flush: every vCPU flushes before it uses another root.
    """

    def visit(self) -> bool:
        spte: u64 = self.it.old_spte
        if spte & SPTE_MMU_PRESENT and (self.it.level == 1 or spte & PS):
            tdp_mmu_iter_set_spte(self.kvm, self.it, self.kvm.design.empty_spte)
            root: ShadowPage | None = self.root
            if root is not None and not root.role & ROLE_INVALID:
                self.flush = self.kvm.design.defect != DEFECT_TDP_UNMAP_UNFLUSHED
        return True


def kvm_tdp_mmu_zap_leafs(kvm: Kvm, start: u64, end: u64, flush: u32) -> bool:
    """Unmap pages [start, end) from all valid roots. Return whether the caller must flush; `flush`: it must
    already.
    """
    walk: ZapLeafs = ZapLeafs(kvm, start, end, 1)
    walk.flush = flush != 0
    return walk.finish()


def kvm_tdp_mmu_unmap_gfn_range(kvm: Kvm, start: u64, end: u64, flush: u32, may_block: u32) -> bool:
    """Unmap pages [start, end), which the host takes away, from all roots. Return whether the caller must
    flush.

    Invalid roots are included: until they are zapped they use the pages.
    """
    walk: ZapLeafs = ZapLeafs(kvm, start, end, 1)
    walk.only_valid = False
    walk.can_yield = may_block != 0
    walk.flush = flush != 0
    return walk.finish()


class ZapRoots(TdpWalk):
    """Empties roots: small pages first, then one level of tables after the other, so that no step takes long.

    No flush: no vCPU may use such a root again.

    Attributes:
        shared: Only the invalid roots that are scheduled are zapped, with mmu_lock held for reading, and the
            MMU's own reference to them is dropped. Else every root, with mmu_lock held for writing.
        zap_level: Highest level that this pass over the root empties; the first pass begins at
            design.tdp_zap_starts_at.
    """

    def __init__(self, kvm: Kvm, shared: u32) -> None:
        TdpWalk.__init__(self, kvm, 0, MAX_GFN, 1)
        self.only_valid = False
        self.shared = shared
        self.zap_level = kvm.design.tdp_zap_starts_at

    def visit(self) -> bool:
        if not self.it.old_spte & SPTE_MMU_PRESENT or self.it.level > self.zap_level:
            return True
        if self.shared:
            return tdp_mmu_set_spte_atomic(self.kvm, self.it, self.kvm.design.empty_spte)
        tdp_mmu_iter_set_spte(self.kvm, self.it, self.kvm.design.empty_spte)
        return True

    def next_root(self) -> None:
        """Start the next pass over the same root, or the first one over the next root."""
        root: ShadowPage | None = self.root
        if root is not None and self.zap_level < root.role & ROLE_LEVEL:
            self.zap_level = self.zap_level + 1 if self.zap_level < 3 else root.role & ROLE_LEVEL
            self.it.start(root, self.zap_level, 0)
            return
        if root is not None and self.shared:
            kvm_tdp_mmu_put_root(self.kvm, root)
        self.started = True
        self.zap_level = self.kvm.design.tdp_zap_starts_at
        root = tdp_mmu_next_root(self.kvm, root, 0)
        while root is not None and self.shared and not root.scheduled_root_to_zap:
            root = tdp_mmu_next_root(self.kvm, root, 0)
        self.root = root
        if root is not None:
            root.scheduled_root_to_zap = False
            self.it.start(root, self.zap_level, 0)


def kvm_tdp_mmu_zap_all(kvm: Kvm) -> None:
    """Empty every root. Nothing is flushed: KVM does it at the end of a VM, when no vCPU will run again."""
    ZapRoots(kvm, 0).finish()


def kvm_tdp_mmu_zap_invalidated_roots(kvm: Kvm) -> None:
    """Zap the roots that kvm_tdp_mmu_invalidate_all_roots scheduled."""
    ZapRoots(kvm, 1).finish()


def kvm_tdp_mmu_zap_sp(kvm: Kvm, sp: ShadowPage) -> bool:
    """Unlink a table that is not a root, with mmu_lock held for writing. Return whether the caller must
    flush.
    """
    old: u64 = kvm.words[sp.ptep >> 3]
    if not old & SPTE_MMU_PRESENT:
        return False
    tdp_mmu_set_spte(kvm, sp.ptep, old, kvm.design.empty_spte, sp.gfn, sp.level() + 1)
    return True
