"""SPTEs: what their bits mean and the three ways of writing one (arch/x86/kvm/mmu/spte.h, mmu.c, 6.12.111).

Format of shadow paging and NPT: 0 P, 1 W, 2 U, 5 A, 6 D, 7 huge, 9 host-writable, 10 MMU-writable,
11 MMU-present, 51:12 frame, 63 NX; of EPT: see spte_masks. An empty SPTE is the kernel's `empty_spte`,
1 << 63 or 0. `sptep` is the address of an SPTE.
"""

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...x86.bits import ADDR, PS, P, W
from ..bits import (
    DEFECT_LOCKLESS_UNFLUSHED,
    PT32E_ROOT_LEVEL,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_LEVEL,
    SHADOW_ACC_TRACK_SAVED_BITS,
    SHADOW_ACC_TRACK_SAVED_SHIFT,
    SPTE_MMU_PRESENT,
    TRANSLATION_VALID,
)
from ..state.fault import PageFault
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from .atomic import write_in_halves


def is_shadow_present(spte: u64) -> bool:
    """Whether an SPTE maps something; not an empty and not an MMIO one."""
    return spte & SPTE_MMU_PRESENT != 0


def is_last_spte(spte: u64, level: u32) -> bool:
    """Whether a present SPTE maps a page, not a table."""
    return level == 1 or spte & PS != 0


def spte_index(sptep: u64) -> u32:
    """Which of the 512 SPTEs of its table sptep is."""
    return (sptep >> 3) & 511


def make_nonleaf_spte(kvm: Kvm, child: ShadowPage) -> u64:
    """An SPTE that points to a table: all rights, Accessed."""
    return child.spt | kvm.spte_nonleaf_bits


def is_pae_root(sp: ShadowPage) -> bool:
    """Whether `sp` is a special page that the processor takes for the four PDPTEs of a PAE guest."""
    return sp.special and sp.role & ROLE_LEVEL == PT32E_ROOT_LEVEL and not sp.parent_ptes


def make_pae_pdpte(child: ShadowPage) -> u64:
    """A PDPTE that points to a directory: the processor reserves the bits of rights there, and Accessed."""
    return child.spt | SPTE_MMU_PRESENT | P


def page_gfn(kvm: Kvm, sp: ShadowPage, index: u32) -> u64:
    """The gfn behind SPTE `index` (kvm_mmu_page_get_gfn)."""
    if sp.translations:
        return kvm.words[(sp.translations >> 3) + index] >> 12
    wide: u64 = index
    return sp.gfn + (wide << (9 * (sp.level() - 1)))


def page_access(kvm: Kvm, sp: ShadowPage, index: u32) -> u32:
    """The access the guest grants through SPTE `index` (kvm_mmu_page_get_access)."""
    if sp.translations:
        return kvm.words[(sp.translations >> 3) + index] & 7
    return (sp.role & ROLE_ACCESS) >> ROLE_ACCESS_SHIFT


def set_page_translation(kvm: Kvm, sp: ShadowPage, index: u32, gfn: u64, access: u32) -> None:
    """kvm_mmu_page_set_translation."""
    if sp.translations:
        kvm.words[(sp.translations >> 3) + index] = (gfn << 12) | TRANSLATION_VALID | access


def mmu_spte_set(kvm: Kvm, sptep: u64, new: u64) -> u64:
    """Store an SPTE, in halves if the host has no larger store; what was there before."""
    old: u64 = kvm.words[sptep >> 3]
    if kvm.design.host_word == 32:
        write_in_halves(kvm, sptep, new)
    else:
        kvm.words[sptep >> 3] = new
    return old


def mmu_spte_update(kvm: Kvm, sptep: u64, new: u64) -> bool:
    """Change a present SPTE, or set an empty one; whether a TLB flush is needed before others rely on it."""
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
    """kvm_update_page_stats."""
    if level == 1:
        kvm.stat.pages_4k += delta
    elif level == 2:
        kvm.stat.pages_2m += delta
    else:
        kvm.stat.pages_1g += delta


def mmu_spte_clear_track_bits(kvm: Kvm, sptep: u64) -> bool:
    """Empty a leaf SPTE; whether it was present. Its page leaves the page statistics."""
    old: u64 = mmu_spte_set(kvm, sptep, kvm.design.empty_spte)
    if not old & SPTE_MMU_PRESENT:
        return False
    count_pages(kvm, kvm.sptep_to_sp(sptep).level(), -1)
    return True


def spte_to_pfn(spte: u64) -> u64:
    """The host frame a present SPTE maps."""
    return (spte & ADDR) >> 12


def changed_pte_spte(kvm: Kvm, spte: u64, pfn: u64) -> u64:
    """A leaf SPTE for another page, read-only and not Accessed.

    kvm_mmu_changed_pte_notifier_make_spte, 6.1.176.
    """
    lost: u64 = ADDR | W | kvm.shadow_host_writable_mask | kvm.shadow_mmu_writable_mask
    return mark_spte_for_access_track(kvm, spte & ~lost | (pfn << 12))


def is_executable(kvm: Kvm, spte: u64) -> bool:
    """Whether a leaf SPTE allows fetches."""
    return spte & (kvm.shadow_x_mask | kvm.shadow_nx_mask) == kvm.shadow_x_mask


def is_access_allowed(kvm: Kvm, fault: PageFault, spte: u64) -> bool:
    """Return whether a leaf SPTE allows what faulted. P is R in EPT (7.3: spte_permission_fault)."""
    if fault.exec:
        return is_executable(kvm, spte)
    return spte & (W if fault.write else P) != 0


def is_access_track_spte(kvm: Kvm, spte: u64) -> bool:
    """Whether a present SPTE has lost its rights, so that the next access is seen."""
    return not kvm.shadow_accessed_mask and not spte & kvm.shadow_acc_track_mask


def mark_spte_for_access_track(kvm: Kvm, spte: u64) -> u64:
    """The SPTE as not accessed: without Accessed, or where there is none without rights.

    R and X are kept aside. W is not: MMU-writable says whether it may come back.
    """
    if kvm.shadow_accessed_mask:
        return spte & ~kvm.shadow_accessed_mask
    if is_access_track_spte(kvm, spte):
        return spte
    spte |= (spte & SHADOW_ACC_TRACK_SAVED_BITS) << SHADOW_ACC_TRACK_SAVED_SHIFT
    return spte & ~kvm.shadow_acc_track_mask


def restore_acc_track_spte(kvm: Kvm, spte: u64) -> u64:
    """The SPTE with the rights that were kept aside."""
    saved: u64 = (spte >> SHADOW_ACC_TRACK_SAVED_SHIFT) & SHADOW_ACC_TRACK_SAVED_BITS
    kept_aside: u64 = SHADOW_ACC_TRACK_SAVED_BITS
    return spte & ~kvm.shadow_acc_track_mask & ~(kept_aside << SHADOW_ACC_TRACK_SAVED_SHIFT) | saved
