cimport cython
from ...x86.bits cimport *
from .account cimport unaccount_shadowed
from ..bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs, kvm_make_all_cpus_request
from ..spte.nx_huge_page cimport unaccount_nx_huge_page
from ..spte.parent_pte cimport mmu_page_remove_parent_pte
from ..spte.rmap cimport RmapIterator, drop_spte, pte_list_free
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport is_last_spte, mmu_spte_clear_no_track
from ..tdp.roots cimport kvm_tdp_mmu_invalidate_all_roots
from ..tdp.zap cimport ZapRoots
from ..spte.unsync cimport UnsyncWalk, kvm_unlink_unsync_page
from ..state.vm cimport Kvm

cpdef void drop_parent_pte(Kvm kvm, ShadowPage child, u64 sptep) except *
cpdef u64 mmu_page_zap_pte(Kvm kvm, ShadowPage sp, u64 sptep, list[ShadowPage] invalid_list) except? 77
cdef u64 _zap_unsync_children(Kvm kvm, ShadowPage parent, list[ShadowPage] invalid_list) except? 0xdead
cdef void _unlink_parents(Kvm kvm, ShadowPage sp) except *
cpdef u64 kvm_mmu_prepare_zap_page(Kvm kvm, ShadowPage sp, list[ShadowPage] invalid_list) except? 0xdead
cpdef void kvm_mmu_commit_zap_page(Kvm kvm, list[ShadowPage] invalid_list) except *
cdef void _free_shadow_page(Kvm kvm, ShadowPage sp) except *
cpdef void kvm_mmu_remote_flush_or_zap(Kvm kvm, list[ShadowPage] invalid_list, u32 flush) except *
cpdef u64 kvm_mmu_zap_oldest_mmu_pages(Kvm kvm, u64 count) except? 0xdead
cpdef u64 available_mmu_pages(Kvm kvm) except? 0xdead
cpdef bint make_mmu_pages_available(Kvm kvm) except -1
cpdef void kvm_mmu_change_mmu_pages(Kvm kvm, u64 goal) except *
cpdef void kvm_mmu_zap_all_fast(Kvm kvm) except *

@cython.final
cdef class ZapObsoletePages:
    cdef readonly Kvm kvm
    cdef readonly list zapped
    cdef readonly bint done
    cpdef bint step(self) except -1

@cython.final
cdef class ZapAllFast:
    cdef readonly ZapObsoletePages pages
    cdef readonly ZapRoots roots
    cpdef bint step(self) except -1
