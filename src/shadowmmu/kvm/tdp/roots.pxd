from ...x86.bits cimport *
from ..bits cimport *
from ..state.shadow_page cimport ShadowPage
from ..state.table cimport clear_table
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from ..state.tdp_iter cimport TdpIter
from .rcu cimport call_rcu

cpdef ShadowPage tdp_mmu_alloc_sp(Vcpu vcpu, u64 gfn, u32 role, u64 ptep)
cpdef ShadowPage tdp_mmu_init_sp(Kvm kvm, u64 spt, u64 gfn, u32 role, u64 ptep)
cpdef ShadowPage tdp_mmu_init_child_sp(Kvm kvm, u64 spt, TdpIter it)
cpdef void kvm_tdp_mmu_alloc_root(Vcpu vcpu) except *
cdef ShadowPage _find_root(Kvm kvm, u32 role)
cpdef void kvm_tdp_mmu_put_root(Kvm kvm, ShadowPage root) except *
cpdef ShadowPage tdp_mmu_next_root(Kvm kvm, ShadowPage previous, u32 only_valid)
cpdef void kvm_tdp_mmu_invalidate_all_roots(Kvm kvm) except *
