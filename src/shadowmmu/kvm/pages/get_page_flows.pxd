cimport cython
from ...x86.bits cimport *
from .alloc_page cimport kvm_mmu_alloc_shadow_page
from ..bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs
from ..state.shadow_page cimport ShadowPage
from .sync cimport kvm_sync_page
from ..state.vcpu cimport MemoryCache, Vcpu
from ..state.vm cimport Kvm
from .zap cimport kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page

@cython.final
cdef class PageSearch:
    cdef readonly Kvm kvm
    cdef readonly u64 bucket
    cdef readonly i64 collisions
    cdef readonly list invalid_list
    cdef readonly ShadowPage found
    cdef void count_collisions(self) except *
    cdef void commit(self) except *
    cdef void sync(self, Vcpu vcpu, u32 always_flush) except *
    cdef void forget_flooding(self) except *

cpdef ShadowPage get_page_by_flow(Kvm kvm, Vcpu vcpu, MemoryCache shadow_pages, MemoryCache translation_pages, u64 gfn,
                                  u32 role)
cdef ShadowPage _make(Kvm kvm, MemoryCache shadow_pages, MemoryCache translation_pages, u64 gfn, u64 bucket, u32 role)
