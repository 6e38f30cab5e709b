"""Mapping the neighbours of a faulting page: the aligned group of eight SPTEs around it, at level 1 only.

Other ways to do it are in prefetch_designs.

pte_prefetch and __direct_pte_prefetch, arch/x86/kvm/mmu, 6.12.111.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ACC_W, ADDR
from ..bits import (
    DEFECT_READONLY_PREFETCHED,
    MEM_LOG_DIRTY_PAGES,
    MEM_READONLY,
    PTE_PREFETCH_NUM,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_AD_DISABLED,
    ROLE_DIRECT,
    ROLE_LEVEL,
    SPTE_MMU_PRESENT,
)
from ..guest_access.mark_dirty import kvm_release_page_dirty
from ..pages.sync import prefetch_invalid_gpte, shadowed_access
from ..spte.spte import page_gfn, spte_index
from ..state.fault import GuestWalker
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .set_spte import mmu_set_spte


def slot_without_dirty_log(kvm: Kvm, gfn: u64, writable: u32) -> MemSlot | None:
    """Return the memslot, or None if mapping it writable would bypass dirty logging
    (gfn_to_memslot_dirty_bitmap).
    """
    slot: MemSlot | None = kvm.visible_memslot(gfn)
    if slot is None or (writable and slot.flags & MEM_LOG_DIRTY_PAGES):
        return None
    return slot


def atomic_page(kvm: Kvm, slot: MemSlot, gfn: u64) -> u64:
    """Return the page word (host/mapping.py) of a writable page, found without sleeping; 0 if
    there is none.
    """
    if slot.flags & MEM_READONLY and kvm.design.defect != DEFECT_READONLY_PREFETCHED:
        return 0
    return slot.mapping.fast_page(slot.page_index(gfn), 1)


def prefetch_gpte(vcpu: Vcpu, sp: ShadowPage, sptep: u64, gpte: u64, no_dirty_log: u32) -> bool:
    """Map what a gpte says through the empty SPTE at sptep. Return False if that needs a fault.

    no_dirty_log: a writable page of a slot that logs needs one.
    """
    kvm: Kvm = vcpu.kvm
    if prefetch_invalid_gpte(kvm, vcpu.mmu, sptep, gpte):
        return False
    gfn: u64 = (gpte & ADDR) >> 12
    access: u32 = shadowed_access(sp, gpte)
    slot: MemSlot | None = slot_without_dirty_log(kvm, gfn, no_dirty_log and access & ACC_W)
    if slot is None:
        return False
    page: u64 = atomic_page(kvm, slot, gfn)
    if page == 0:
        return False
    mmu_set_spte(vcpu, slot, sp, sptep, access, gfn, (page & ADDR) >> 12, None)
    kvm_release_page_dirty(kvm, slot, gfn)
    return True


def pte_prefetch(vcpu: Vcpu, w: GuestWalker, sp: ShadowPage, sptep: u64) -> int:
    """Map the neighbours of a faulting page whose gptes allow it, up to the first that does not.

    The gptes are those read when the faulting one was checked. Skipped while the host invalidates memory.
    """
    kvm: Kvm = vcpu.kvm
    if sp.role & ROLE_LEVEL > 1 or kvm.mmu_invalidate_in_progress:
        return 0
    if sp.role & ROLE_DIRECT:
        direct_pte_prefetch(vcpu, sp, sptep)
        return 0
    first: u64 = sptep & ~(PTE_PREFETCH_NUM * 8 - 1)
    i: u64
    for i in range(PTE_PREFETCH_NUM):
        if first + i * 8 == sptep or kvm.words[(first >> 3) + i] & SPTE_MMU_PRESENT:
            continue
        if not prefetch_gpte(vcpu, sp, first + i * 8, w.prefetch_ptes[i], 1):
            return 0
    return 0


def direct_prefetch_run(vcpu: Vcpu, sp: ShadowPage, start: u64, end: u64) -> bool:
    """Map the SPTEs at addresses start to end - 8 of a direct page. Return False if nothing could
    be mapped.
    """
    kvm: Kvm = vcpu.kvm
    access: u32 = (sp.role & ROLE_ACCESS) >> ROLE_ACCESS_SHIFT
    gfn: u64 = page_gfn(kvm, sp, spte_index(start))
    slot: MemSlot | None = slot_without_dirty_log(kvm, gfn, access & ACC_W)
    if slot is None or gfn + ((end - start) >> 3) > slot.base_gfn + slot.npages:
        return False
    page: u64 = atomic_page(kvm, slot, gfn)
    if page == 0:
        return False
    sptep: u64 = start
    while sptep < end and page:
        mmu_set_spte(vcpu, slot, sp, sptep, access, gfn, (page & ADDR) >> 12, None)
        kvm_release_page_dirty(kvm, slot, gfn)
        gfn += 1
        sptep += 8
        if sptep < end:
            page = atomic_page(kvm, slot, gfn)
    return True


def direct_pte_prefetch(vcpu: Vcpu, sp: ShadowPage, sptep: u64) -> int:
    """Map the empty neighbours in a direct page, run by run, until a run maps nothing.

    Skipped without Accessed, which distinguishes a neighbour that was accessed from one that was mapped in
    vain.
    """
    if sp.role & ROLE_AD_DISABLED:
        return 0
    kvm: Kvm = vcpu.kvm
    first: u64 = sptep & ~(PTE_PREFETCH_NUM * 8 - 1)
    start: u64 = 0
    at: u64
    for at in range(first, first + PTE_PREFETCH_NUM * 8, 8):
        if kvm.words[at >> 3] & SPTE_MMU_PRESENT or at == sptep:
            if start and not direct_prefetch_run(vcpu, sp, start, at):
                return 0
            start = 0
        elif start == 0:
            start = at
    if start:
        direct_prefetch_run(vcpu, sp, start, first + PTE_PREFETCH_NUM * 8)
    return 0
