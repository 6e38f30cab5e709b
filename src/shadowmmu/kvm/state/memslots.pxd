cimport cython
from ...host.mapping cimport Mapping
from ...x86.bits cimport *
from ..bits cimport *

@cython.final
cdef class MemSlot:
    cdef public u64 base_gfn
    cdef readonly u64 npages, first_page
    cdef readonly int id
    cdef public u64 flags
    cdef readonly Mapping mapping
    cdef readonly u64[::1] rmap1, rmap2, rmap3, lpage2, lpage3, write_track, dirty_bitmap
    @cython.locals(counts=u64[::1])
    cdef void _disallow_misaligned(self) except *
    cpdef u64 index(self, u64 gfn, u32 level) noexcept
    cpdef u64 rmap_head(self, u64 gfn, u32 level) except? 1
    cpdef void set_rmap_head(self, u64 gfn, u32 level, u64 head) except *
    cpdef u64 disallow_lpage(self, u64 gfn, u32 level) except? 77
    cpdef void count_disallow_lpage(self, u64 gfn, i64 delta) except *
    cpdef bint logs_dirty(self) noexcept
    cpdef bint visible(self) noexcept
    cpdef bint writable(self) noexcept
    cpdef u64 page_index(self, u64 gfn) noexcept
    @cython.locals(words=u64[::1])
    cdef list _nonzero(self, u32 kind, u32 level)
    cpdef list rmap_entries(self, u32 level)
    cpdef list lpage_entries(self, u32 level)
    cpdef list tracked(self)
    cpdef u64[::1] rmap_heads(self, u32 level)
    cpdef u64[::1] log_words(self)
    cpdef void set_dirty_bit(self, u64 page) except *
