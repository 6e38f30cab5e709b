from ...x86.bits cimport *
from ..state.memslots cimport MemSlot
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm

cpdef void flush_gfn_range(Kvm kvm, u64 gfn, u64 pages) except *
cdef u64 _frame_behind(Kvm kvm, u64 gfn) except? 1
cdef void _flush_frames(Kvm kvm, u64 first, u64 count) except *
