"""Making a leaf SPTE (make_spte, arch/x86/kvm/mmu/spte.c, 6.12.111 and 7.3.4)."""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ACC_U, ACC_W, ACC_X, ADDR, PS, W
from ..bits import (
    DEFECT_HUGE_EXECUTABLE,
    MAKE_CAN_UNSYNC,
    MAKE_HOST_WRITABLE,
    MAKE_PREFETCH,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_LEVEL,
)
from ..guest_access.mark_dirty import mark_page_dirty_in_slot
from ..state.fault import LeafSpte
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from .spte import is_access_track_spte, is_last_spte, mark_spte_for_access_track, restore_acc_track_spte
from .unsync import mmu_try_to_unsync_pages


def make_spte(
    kvm: Kvm,
    leaf: LeafSpte,
    sp: ShadowPage,
    slot: MemSlot,
    access: u32,
    gfn: u64,
    pfn: u64,
    old: u64,
    flags: u32,
) -> int:
    """Fill `leaf` with the SPTE that maps pfn at gfn in `sp` with the guest's `access`, in place of the SPTE
    `old`.

    `flags` are MAKE_*; who syncs a table must not unsync others. A writable SPTE makes the leaf tables that
    shadow gfn unsync, unless `old` was writable already; before 7.3 that short cut also leaves Dirty clear. A
    writable SPTE marks the page dirty if the slot logs.
    """
    level: u32 = sp.role & ROLE_LEVEL
    spte: u64 = kvm.spte_leaf_bits
    leaf.wrprot = False
    if not flags & MAKE_PREFETCH or (not flags & MAKE_CAN_UNSYNC and kvm.design.sync_sets_accessed):
        spte |= kvm.shadow_accessed_mask
    if (
        level > 1
        and access & ACC_X
        and kvm.is_nx_huge_page_enabled()
        and kvm.design.defect != DEFECT_HUGE_EXECUTABLE
    ):
        access &= ~ACC_X
    spte |= kvm.shadow_x_mask if access & ACC_X else kvm.shadow_nx_mask
    if access & ACC_U:
        spte |= kvm.shadow_user_mask
    if level > 1:
        spte |= PS
    if flags & MAKE_HOST_WRITABLE:
        spte |= kvm.shadow_host_writable_mask
    else:
        access &= ~ACC_W
    spte |= pfn << 12
    if access & ACC_W:
        if is_last_spte(old, level) and old & W:
            spte |= W | kvm.shadow_mmu_writable_mask
            if kvm.design.writable_spte_is_dirty:
                spte |= kvm.shadow_dirty_mask
        elif mmu_try_to_unsync_pages(kvm, slot, gfn, flags & MAKE_CAN_UNSYNC, flags & MAKE_PREFETCH):
            leaf.wrprot = True
        else:
            spte |= W | kvm.shadow_mmu_writable_mask | kvm.shadow_dirty_mask
    if flags & MAKE_PREFETCH and not kvm.ad_enabled:
        spte = mark_spte_for_access_track(kvm, spte)
    if spte & W:
        mark_page_dirty_in_slot(kvm, slot, gfn)
    leaf.spte = spte
    return 0


def make_huge_page_split_spte(kvm: Kvm, huge: u64, role: u32, index: u64) -> u64:
    """Return SPTE `index` of the table of `role` that replaces a huge SPTE: the same bits, a part of its
    pages.

    A 4 KiB page becomes executable where only the NX huge page mitigation forbade it.
    """
    level: u32 = role & ROLE_LEVEL
    child: u64 = huge | index << (12 + 9 * (level - 1))
    if level == 1:
        child &= ~PS
        if role & ROLE_ACCESS & (ACC_X << ROLE_ACCESS_SHIFT) and kvm.is_nx_huge_page_enabled():
            child = _with_execute(kvm, child, 1)
    return child


def make_huge_spte(kvm: Kvm, small: u64, level: u32) -> u64:
    """Return a huge SPTE of `level` with the bits of a leaf below it (make_huge_spte, 7.3.4).

    It is not executable where the mitigation forbids that to huge pages.
    """
    one: u64 = 1
    offset: u64 = ((one << (12 + 9 * (level - 1))) - 1) & ADDR
    huge: u64 = (small | PS) & ~offset
    return _with_execute(kvm, huge, 0) if kvm.is_nx_huge_page_enabled() else huge


def _with_execute(kvm: Kvm, spte: u64, execute: u32) -> u64:
    """Return the SPTE with or without the right to execute, in its saved bits if it is access-tracked."""
    tracked: bool = is_access_track_spte(kvm, spte)
    if tracked:
        spte = restore_acc_track_spte(kvm, spte)
    if execute:
        spte = spte & ~kvm.shadow_nx_mask | kvm.shadow_x_mask
    else:
        spte = spte & ~kvm.shadow_x_mask | kvm.shadow_nx_mask
    return mark_spte_for_access_track(kvm, spte) if tracked else spte
