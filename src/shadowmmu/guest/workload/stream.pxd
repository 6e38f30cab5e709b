from ...host.memory cimport Arena
from ...kvm.bits cimport *
from ...kvm.exits.page_fault_exit cimport handle_page_fault
from ...kvm.exits.run cimport vcpu_enter_guest
from ...kvm.state.vcpu cimport Vcpu
from ...x86.bits cimport *
from ...x86.processor cimport Processor

cdef u64 _run_guest(Processor cpu, Arena arena, u8[::1] kinds, u64[::1] gvas, u64[::1] values, u64 start) except? 0xdead
cpdef u64 run_stream(Vcpu vcpu, u8[::1] kinds, u64[::1] gvas, u64[::1] values, u64 start) except? 0xdead
