cimport cython
from ...x86.bits cimport *

@cython.final
cdef class WordWatch:
    cdef const u64[::1] _words
    cdef u64 _indices[64]
    cdef u64 _values[64]
    cdef readonly u64 count
    cpdef void watch(self, object indices) except *
    cpdef bint changed(self) except? 1
