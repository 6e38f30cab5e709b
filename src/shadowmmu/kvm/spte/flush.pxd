from ...x86.bits cimport *
from ..bits cimport *
from ..state.memslots cimport MemSlot
from .ranged_flush cimport flush_gfn_range
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm

cpdef void kvm_make_all_cpus_request(Kvm kvm, u32 request) except *
cpdef void kvm_flush_remote_tlbs(Kvm kvm) except *
cpdef void kvm_flush_remote_tlbs_range(Kvm kvm, u64 gfn, u64 pages) except *
cpdef void kvm_flush_remote_tlbs_memslot(Kvm kvm, MemSlot slot) except *
