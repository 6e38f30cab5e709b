# cython: language_level=3
cimport cython
from .bits cimport *
from .ept cimport EptWalker
from .tlb cimport Tlb
from .walker cimport Walker

@cython.final
cdef class Processor:
    cdef public u64 root, pcid
    cdef public u64 user, eflags_ac
    cdef readonly u64 levels, maxphyaddr
    cdef readonly bint cr0_wp, efer_nx, cr4_smep, cr4_smap, cr4_pse, cr4_pge, gbpages, amd
    cdef readonly u64 fault_gva, fault_error_code, fault_vector
    cdef readonly u64 flushes, page_flushes, flushed_page
    cdef readonly Tlb tlb
    cdef readonly Walker walker, nested
    cdef readonly EptWalker ept
    cdef readonly u64 limit, virtual_bits, virtual_half
    cdef u64 translate(self, u64 gva, u32 mode) except? 2 nogil
    cpdef u64 access(self, u64 gva, u32 kind) except? 2 nogil
    cpdef u64 implicit_access(self, u64 gva, u32 kind) except? 2 nogil
    cpdef u64 run(self, u64[::1] gvas, u8[::1] kinds, u64 start) except? 2
    cpdef int flush_all(self) except -1 nogil
    cpdef int flush_current(self) except -1 nogil
    cpdef int flush_gva(self, u64 gva) except -1 nogil
    cpdef int flush_frames(self, u64 hpa, u64 size) except -1 nogil
