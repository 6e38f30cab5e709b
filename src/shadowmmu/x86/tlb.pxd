# cython: language_level=3
cimport cython
from .bits cimport *

@cython.final
cdef class TranslationCache:
    cdef readonly u64 page_shift
    cdef readonly u64 page_mask, set_mask, ways, epoch, owner
    cdef readonly bint mixed, filled
    cdef readonly u64[::1] tag, entry, set_epoch, hand
    cdef u64 way_of(self, u64 tag, u64 first) except? 2 nogil
    cpdef u64 lookup(self, u64 gva, u64 pcid, u64 need, u64 deny) except? 2 nogil
    cpdef int insert(self, u64 gva, u64 pcid, u64 entry) except -1 nogil
    cpdef int flush_all(self) except -1 nogil
    cpdef int flush_nonglobal(self, u64 pcid) except -1 nogil
    cpdef int flush_page(self, u64 gva, u64 pcid) except -1 nogil
    cpdef int flush_frames(self, u64 hpa, u64 size) except -1 nogil

@cython.final
cdef class Tlb:
    cdef public bint enabled
    cdef public u64 l1_hits, l2_hits
    cdef readonly TranslationCache l1_4k, l1_2m, l1_1g, l2_4k, l2_2m, l2_1g
    cpdef u64 lookup_beyond(self, u64 gva, u64 pcid, u64 need, u64 deny) except? 2 nogil
    cpdef int insert(self, u64 gva, u64 pcid, u64 entry, u64 level) except -1 nogil
    cpdef int flush_all(self) except -1 nogil
    cpdef int flush_nonglobal(self, u64 pcid) except -1 nogil
    cpdef int flush_page(self, u64 gva, u64 pcid) except -1 nogil
    cpdef int flush_frames(self, u64 hpa, u64 size) except -1 nogil
