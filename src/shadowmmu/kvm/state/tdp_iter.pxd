cimport cython
from ...x86.bits cimport *
from ..bits cimport *
from .shadow_page cimport ShadowPage
from .vm cimport Kvm

@cython.final
cdef class TdpIter:
    cdef readonly Kvm kvm
    cdef readonly u64 tables[PT64_ROOT_MAX_LEVEL + 1]
    cdef readonly u32 root_level, min_level, level
    cdef readonly u64 gfn, next_gfn, yielded_gfn, sptep
    cdef public u64 old_spte
    cdef readonly bint valid
    cdef public bint yielded
    cpdef void start(self, ShadowPage root, u32 min_level, u64 gfn) except *
    cdef void _restart(self) except *
    cdef void _stand(self, u32 level) except *
    cpdef void next(self) except *
    cdef bint _descend(self) except -1
    cdef void _advance(self) except *
    cpdef bint should_yield(self) noexcept
