from ...kvm.bits cimport INVALID_PAGE, RET_PF_EFAULT, RET_PF_EMULATE, RET_PF_ENOSPC
from ...kvm.exits.page_fault_exit cimport handle_page_fault
from ...kvm.exits.run cimport vcpu_enter_guest
from ...kvm.state.vcpu cimport Vcpu
from ...x86.bits cimport NESTED_FAULT, PF_VECTOR, u8, u32, u64

cpdef u64 run_accesses(Vcpu vcpu, u64[::1] gvas, u8[::1] kinds, u64 start) except? 0xdead
