from ...x86.bits cimport *
from ...x86.vmx cimport *
from ..bits cimport *
from ..fault.page_fault cimport kvm_mmu_page_fault
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from .svm_exits cimport record_exit

cdef u64 SVM_EXIT_EXCP_PF, SVM_EXIT_NPF

cpdef u32 page_fault_exit(Vcpu vcpu, u64 address, u64 error_code, u32 nested) except? 77
cpdef u32 handle_page_fault(Vcpu vcpu, u64 address, u64 error_code, u32 nested) except? 77
cdef u32 _handle_vmx_exit(Vcpu vcpu, u64 address, u64 error_code, u32 nested) except? 77
cdef u32 _handle_ept_exit(Vcpu vcpu, u64 gpa, u64 qualification) except? 77
cpdef u64 ept_violation_error_code(Kvm kvm, u64 qualification) except? 0xdead
cpdef bint must_emulate(Vcpu vcpu, u64 address) except -1
