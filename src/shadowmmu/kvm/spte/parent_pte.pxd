from ...x86.bits cimport *
from ..bits cimport *
from .rmap cimport alloc_desc, free_desc, pte_list_add, pte_list_remove
from ..state.shadow_page cimport ShadowPage
from ..state.vm cimport Kvm

cpdef void mmu_page_add_parent_pte(Kvm kvm, ShadowPage sp, u64 sptep) except *
cpdef void mmu_page_remove_parent_pte(Kvm kvm, ShadowPage sp, u64 sptep) except *
cdef void _add_to_chain(Kvm kvm, ShadowPage sp, u64 sptep) except *
cdef u64 _block(Kvm kvm, u64 more, u64 sptep) except 1
cdef void _remove_from_chain(Kvm kvm, ShadowPage sp, u64 sptep) except *
cdef void _remove_from_block(Kvm kvm, u64 block, u64 hole) except *
cdef void _unlink_block(Kvm kvm, ShadowPage sp, u64 before, u64 block) except *
