from ..x86.bits cimport u64
from .vm cimport Kvm

cdef u64[::1] ZEROS, BITS_63
cpdef void clear_table(Kvm kvm, u64 hpa) except *
cpdef void clear_translations(Kvm kvm, u64 hpa) except *
