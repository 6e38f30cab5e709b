from ...x86.bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs
from ..state.shadow_page cimport ShadowPage
from ..state.vm cimport Kvm
from ..state.tdp_iter cimport TdpIter
from .rcu cimport rcu_read_lock, rcu_read_unlock
from .roots cimport tdp_mmu_next_root

cdef class TdpWalk:
    cdef readonly Kvm kvm
    cdef readonly u64 start, end
    cdef readonly u32 min_level
    cdef public bint only_valid, can_yield, flush, changed
    cdef readonly TdpIter it
    cdef readonly ShadowPage root
    cdef readonly bint started
    cdef bint visit(self) except -1
    cdef void next_root(self) except *
    cpdef bint step(self) except -1
    cpdef bint finish(self) except -1
