"""Write-protecting guest memory because its contents are shadowed
(kvm_mmu_slot_gfn_write_protect, 6.12.111).
"""

from cython import uint as u32, ulonglong as u64

from ..spte.rmap import rmap_write_protect
from ..state.memslots import MemSlot
from ..state.vm import Kvm
from ..tdp.dirty_log import kvm_tdp_mmu_write_protect_gfn


def kvm_mmu_slot_gfn_write_protect(kvm: Kvm, slot: MemSlot, gfn: u64, min_level: u32) -> bool:
    """Clear W and MMU_WRITABLE in every SPTE of gfn from min_level to level 3, in both MMUs. Return whether a
    flush is needed.
    """
    protected: u32 = 0
    level: u32
    if kvm.have_rmaps():
        for level in range(min_level, 4):
            protected |= rmap_write_protect(kvm, slot.rmap_head(gfn, level), 1)
    if kvm.tdp_mmu_enabled():
        protected |= kvm_tdp_mmu_write_protect_gfn(kvm, gfn, min_level)
    return protected != 0
