from ...x86.bits cimport *
from ..bits cimport *
from ..guest_access.dirty_ring cimport kvm_dirty_ring_check_request
from ..pages.roots cimport kvm_mmu_free_obsolete_roots, kvm_mmu_free_roots, kvm_mmu_load, kvm_mmu_load_pgd
from ..pages.sync cimport kvm_mmu_sync_roots, unsync_prev_roots
from ..state.vcpu cimport Vcpu

cdef bint _take(Vcpu vcpu, u32 request) except -1
cpdef void kvm_vcpu_flush_tlb_guest(Vcpu vcpu) except *
cpdef void service_requests(Vcpu vcpu) except *
cdef u32 _guest_levels(Vcpu vcpu) except? 77
cdef void _configure_nested_paging(Vcpu vcpu) except *
cdef void _configure_shadow_paging(Vcpu vcpu) except *
cpdef void configure_cpu(Vcpu vcpu) except *
cdef void _inject_soft_interrupt(Vcpu vcpu) except *
cdef void _prepare_entry(Vcpu vcpu) except *
cpdef void vcpu_enter_guest(Vcpu vcpu) except *
