from ...x86.bits cimport (EPT_R, EPT_RWX, EPT_VIOLATION_GVA_TRANSLATED, EPT_VIOLATION_GVA_VALID, EPT_VIOLATION_RWX_SHIFT,
                         EPT_W, EPT_X, EXIT_EPT_MISCONFIG, EXIT_PML_FULL, PFERR_F, PFERR_GUEST_FINAL, PFERR_GUEST_PAGE,
                         PFERR_P, PFERR_RSVD, PFERR_U, PFERR_W, u32, u64)
from ..bits cimport RET_PF_EFAULT, RET_PF_EMULATE, RET_PF_ENOSPC, RET_PF_RETRY
from ..fault.page_fault cimport kvm_mmu_page_fault
from ..state.vcpu cimport Vcpu
from .svm_exits cimport record_exit

cpdef u32 page_fault_exit(Vcpu vcpu, u64 address, u64 error_code, u32 nested) except? 77
cdef u32 _handle(Vcpu vcpu, u64 address, u64 info, u64 error_code, u32 nested) except? 77
cdef u32 _handle_ept_exit(Vcpu vcpu, u64 gpa, u64 qualification) except? 77
cpdef u64 ept_violation_error_code(u64 qualification) except? 0xdead
cpdef bint needs_more(Vcpu vcpu) except -1
cpdef bint must_emulate(Vcpu vcpu, u64 address) except -1
