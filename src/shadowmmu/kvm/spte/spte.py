"""SPTEs: what their bits mean, and how they are read and written (arch/x86/kvm/mmu/spte.h, mmu.c, 6.12.111).

Hardware bits of shadow paging and NPT: 0 P, 1 W, 2 U, 5 A, 6 D, 7 huge, 51:12 frame, 63 NX; those of EPT are
in state/spte_masks.py. `sptep` is the physical address of an SPTE. The processor ignores the software bits:

  MMU_PRESENT (11)
      The SPTE maps a page or points to a table. It is a fact of its own: an MMIO SPTE has the hardware's P
      and maps nothing, an access-tracked EPT SPTE grants nothing and maps a page. Set by make_spte and
      make_nonleaf_spte; cleared only by storing a non-present value.
  HOST_WRITABLE (9; EPT 57, since 7.3 53)
      Host page and memslot may be written. Set by make_spte when it maps the page (MAKE_HOST_WRITABLE),
      constant while the SPTE is present: before the host takes the right away, a notifier zaps the SPTE.
      sync_spte takes it from the old SPTE, because it does not look up the host page.
  MMU_WRITABLE (10; EPT 58, since 7.3 55)
      KVM lets the guest write: no page that must stay in sync shadows the gfn. Set by make_spte together
      with W; cleared together with W when the gfn is write-protected for shadowing. Dirty logging and
      access tracking clear W and leave it, which tells fast_page_fault that it may set W again without
      mmu_lock, and mmu_spte_update that write-protecting the SPTE needs a flush although W may be clear
      already.
  A/D type (53:52, since 7.3 61:60; EPT only)
      0: the processor sets Accessed and Dirty; 1 (SPTE_TDP_AD_DISABLED): it does not, then the next bits
      are used, and since 7.3 KVM itself sets A and D, as software bits. Set by make_spte and
      make_nonleaf_spte for the whole VM. KVM's type 2 (write-protect although Dirty is set, for L2 with PML)
      is not in the SPTE here: tdp_mmu_need_write_protect asks the root's role.
  Saved R and X (54, 56; since 7.3 52, 54 and XU 62; EPT without Accessed only)
      An access-tracked SPTE: mark_spte_for_access_track moves R and X there and clears all rights, so that
      the next access faults; fast_page_fault moves them back (restore_acc_track_spte). W is not saved,
      MMU_WRITABLE says whether it may come back. 0 unless the SPTE is access-tracked.

Of a present leaf exactly these combinations exist (check_spte_writable_invariants)::

  HOST_WRITABLE  MMU_WRITABLE  W
        1             1        1   writable
        1             1        0   write-protected for logging, or access-tracked; fast_page_fault may set W
        1             0        0   write-protected for shadowing, or read-only in the guest's tables
        0             0        0   read-only in the host or by its memslot

Values that are not MMU-present, in which bits 9, 10 and 52 to 62 mean nothing of the above:

  design.empty_spte (SHADOW_NONPRESENT_VALUE)
      Maps nothing: 1 << 63, which suppresses #VE where EPT has it; 0 in 6.1.
  kvm.frozen_spte (FROZEN_SPTE, in 6.1 REMOVED_SPTE)
      Only in the TDP MMU: 0x5a0 | empty_spte, which no other SPTE can be. Another CPU is about to empty the
      SPTE, or the table that holds it is unlinked; faults retry, and only the CPU that froze it may change
      it.
  MMIO SPTE
      See mmio.py; the memslot generation is in bits 10:3 and 62:52.
"""

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...x86.bits import ADDR, PS, P, W
from ..bits import (
    DEFECT_LOCKLESS_UNFLUSHED,
    PT32E_ROOT_LEVEL,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_LEVEL,
    SPTE_MMU_PRESENT,
    TRANSLATION_VALID,
)
from ..state.fault import PageFault
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from .atomic import write_in_halves


def is_shadow_present(spte: u64) -> bool:
    """Return whether an SPTE maps a page or points to a table; False for empty and MMIO SPTEs."""
    return spte & SPTE_MMU_PRESENT != 0


def is_last_spte(spte: u64, level: u32) -> bool:
    """Return whether a present SPTE of `level` maps a page, not a table."""
    return level == 1 or spte & PS != 0


def spte_index(sptep: u64) -> u32:
    """Return the index, 0 to 511, of the SPTE at sptep in its table."""
    return (sptep >> 3) & 511


def make_nonleaf_spte(kvm: Kvm, child: ShadowPage) -> u64:
    """Return an SPTE that points to a table: all rights, Accessed."""
    return child.spt | kvm.spte_nonleaf_bits


def is_pae_root(sp: ShadowPage) -> bool:
    """Return whether the processor takes the special page `sp` for the four PDPTEs of a PAE guest."""
    return sp.special and sp.role & ROLE_LEVEL == PT32E_ROOT_LEVEL and not sp.parent_ptes


def make_pae_pdpte(child: ShadowPage) -> u64:
    """Return a PDPTE that points to a directory: the processor reserves W, U and Accessed there."""
    return child.spt | SPTE_MMU_PRESENT | P


def page_gfn(kvm: Kvm, sp: ShadowPage, index: u32) -> u64:
    """Return the first gfn that SPTE `index` maps (kvm_mmu_page_get_gfn)."""
    if sp.translations:
        return kvm.words[(sp.translations >> 3) + index] >> 12
    wide: u64 = index
    return sp.gfn + (wide << (9 * (sp.level() - 1)))


def page_access(kvm: Kvm, sp: ShadowPage, index: u32) -> u32:
    """Return the ACC_* that the guest grants through SPTE `index` (kvm_mmu_page_get_access)."""
    if sp.translations:
        return kvm.words[(sp.translations >> 3) + index] & 7
    return (sp.role & ROLE_ACCESS) >> ROLE_ACCESS_SHIFT


def set_page_translation(kvm: Kvm, sp: ShadowPage, index: u32, gfn: u64, access: u32) -> int:
    """Record gfn and access of SPTE `index`, if the page keeps them (kvm_mmu_page_set_translation)."""
    if sp.translations:
        kvm.words[(sp.translations >> 3) + index] = (gfn << 12) | TRANSLATION_VALID | access
    return 0


def mmu_spte_set(kvm: Kvm, sptep: u64, new: u64) -> u64:
    """Store an SPTE, in halves if the host has no larger store. Return what it was."""
    old: u64 = kvm.words[sptep >> 3]
    if kvm.design.host_word == 32:
        write_in_halves(kvm, sptep, new)
    else:
        kvm.words[sptep >> 3] = new
    return old


def mmu_spte_update(kvm: Kvm, sptep: u64, new: u64) -> bool:
    """Change a present SPTE, or set an empty one. Return whether the TLBs must be flushed before anyone
    relies on the change (mmu_spte_update).
    """
    old: u64 = mmu_spte_set(kvm, sptep, new)
    if not old & SPTE_MMU_PRESENT:
        return False
    if old & kvm.shadow_mmu_writable_mask and not new & kvm.spte_writable_mask:
        return old & W != 0 or kvm.design.defect != DEFECT_LOCKLESS_UNFLUSHED
    return old & ~new & kvm.spte_flush_mask != 0


def mmu_spte_clear_no_track(kvm: Kvm, sptep: u64) -> None:
    """Empty a non-leaf or MMIO SPTE."""
    mmu_spte_set(kvm, sptep, kvm.design.empty_spte)


def count_pages(kvm: Kvm, level: u32, delta: i64) -> None:
    """Add `delta` to the number of mapped pages of `level` (kvm_update_page_stats)."""
    if delta > 0:
        kvm.tally.leaves_made += delta
    else:
        kvm.tally.leaves_zapped -= delta
    if level == 1:
        kvm.stat.pages_4k += delta
    elif level == 2:
        kvm.stat.pages_2m += delta
    else:
        kvm.stat.pages_1g += delta


def mmu_spte_clear_track_bits(kvm: Kvm, sptep: u64) -> bool:
    """Empty a leaf SPTE and take it from the page statistics. Return whether it was present."""
    old: u64 = mmu_spte_set(kvm, sptep, kvm.design.empty_spte)
    if not old & SPTE_MMU_PRESENT:
        return False
    if not old & kvm.spte_young_mask:
        kvm.tally.leaves_unused += 1
    count_pages(kvm, kvm.sptep_to_sp(sptep).level(), -1)
    return True


def spte_to_pfn(spte: u64) -> u64:
    """Return the host frame in a present SPTE."""
    return (spte & ADDR) >> 12


def changed_pte_spte(kvm: Kvm, spte: u64, pfn: u64) -> u64:
    """Return a leaf SPTE with another host frame, read-only and not Accessed.

    kvm_mmu_changed_pte_notifier_make_spte, 6.1.176.
    """
    lost: u64 = ADDR | W | kvm.shadow_host_writable_mask | kvm.shadow_mmu_writable_mask
    return mark_spte_for_access_track(kvm, spte & ~lost | (pfn << 12))


def is_executable(kvm: Kvm, spte: u64) -> bool:
    """Return whether a leaf SPTE allows instruction fetches."""
    return spte & (kvm.shadow_x_mask | kvm.shadow_nx_mask) == kvm.shadow_x_mask


def is_access_allowed(kvm: Kvm, fault: PageFault, spte: u64) -> bool:
    """Return whether a leaf SPTE allows what faulted. P is R in EPT (7.3: spte_permission_fault)."""
    if fault.exec:
        return is_executable(kvm, spte)
    return spte & (W if fault.write else P) != 0


def is_access_track_spte(kvm: Kvm, spte: u64) -> bool:
    """Return whether a present SPTE is access-tracked: R, W, X cleared so that the next access faults."""
    return not kvm.ad_enabled and not spte & kvm.shadow_acc_track_mask


def mark_spte_for_access_track(kvm: Kvm, spte: u64) -> u64:
    """Return the SPTE as not accessed: with Accessed clear or, where the processor does not set it,
    access-tracked.
    """
    if kvm.ad_enabled:
        return spte & ~kvm.shadow_accessed_mask
    if is_access_track_spte(kvm, spte):
        return spte
    spte |= (spte & kvm.acc_track_saved_bits) << kvm.acc_track_saved_shift
    return spte & ~(kvm.shadow_acc_track_mask | kvm.shadow_accessed_mask)


def restore_acc_track_spte(kvm: Kvm, spte: u64) -> u64:
    """Return an access-tracked SPTE with its rights restored from its saved bits, Accessed."""
    saved: u64 = saved_rights(kvm, spte)
    kept_aside: u64 = kvm.acc_track_saved_bits << kvm.acc_track_saved_shift
    return spte & ~(kvm.shadow_acc_track_mask | kept_aside) | saved | kvm.shadow_accessed_mask


def saved_rights(kvm: Kvm, spte: u64) -> u64:
    """Return the rights that an access-tracked SPTE keeps for the next access, where they belong."""
    return (spte >> kvm.acc_track_saved_shift) & kvm.acc_track_saved_bits
