from ...x86.bits cimport *
from .alloc_page cimport kvm_mmu_alloc_shadow_page
from ..bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs
from .get_page_flows cimport get_page_by_flow
from ..spte.parent_pte cimport mmu_page_add_parent_pte
from .replace_spte cimport zap_replaced_spte
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport is_pae_root, make_nonleaf_spte, make_pae_pdpte, mmu_spte_update, spte_index
from .sync cimport kvm_sync_page
from ..spte.unsync cimport mark_unsync
from ..state.vcpu cimport MemoryCache, Vcpu
from ..state.vm cimport Kvm
from .zap cimport kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page

cpdef u32 kvm_mmu_child_role(Kvm kvm, ShadowPage parent, u64 sptep, u32 direct, u32 access) except? 0xdead
cdef u32 _in_quadrant(Kvm kvm, u32 role, u64 sptep) except? 0xdead
cdef ShadowPage _find(Kvm kvm, Vcpu vcpu, u64 gfn, u64 bucket, u32 role)
cpdef bint _refresh(Vcpu vcpu, ShadowPage sp, list[ShadowPage] invalid_list) except -1
cdef ShadowPage _get(Kvm kvm, Vcpu vcpu, MemoryCache shadow_pages, MemoryCache translation_pages, u64 gfn, u32 role)
cpdef ShadowPage kvm_mmu_get_shadow_page(Vcpu vcpu, u64 gfn, u32 role)
cpdef ShadowPage shadow_mmu_get_sp_for_split(Kvm kvm, MemoryCache shadow_pages, ShadowPage parent, u64 sptep, u64 gfn,
                                             u32 access)
cpdef ShadowPage kvm_mmu_get_child_sp(Vcpu vcpu, ShadowPage parent, u64 sptep, u64 gfn, u32 direct, u32 access)
cpdef bint is_linked(Kvm kvm, u64 sptep, ShadowPage child) except -1
cpdef void link_shadow_page(Kvm kvm, u64 sptep, ShadowPage sp) except *
