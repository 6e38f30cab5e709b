from ...kvm.bits cimport *
from ...kvm.exits.page_fault_exit cimport page_fault_exit
from ...kvm.exits.run cimport vcpu_enter_guest
from ...kvm.state.vcpu cimport Vcpu
from ...x86.bits cimport *

cpdef u64 run_accesses(Vcpu vcpu, u64[::1] gvas, u8[::1] kinds, u64 start) except? 0xdead
