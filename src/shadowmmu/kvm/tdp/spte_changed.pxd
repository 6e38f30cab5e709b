cimport cython
from ...x86.bits cimport *
from ..spte.atomic cimport cmpxchg64, fetch_andnot64, xchg64
from ..bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs
from ..spte.nx_huge_page cimport unaccount_nx_huge_page
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport count_pages, is_last_spte
from ..state.vm cimport Kvm
from ..state.tdp_iter cimport TdpIter
from .rcu cimport call_rcu

cpdef bint spte_has_volatile_bits(Kvm kvm, u64 spte) except -1
cpdef u64 kvm_tdp_mmu_write_spte(Kvm kvm, u64 sptep, u64 old, u64 new, u32 level) except? 0xdead
cpdef u64 tdp_mmu_set_spte(Kvm kvm, u64 sptep, u64 old, u64 new, u64 gfn, u32 level) except? 0xdead
cpdef void tdp_mmu_iter_set_spte(Kvm kvm, TdpIter it, u64 new) except *
cdef bint _try_cmpxchg(Kvm kvm, TdpIter it, u64 new) except -1
cpdef bint tdp_mmu_set_spte_atomic(Kvm kvm, TdpIter it, u64 new) except -1
cpdef bint tdp_mmu_zap_spte_atomic(Kvm kvm, TdpIter it) except -1
cpdef void tdp_mmu_clear_spte_bits(Kvm kvm, TdpIter it, u64 bits) except *
cpdef int handle_changed_spte(Kvm kvm, u64 gfn, u64 old, u64 new, u32 level, u32 shared) except -1
cpdef void handle_removed_pt(Kvm kvm, ShadowPage sp, u32 shared) except *
