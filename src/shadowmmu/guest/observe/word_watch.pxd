cimport cython
from ...x86.bits cimport *
from ...kvm.bits cimport *

@cython.final
cdef class WordWatch:
    cdef const u64[::1] _words
    cdef u64 _indices[8 * PT64_ROOT_MAX_LEVEL]
    cdef u64 _values[8 * PT64_ROOT_MAX_LEVEL]
    cdef readonly u64 count
    cpdef void watch(self, object indices) except *
    cpdef bint changed(self) except? 1
