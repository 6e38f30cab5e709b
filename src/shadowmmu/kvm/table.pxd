from ..x86.bits cimport u64
from .vm cimport Kvm

cdef u64[::1] EMPTY_TABLE, NO_TRANSLATIONS
cpdef void clear_table(Kvm kvm, u64 hpa) except *
cpdef void clear_translations(Kvm kvm, u64 hpa) except *
