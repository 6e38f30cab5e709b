# cython: language_level=3
cimport cython
from .bits cimport *
from .ept cimport EptWalker
from .tlb cimport TranslationCache
from .vmx cimport *

@cython.final
cdef class Walker:
    cdef readonly u64[::1] words
    cdef public bint caches_enabled, two_dimensional
    cdef public u64 nested_root
    cdef readonly u64 nested_fault_gpa
    cdef readonly Walker nested
    cdef public u64 walks, loads, ad_sets
    cdef readonly u64 level, error_code
    cdef readonly TranslationCache pde, pdpte, pml4e, pml5e
    cdef readonly object implementation
    cdef readonly u64 pdpte_accessed, reserved_error
    cdef readonly u64 limit, levels, root_mask, entry_bytes, entry_mask, index_bits, leaf_bit, global_bit, fetch_error
    cdef readonly u64 reserved[2 * (MAX_LEVELS + 1)]
    cdef readonly u64 need[ACCESSES]
    cdef readonly u64 deny[ACCESSES]
    cdef readonly u64 pdptes[PAE_PDPTES]
    cdef readonly bint shortened, nonleaf_bit8, ept_advanced_info, accessed_at_end
    cdef readonly EptWalker ept
    cdef u64 translate(self, u64 root, u64 gva, u64 pcid, u32 mode) except? 2 nogil
    cdef u64 walk(self, u64 root, u64 gva, u64 pcid, u32 mode, u32 use_caches) except? 2 nogil
    cdef bint mark_tables(self, u64 table, u64 level, u64 gva, u64 last) except -1 nogil
    cpdef u64 load_pdptes(self, u64 root, u64 maxphyaddr) except? 2
    cdef u64 nested_entry(self, u64 gpa) except? 2 nogil
    cdef u64 nested_page(self, u64 gpa, u64 translation, u32 mode) except? 2 nogil
    cdef u64 advanced_info(self, u64 translation) except? 2 nogil
    cdef bint update(self, u64 hpa, u64 word, u64 table, u64 gva, u64 level) except -1 nogil
    cdef bint may_update(self, u64 table, u64 gva, u64 level) except -1 nogil
    cdef u64 walk_ept(self, u64 root, u64 gpa, u32 mode) except? 2 nogil
    cdef u64 cached(self, u64 level, u64 gva, u64 pcid) except? 2 nogil
    cdef int remember(self, u64 level, u64 gva, u64 pcid, u64 entry) except -1 nogil
    cdef u64 fault(self, u64 cause, u32 mode) except? 2 nogil
    cdef int machine_check(self, u64 hpa) except -1 with gil
    cpdef int flush_all(self) except -1 nogil
    cpdef int flush_pcid(self, u64 pcid) except -1 nogil
    cpdef int flush_address(self, u64 gva, u64 pcid) except -1 nogil
