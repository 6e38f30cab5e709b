cimport cython
from ...x86.bits cimport *
from ..bits cimport *
from .memslots cimport MemSlot

@cython.final
cdef class GuestWalker:
    cdef public u32 level, max_level, pte_access
    cdef public u64 gfn, error_code
    cdef readonly u64 table_gfn[PT64_ROOT_MAX_LEVEL]
    cdef readonly u64 ptes[PT64_ROOT_MAX_LEVEL]
    cdef readonly u64 pte_gpa[PT64_ROOT_MAX_LEVEL]
    cdef readonly u64 pte_hpa[PT64_ROOT_MAX_LEVEL]
    cdef readonly u32 pt_access[PT64_ROOT_MAX_LEVEL]
    cdef readonly u64 prefetch_ptes[PT32_ENT_PER_PAGE]

@cython.final
cdef class PageFault:
    cdef public u64 addr, error_code, gfn, pfn, mmu_seq
    cdef public bint exec, write, present, rsvd, user, nx_huge_page_workaround_enabled
    cdef public bint huge_page_disallowed, is_tdp, write_fault_to_shadow_pgtable, map_writable, prefetch
    cdef public u32 max_level, req_level, goal_level
    cdef public MemSlot slot

@cython.final
cdef class LeafSpte:
    cdef public u64 spte
    cdef public bint wrprot
