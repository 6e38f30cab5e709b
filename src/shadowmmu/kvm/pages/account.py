"""Accounting of shadowed guest tables: write tracking of upper levels, write protection, no huge pages over
them.

account_shadowed, unaccount_shadowed, arch/x86/kvm/mmu/mmu.c, 6.12.111.
"""

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...x86.bits import MASK64
from ..bits import ROLE_GUEST_MODE, ROLE_LEVEL, UNSYNC_LEAF, UNSYNC_NEVER
from ..spte.flush import kvm_flush_remote_tlbs, kvm_flush_remote_tlbs_range
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from .write_protect import kvm_mmu_slot_gfn_write_protect


def account_shadowed(kvm: Kvm, sp: ShadowPage) -> None:
    """Write-protect the guest table that a new page shadows, and forbid huge pages over it (6.12.111).

    An upper-level table is write-tracked: every write to it is emulated from now on. A leaf table is only
    write-protected; the first write makes it unsync. Where `unsync` forbids that it is tracked too.
    """
    kvm.indirect_shadow_pages += 1
    slot: MemSlot = kvm.memslot_of(sp.gfn)
    if not _may_unsync(kvm, sp):
        _write_track(slot, sp.gfn, 1)
    slot.count_disallow_lpage(sp.gfn, 1)
    if kvm_mmu_slot_gfn_write_protect(kvm, slot, sp.gfn, 1):
        if sp.role & ROLE_LEVEL > 1:
            kvm_flush_remote_tlbs(kvm)
        else:
            kvm_flush_remote_tlbs_range(kvm, sp.gfn, 1)


def unaccount_shadowed(kvm: Kvm, sp: ShadowPage) -> None:
    """Undo account_shadowed for a page that is zapped. The table stays write-protected until the next write
    fault.
    """
    kvm.indirect_shadow_pages -= 1
    slot: MemSlot = kvm.memslot_of(sp.gfn)
    if not _may_unsync(kvm, sp):
        _write_track(slot, sp.gfn, -1)
    slot.count_disallow_lpage(sp.gfn, -1)


def _may_unsync(kvm: Kvm, sp: ShadowPage) -> bool:
    """Return whether the guest may write the table that a page shadows, out of sync."""
    rule: u32 = kvm.design.unsync
    if sp.role & ROLE_LEVEL > 1 or rule == UNSYNC_NEVER:
        return False
    return rule == UNSYNC_LEAF or not sp.role & ROLE_GUEST_MODE


def _write_track(slot: MemSlot, gfn: u64, delta: i64) -> None:
    """Add `delta` to the number of shadowed upper-level tables in gfn."""
    index: u64 = gfn - slot.base_gfn
    slot.write_track[index] = (slot.write_track[index] + delta) & MASK64
