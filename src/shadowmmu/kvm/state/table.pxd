from ...x86.bits cimport *
from .vm cimport Kvm

cdef u64[::1] BITS_63, ZEROS
cpdef void clear_table(Kvm kvm, u64 hpa) except *
cpdef void clear_translations(Kvm kvm, u64 hpa) except *
