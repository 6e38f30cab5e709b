cimport cython
from ...x86.bits cimport u32, u64
from .memslots cimport MemSlot

@cython.final
cdef class GuestWalker:
    cdef public u32 level, max_level, pte_access
    cdef public u64 gfn, error_code
    cdef u64 table_gfn[5]
    cdef u64 ptes[5]
    cdef u64 pte_gpa[5]
    cdef u64 pte_hpa[5]
    cdef u32 pt_access[5]
    cdef u64 prefetch_ptes[16]

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
