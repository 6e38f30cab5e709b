from ...x86.bits cimport *
from ..state.vm cimport Kvm

cpdef u64 cmpxchg64(Kvm kvm, u64 sptep, u64 old, u64 new) except? 0xdead
cpdef u64 xchg64(Kvm kvm, u64 sptep, u64 new) except? 0xdead
cpdef u64 fetch_andnot64(Kvm kvm, u64 sptep, u64 bits) except? 0xdead
cpdef u64 write_in_halves(Kvm kvm, u64 sptep, u64 new) except? 0xdead
