cimport cython
from ...x86.bits cimport *
from ..bits cimport *

@cython.final
cdef class ShadowPage:
    cdef readonly u64 gfn, spt, translations
    cdef public u32 role
    cdef public u32 mmu_valid_gen, root_count, unsync_children, write_flooding_count, clear_spte_count
    cdef public bint unsync, nx_huge_page_disallowed, tracked_nx_huge_page, on_list, multimapped
    cdef public bint tdp_mmu_page, scheduled_root_to_zap, special
    cdef public u64 ptep
    cdef readonly u64 unsync_child_bitmap[UNSYNC_BITMAP_WORDS]
    cdef public u64 parent_ptes
    cdef readonly ShadowPage newer, older
    cdef readonly ShadowPage hash_next
    cpdef u32 level(self) noexcept
    cpdef bint direct(self) noexcept
    cpdef bint has_gptes(self) noexcept
    cpdef u64 parents(self) noexcept

@cython.final
cdef class PageList:
    cdef readonly ShadowPage newest, oldest
    cdef public u32 corrupted
    cpdef void add(self, ShadowPage sp) noexcept
    cpdef void add_oldest(self, ShadowPage sp) noexcept
    cpdef void remove(self, ShadowPage sp) noexcept
    cpdef list pages(self)
