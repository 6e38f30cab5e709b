from ...x86.bits cimport *
from ..state.vcpu cimport Vcpu

cpdef int record_exit(Vcpu vcpu, u64 reason, u64 info1, u64 info2) except -1
