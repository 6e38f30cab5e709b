from ...x86.bits cimport u64
from ..state.vcpu cimport Vcpu

cpdef void record_exit(Vcpu vcpu, u64 reason, u64 info1, u64 info2) except *
