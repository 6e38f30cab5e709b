from ...x86.bits cimport *
from ..bits cimport *
from ..state.shadow_page cimport ShadowPage
from ..state.vm cimport Kvm
from .roots cimport kvm_tdp_mmu_put_root, tdp_mmu_next_root
from .spte_changed cimport tdp_mmu_iter_set_spte, tdp_mmu_set_spte, tdp_mmu_set_spte_atomic
from .walk cimport TdpWalk

cdef class ZapLeafs(TdpWalk):
    cdef bint visit(self) except -1

cpdef bint kvm_tdp_mmu_zap_leafs(Kvm kvm, u64 start, u64 end, u32 flush) except -1
cpdef bint kvm_tdp_mmu_unmap_gfn_range(Kvm kvm, u64 start, u64 end, u32 flush, u32 may_block) except -1

cdef class ZapRoots(TdpWalk):
    cdef readonly u32 shared, zap_level
    cdef bint visit(self) except -1
    cdef void next_root(self) except *

cpdef void kvm_tdp_mmu_zap_all(Kvm kvm) except *
cpdef void kvm_tdp_mmu_zap_invalidated_roots(Kvm kvm) except *
cpdef bint kvm_tdp_mmu_zap_sp(Kvm kvm, ShadowPage sp) except -1
