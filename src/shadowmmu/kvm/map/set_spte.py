"""Installing a leaf SPTE (mmu_set_spte, arch/x86/kvm/mmu/mmu.c, 6.12.111 and 7.3.4)."""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR, PS
from ..bits import (
    DEFECT_MMIO_OVER_PRESENT,
    DEFECT_RMAP_LEFT,
    MAKE_CAN_UNSYNC,
    MAKE_HOST_WRITABLE,
    MAKE_PREFETCH,
    RET_PF_EMULATE,
    RET_PF_FIXED,
    RET_PF_SPURIOUS,
    RET_PF_WRITE_PROTECTED,
    ROLE_LEVEL,
    SPTE_MMU_PRESENT,
)
from ..pages.zap import drop_parent_pte
from ..spte.flush import kvm_flush_remote_tlbs
from ..spte.make_spte import make_spte
from ..spte.mmio import mark_mmio_spte
from ..spte.rmap import drop_spte, rmap_add
from ..spte.spte import (
    mmu_spte_clear_track_bits,
    mmu_spte_update,
    page_gfn,
    set_page_translation,
    spte_index,
    spte_to_pfn,
)
from ..state.fault import LeafSpte, PageFault
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu
from ..state.vm import Kvm


def mmu_set_spte(
    vcpu: Vcpu,
    slot: MemSlot | None,
    sp: ShadowPage,
    sptep: u64,
    access: u32,
    gfn: u64,
    pfn: u64,
    fault: PageFault | None,
) -> u32:
    """Map pfn at gfn with the guest's `access` through the SPTE at sptep, in `sp`. Return RET_PF_*.

    Without a fault it is a prefetch, whose pfn is always writable. Without a slot (pfn is NO_PFN) it makes an
    MMIO SPTE.
    """
    kvm: Kvm = vcpu.kvm
    level: u32 = sp.role & ROLE_LEVEL
    old: u64 = kvm.words[sptep >> 3]
    flush: u32 = 0
    was_rmapped: u32 = 0
    result: u32 = RET_PF_FIXED
    if old & SPTE_MMU_PRESENT and (slot is not None or kvm.design.defect != DEFECT_MMIO_OVER_PRESENT):
        if level > 1 and not old & PS:
            drop_parent_pte(kvm, kvm.sptep_to_sp(old & ADDR), sptep)
            flush = 1
        elif pfn != spte_to_pfn(old):
            if kvm.design.defect == DEFECT_RMAP_LEFT:
                mmu_spte_clear_track_bits(kvm, sptep)
            else:
                drop_spte(kvm, sptep)
            flush = 1
        elif kvm.design.prefetch_keeps_leaf and (fault is None or fault.prefetch):
            return RET_PF_SPURIOUS
        else:
            was_rmapped = 1
        old = kvm.words[sptep >> 3]
    if slot is None:
        vcpu.stat.pf_mmio_spte_created += 1
        mark_mmio_spte(kvm, sptep, gfn, access)
        if flush:
            kvm_flush_remote_tlbs(kvm)
        return RET_PF_EMULATE
    flags: u32 = MAKE_CAN_UNSYNC
    if fault is None:
        flags |= MAKE_PREFETCH | MAKE_HOST_WRITABLE
    else:
        if fault.prefetch:
            flags |= MAKE_PREFETCH
        if fault.map_writable:
            flags |= MAKE_HOST_WRITABLE
    leaf: LeafSpte = vcpu.leaf
    make_spte(kvm, leaf, sp, slot, access, gfn, pfn, old, flags)
    if old == leaf.spte:
        result = RET_PF_SPURIOUS
    else:
        flush |= mmu_spte_update(kvm, sptep, leaf.spte)
        if kvm.tracing:
            kvm.tracer.kvm_mmu_set_spte(gfn, leaf.spte, sptep, level, kvm.shadow_x_mask)
    if leaf.wrprot and fault is not None and fault.write:
        result = RET_PF_WRITE_PROTECTED
    if flush:
        kvm_flush_remote_tlbs(kvm)
    if was_rmapped:
        set_page_translation(kvm, sp, spte_index(sptep), page_gfn(kvm, sp, spte_index(sptep)), access)
    else:
        rmap_add(kvm, slot, sp, sptep, gfn, access)
    return result
