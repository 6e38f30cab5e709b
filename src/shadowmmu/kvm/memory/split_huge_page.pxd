cimport cython
from ...x86.bits cimport *
from ..bits cimport *
from ..spte.make_spte cimport make_huge_page_split_spte
from ..state.memslots cimport MemSlot
from ..pages.get_page cimport link_shadow_page, shadow_mmu_get_sp_for_split
from ..pages.replace_spte cimport split_needs_flush, zap_replaced_spte
from ..spte.rmap cimport RmapIterator, rmap_add
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport is_last_spte, page_access, page_gfn, spte_index
from ..tdp.split cimport kvm_tdp_mmu_try_split_huge_pages
from ..state.vcpu cimport MemoryCache
from ..state.vm cimport Kvm
from ..pages.zap cimport available_mmu_pages

@cython.final
cdef class SplitCaches:
    cdef readonly Kvm kvm
    cdef readonly MemoryCache shadow_pages
    cdef public u64 descs
    cpdef bint need_topup(self) except -1
    cpdef void top_up(self) except *

cdef void _shadow_mmu_split_huge_page(Kvm kvm, MemSlot slot, u64 sptep, MemoryCache shadow_pages) except *
cdef i64 _try_split_huge_page(Kvm kvm, MemSlot slot, u64 sptep) except? 77

@cython.final
cdef class SplitShadowHugePages:
    cdef readonly Kvm kvm
    cdef readonly MemSlot slot
    cdef readonly u64 start, end, index
    cdef readonly u32 target_level, level
    cpdef bint step(self) except -1
    @cython.locals(heads=u64[::1])
    cdef bint _split_rmap(self, u64 index) except -1
    cdef bint _is_splittable(self, u64 sptep) except -1

cpdef void kvm_mmu_try_split_huge_pages(Kvm kvm, MemSlot slot, u64 start, u64 end, u32 target_level, u32 shared) except *
