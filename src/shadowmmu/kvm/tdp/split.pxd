from ...x86.bits cimport *
from ..bits cimport *
from ..spte.make_spte cimport make_huge_page_split_spte
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport count_pages, make_nonleaf_spte
from ..state.vm cimport Kvm
from ..state.tdp_iter cimport TdpIter
from .roots cimport tdp_mmu_init_child_sp
from .spte_changed cimport tdp_mmu_iter_set_spte, tdp_mmu_set_spte_atomic
from .walk cimport TdpWalk

cpdef bint tdp_mmu_link_sp(Kvm kvm, TdpIter it, ShadowPage sp, u32 shared) except -1
cpdef bint tdp_mmu_split_huge_page(Kvm kvm, TdpIter it, ShadowPage sp, u32 shared) except -1

cdef class SplitHugePages(TdpWalk):
    cdef readonly u32 shared
    cdef readonly u64 spare
    cdef bint visit(self) except -1
    cdef void next_root(self) except *

cpdef void kvm_tdp_mmu_try_split_huge_pages(Kvm kvm, u64 start, u64 end, u32 target_level, u32 shared) except *
