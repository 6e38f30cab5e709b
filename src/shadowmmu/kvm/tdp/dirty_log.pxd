from ...x86.bits cimport *
from ..bits cimport *
from ..state.memslots cimport MemSlot
from ..state.shadow_page cimport ShadowPage
from ..state.vm cimport Kvm
from ..state.tdp_iter cimport TdpIter
from .rcu cimport rcu_read_lock, rcu_read_unlock
from .spte_changed cimport tdp_mmu_clear_spte_bits, tdp_mmu_iter_set_spte, tdp_mmu_set_spte_atomic
from .walk cimport TdpWalk

cpdef bint tdp_mmu_need_write_protect(Kvm kvm, ShadowPage root) except -1

cdef class WriteProtectSlot(TdpWalk):
    cdef bint visit(self) except -1

cpdef bint kvm_tdp_mmu_wrprot_slot(Kvm kvm, MemSlot slot, u32 min_level) except -1

cdef class ClearDirtySlot(TdpWalk):
    cdef bint visit(self) except -1

cpdef bint kvm_tdp_mmu_clear_dirty_slot(Kvm kvm, MemSlot slot) except -1
cpdef void kvm_tdp_mmu_clear_dirty_pt_masked(Kvm kvm, u64 gfn, u64 mask, u32 wrprot) except *
cdef void _clear_masked(Kvm kvm, TdpIter it, ShadowPage root, u64 gfn, u64 mask, u64 bit) except *
cpdef bint kvm_tdp_mmu_write_protect_gfn(Kvm kvm, u64 gfn, u32 min_level) except -1
