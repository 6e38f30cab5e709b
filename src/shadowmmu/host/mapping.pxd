cimport cython
from ..x86.bits cimport MASK64, PAGE_SHIFT, PAGE_SIZE, u8, u32, u64
from .memory cimport Arena

@cython.final
cdef class Mapping:
    cdef readonly Arena arena
    cdef readonly u64 hva, npages, base_pfn, first_2m, regions
    cdef readonly object kind
    cdef public bint protected, replaced, has_tables
    cdef readonly bint populated
    cdef readonly u32 uniform_level
    cdef u64[::1] pages
    cdef u8[::1] huge, split
    cdef public list vmas
    cdef readonly list notifiers
    cdef dict moved
    cdef readonly set zero_regions
    cdef object huge_zero_pfn
    cpdef u64 untouched_page(self, u64 index) except? 1
    cpdef u64 page(self, u64 index) except? 1
    cpdef u64 fast_page(self, u64 index, u64 write) except? 1
    cpdef u32 level(self, u64 index) except? 77
