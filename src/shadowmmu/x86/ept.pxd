# cython: language_level=3
cimport cython
from .bits cimport *
from .vmx cimport *
from .tlb cimport TranslationCache

@cython.final
cdef class EptWalker:
    cdef readonly u64[::1] words
    cdef readonly u64 limit
    cdef public bint caches_enabled, pml_enabled
    cdef readonly u64 levels, level, exit, qualification, loads, ad_sets
    cdef readonly bint ad, execute_only
    cdef readonly u64 rights
    cdef public u64 pml_address, pml_index
    cdef readonly bint shortened
    cdef readonly u64 reserved[2 * (MAX_LEVELS + 1)]
    cdef readonly TranslationCache pde, pdpte, pml4e, pml5e
    cdef u64 access(self, u32 mode) except? 2 nogil
    cdef u64 translate(self, u64 root, u64 gpa, u64 access, u64 is_table) except? 2 nogil
    cdef u64 walk(self, u64 root, u64 gpa, u64 access, u64 is_table, u32 use_caches) except? 2 nogil
    cdef bint is_misconfigured(self, u64 entry, u64 level, u64 leaf) except -1 nogil
    cdef u64 violation(self, u64 access, u64 rights, u64 is_table) except? 2 nogil
    cdef bint log_dirty(self, u64 gpa) except -1 nogil
    cdef int no_memory(self, u64 hpa) except -1 with gil
    cdef u64 cached(self, u64 level, u64 gpa) except? 2 nogil
    cdef int remember(self, u64 level, u64 gpa, u64 entry) except -1 nogil
    cpdef int flush_all(self) except -1 nogil
    cdef int flush_address(self, u64 gpa) except -1 nogil
