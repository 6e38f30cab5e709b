from ...x86.bits cimport *
from ..bits cimport *
from ..guest_access.guest_walk cimport get_pdptr
from ..spte.mmio cimport vcpu_clear_mmio_info
from ..state.mmu cimport KvmMmu
from .get_page cimport kvm_mmu_get_shadow_page
from ..state.shadow_page cimport ShadowPage
from .special_root cimport alloc_special_root, free_special_root
from .sync cimport kvm_mmu_sync_roots
from ..state.table cimport clear_translations
from ..tdp.roots cimport kvm_tdp_mmu_alloc_root, kvm_tdp_mmu_put_root
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from .zap cimport kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page, make_mmu_pages_available

cpdef ShadowPage root_to_sp(Vcpu vcpu, u64 hpa)
cdef u64 _alloc_root(Vcpu vcpu, u64 gfn, u32 role) except? 1
cdef u32 _directory_role(KvmMmu mmu, u32 quadrant) except? 0xdead
cpdef void mmu_alloc_direct_roots(Vcpu vcpu) except *
cdef bint _is_root_visible(Vcpu vcpu, u64 root_gfn) except -1
cpdef void mmu_alloc_shadow_roots(Vcpu vcpu) except *
cpdef void mmu_alloc_special_roots(Kvm kvm, KvmMmu mmu) except *
cdef u64 _zeroed_table(Kvm kvm) except? 1
cdef void _link_special_tables(Kvm kvm, KvmMmu mmu, u64 flags) except *
cpdef void kvm_mmu_load(Vcpu vcpu) except *
cpdef void kvm_mmu_load_pgd(Vcpu vcpu) except *
cpdef void _free_root_page(Kvm kvm, u64 hpa, list[ShadowPage] invalid_list) except *
cpdef void kvm_mmu_free_roots(Kvm kvm, KvmMmu mmu, u32 roots) except *
cdef bint _is_obsolete_root(Vcpu vcpu, u64 hpa) except -1
cpdef void kvm_mmu_free_obsolete_roots(Vcpu vcpu) except *
cdef void _free_obsolete_roots(Vcpu vcpu, KvmMmu mmu) except *
cpdef void kvm_mmu_unload(Vcpu vcpu) except *
cpdef void kvm_mmu_reset_context(Vcpu vcpu) except *
cdef bint _is_root_usable(Vcpu vcpu, u64 hpa, u64 pgd, u64 new_pgd) except -1
cdef void _swap_with_prev(KvmMmu mmu, u32 i) except *
cdef bint _find_and_keep_current(Vcpu vcpu, u64 new_pgd) except -1
cdef bint _find_without_current(Vcpu vcpu, u64 new_pgd) except -1
cpdef bint fast_pgd_switch(Vcpu vcpu, u64 new_pgd) except -1
cpdef void kvm_mmu_new_pgd(Vcpu vcpu, u64 new_pgd) except *
