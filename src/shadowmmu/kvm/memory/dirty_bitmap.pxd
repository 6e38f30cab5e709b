cimport cython
from ...x86.bits cimport *
from ..bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs_memslot
from ..state.memslots cimport MemSlot
from ..state.vm cimport Kvm
from .dirty_log cimport kvm_arch_mmu_enable_log_dirty_pt_masked

@cython.locals(words=u64[::1])
cpdef list kvm_get_dirty_log(Kvm kvm, MemSlot slot)
@cython.locals(words=u64[::1], wanted=u64[::1])
cpdef void kvm_clear_dirty_log(Kvm kvm, MemSlot slot, u64 first, memoryview bitmap) except *
