cimport cython
from ..x86.bits cimport *

cdef u64 _low_bytes(u64 size) except? 0xdead

@cython.final
cdef class Arena:
    cdef readonly u64[::1] words
    cdef readonly u64 size, next_table, table_end, next_user
    cdef readonly object free_tables, buffer
    cpdef bint is_zeros(self, u64 hpa) except? 1
    cpdef u64 load(self, u64 hpa, u64 size) except? 0xdead
    cpdef void store(self, u64 hpa, u64 size, u64 value) except *
    cpdef void copy_page(self, u64 source, u64 target) except *
