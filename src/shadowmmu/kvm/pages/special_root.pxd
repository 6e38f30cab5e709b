from ...x86.bits cimport *
from ..bits cimport *
from ..state.fault cimport GuestWalker
from ..guest_access.guest_walk cimport get_pdptr
from ..state.mmu cimport KvmMmu
from .get_page cimport link_shadow_page
from ..state.shadow_page cimport ShadowPage
from ..state.table cimport clear_table
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from .zap cimport drop_parent_pte

cpdef bint using_special_root(KvmMmu mmu) except -1
cdef ShadowPage _alloc_special_page(Vcpu vcpu, u32 role)
cpdef u64 alloc_special_root(Vcpu vcpu) except? 1
cpdef void free_special_root(Kvm kvm, ShadowPage sp) except *
cpdef u64 special_walk_root(Vcpu vcpu) except? 1
cpdef u32 special_walk_level(KvmMmu mmu) except? 0xdead
cpdef bint pdpte_changed(Vcpu vcpu, GuestWalker w, u64 addr) except -1
