cimport cython
from ...x86.bits cimport *
from ..bits cimport *
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm

@cython.final
cdef class DirtyRing:
    cdef readonly int index
    cdef readonly u32 size, soft_limit, dirty_index
    cdef public u32 reset_index
    cdef readonly u64[::1] words
    cpdef u32 used(self) noexcept
    cpdef bint is_soft_full(self) noexcept
    cpdef u64 flags(self, u32 index) except? 77
    cpdef u64 slot(self, u32 index) except? 77
    cpdef u64 offset(self, u32 index) except? 77
    cpdef void set_flags(self, u32 index, u64 flags) except *
    cpdef void fill(self, u64 slot, u64 offset) except *
    cpdef list harvest(self)

cpdef DirtyRing dirty_ring_of(Vcpu vcpu)
cpdef void kvm_dirty_ring_push(Vcpu vcpu, u64 slot, u64 offset) except *
cpdef bint kvm_dirty_ring_check_request(Vcpu vcpu) except -1
