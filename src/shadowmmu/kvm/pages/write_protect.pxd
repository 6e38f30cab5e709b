from ...x86.bits cimport *
from ..state.memslots cimport MemSlot
from ..spte.rmap cimport rmap_write_protect
from ..tdp.dirty_log cimport kvm_tdp_mmu_write_protect_gfn
from ..state.vm cimport Kvm

cpdef bint kvm_mmu_slot_gfn_write_protect(Kvm kvm, MemSlot slot, u64 gfn, u32 min_level) except -1
