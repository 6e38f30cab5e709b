cimport cython
from ...x86.bits cimport *
from .atomic cimport fetch_andnot64, xchg64
from ..bits cimport *
from .flush cimport kvm_flush_remote_tlbs_range
from .huge_page cimport pages_per_hpage
from ..state.memslots cimport MemSlot
from ..state.shadow_page cimport ShadowPage
from .spte cimport (count_pages, mark_spte_for_access_track, mmu_spte_clear_track_bits, mmu_spte_update, page_gfn,
                    set_page_translation, spte_index)
from ..state.vm cimport Kvm

@cython.final
cdef class RmapIterator:
    cdef readonly Kvm kvm
    cdef readonly u64 desc, pos
    cdef u64 first(self, u64 head) except? 1
    cdef u64 next(self) except? 1

cpdef u64 alloc_desc(Kvm kvm) except 1
cpdef void free_desc(Kvm kvm, u64 desc) except *
cpdef u64 pte_list_count(Kvm kvm, u64 head) except? 0xdead
cdef u64 _count_on_add(Kvm kvm, u64 head) except? 0xdead
cpdef u64 pte_list_add(Kvm kvm, u64 head, u64 sptep) except? 1
cpdef u64 pte_list_remove(Kvm kvm, u64 head, u64 sptep) except? 1
cdef u64 _pte_list_fill_hole(Kvm kvm, u64 first, u64 hole) except? 1
cdef void _add_at_tail(Kvm kvm, u64 desc, u64 sptep) except *
cdef u64 _fill_hole_in_place(Kvm kvm, u64 head, u64 before, u64 desc, u64 hole) except? 1
cpdef void pte_list_free(Kvm kvm, u64 head) except *
cpdef list pte_list(Kvm kvm, u64 head)
cpdef int rmap_add(Kvm kvm, MemSlot slot, ShadowPage sp, u64 sptep, u64 gfn, u32 access) except -1
cdef void _record_rmap_size(Kvm kvm, u64 count) except *
cpdef void rmap_remove(Kvm kvm, u64 sptep) except *
cpdef bint drop_spte(Kvm kvm, u64 sptep) except -1
cpdef bint kvm_zap_all_rmap_sptes(Kvm kvm, MemSlot slot, u64 gfn, u32 level) except -1
cpdef bint kvm_age_rmap(Kvm kvm, MemSlot slot, u64 gfn, u32 level, u32 clear) except -1
cpdef bint spte_write_protect(Kvm kvm, u64 sptep, u32 pt_protect) except -1
cpdef bint rmap_write_protect(Kvm kvm, u64 head, u32 pt_protect) except -1
