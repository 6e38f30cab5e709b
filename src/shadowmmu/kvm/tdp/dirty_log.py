"""Dirty logging in the TDP MMU: making the next write to a page be seen (tdp_mmu.c, 6.12.111).

Either W is cleared, so that the next write faults; or Dirty, where the processor logs every page whose Dirty
it sets (see kvm.memory.dirty_log). MMU_WRITABLE stays set in both cases.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import PS, W
from ..bits import DEFECT_TDP_PROTECTION, ROLE_AD_DISABLED, ROLE_GUEST_MODE, ROLE_INVALID, SPTE_MMU_PRESENT
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.tdp_iter import TdpIter
from ..state.vm import Kvm
from .rcu import rcu_read_lock, rcu_read_unlock
from .spte_changed import tdp_mmu_clear_spte_bits, tdp_mmu_iter_set_spte, tdp_mmu_set_spte_atomic
from .walk import TdpWalk


def tdp_mmu_need_write_protect(kvm: Kvm, root: ShadowPage) -> bool:
    """Return whether a root's SPTEs must be write-protected to be logged: the processor does not use their
    Dirty, or does not log it while L2 runs.
    """
    if root.role & ROLE_AD_DISABLED:
        return True
    return kvm.parameters.cpu_dirty_log_size != 0 and root.role & ROLE_GUEST_MODE != 0


class WriteProtectSlot(TdpWalk):
    """Clears W in the leaf SPTEs of the range, from min_level up, with mmu_lock held for reading."""

    def visit(self) -> bool:
        spte: u64 = self.it.old_spte
        if not spte & SPTE_MMU_PRESENT or not spte & W or (self.it.level > 1 and not spte & PS):
            return True
        if not tdp_mmu_set_spte_atomic(self.kvm, self.it, spte & ~W):
            return False
        self.changed = True
        return True


def kvm_tdp_mmu_wrprot_slot(kvm: Kvm, slot: MemSlot, min_level: u32) -> bool:
    """Clear W in all SPTEs of a slot from min_level up. Return whether one had it; then the caller must
    flush.
    """
    walk: WriteProtectSlot = WriteProtectSlot(kvm, slot.base_gfn, slot.base_gfn + slot.npages, min_level)
    walk.finish()
    return walk.changed


class ClearDirtySlot(TdpWalk):
    """Clears Dirty in the leaf SPTEs of the range at any level, or W where tdp_mmu_need_write_protect."""

    def visit(self) -> bool:
        spte: u64 = self.it.old_spte
        if not spte & SPTE_MMU_PRESENT or (self.it.level > 1 and not spte & PS):
            return True
        root: ShadowPage | None = self.root
        bit: u64 = self.kvm.shadow_dirty_mask
        if root is not None and tdp_mmu_need_write_protect(self.kvm, root):
            bit = W
        if not spte & bit:
            return True
        if not tdp_mmu_set_spte_atomic(self.kvm, self.it, spte & ~bit):
            return False
        self.changed = True
        return True


def kvm_tdp_mmu_clear_dirty_slot(kvm: Kvm, slot: MemSlot) -> bool:
    """Clear Dirty in all SPTEs of a slot. Return whether one had it; then the caller must flush."""
    walk: ClearDirtySlot = ClearDirtySlot(kvm, slot.base_gfn, slot.base_gfn + slot.npages, 1)
    walk.finish()
    return walk.changed


def kvm_tdp_mmu_clear_dirty_pt_masked(kvm: Kvm, gfn: u64, mask: u64, wrprot: u32) -> None:
    """Clear W (wrprot) or Dirty in the 4 KiB SPTEs of pages gfn + i, for every bit i of the mask.

    mmu_lock is held for writing; the caller must flush.
    """
    it: TdpIter = TdpIter(kvm)
    root: ShadowPage
    rcu_read_lock(kvm)
    for root in kvm.tdp_mmu_roots:
        if not root.role & ROLE_INVALID:
            bit: u64 = W if wrprot or tdp_mmu_need_write_protect(kvm, root) else kvm.shadow_dirty_mask
            _clear_masked(kvm, it, root, gfn, mask, bit)
    rcu_read_unlock(kvm)


def _clear_masked(kvm: Kvm, it: TdpIter, root: ShadowPage, gfn: u64, mask: u64, bit: u64) -> None:
    """Clear `bit` in the SPTEs of one root."""
    one: u64 = 1
    first: u64 = 0
    while not mask & (one << first):
        first += 1
    it.start(root, 1, gfn + first)
    while mask and it.valid and it.gfn < gfn + 64:
        if it.level == 1 and it.old_spte & SPTE_MMU_PRESENT:
            page: u64 = one << (it.gfn - gfn)
            if mask & page:
                mask &= ~page
                if it.old_spte & bit:
                    tdp_mmu_clear_spte_bits(kvm, it, bit)
        it.next()


def kvm_tdp_mmu_write_protect_gfn(kvm: Kvm, gfn: u64, min_level: u32) -> bool:
    """Clear W and MMU_WRITABLE in what maps gfn at min_level or above, because its contents are shadowed.

    mmu_lock is held for writing. Return whether the caller must flush.
    """
    changed: u32 = 0
    it: TdpIter = TdpIter(kvm)
    root: ShadowPage
    rcu_read_lock(kvm)
    for root in kvm.tdp_mmu_roots:
        if root.role & ROLE_INVALID:
            continue
        it.start(root, min_level, gfn)
        while it.valid and it.gfn < gfn + 1:
            spte: u64 = it.old_spte
            if spte & SPTE_MMU_PRESENT and (it.level == 1 or spte & PS):
                if spte & W or (
                    spte & kvm.shadow_mmu_writable_mask and kvm.design.defect != DEFECT_TDP_PROTECTION
                ):
                    tdp_mmu_iter_set_spte(kvm, it, spte & ~(W | kvm.shadow_mmu_writable_mask))
                    changed = 1
                break
            it.next()
    rcu_read_unlock(kvm)
    return changed != 0
