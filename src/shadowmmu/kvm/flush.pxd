from ..x86.bits cimport u32
from .bits cimport REQ_TLB_FLUSH
from .vcpu cimport Vcpu
from .vm cimport Kvm

cpdef void kvm_make_all_cpus_request(Kvm kvm, u32 request) except *
cpdef void kvm_flush_remote_tlbs(Kvm kvm) except *
