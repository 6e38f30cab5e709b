from ..state.shadow_page cimport ShadowPage
from ..state.vm cimport Kvm

cpdef int rcu_read_lock(Kvm kvm) except -1
cpdef int rcu_read_unlock(Kvm kvm) except -1
cpdef void call_rcu(Kvm kvm, ShadowPage sp) except *
cpdef void tdp_mmu_free_sp(Kvm kvm, ShadowPage sp) except *
