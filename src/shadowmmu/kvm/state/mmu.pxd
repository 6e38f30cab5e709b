cimport cython
from ...x86.bits cimport *
from ..bits cimport *

@cython.final
cdef class KvmMmu:
    cdef public u64 root_hpa, root_pgd
    cdef readonly u64 prev_hpa[NUM_PREV_ROOTS]
    cdef readonly u64 prev_pgd[NUM_PREV_ROOTS]
    cdef public u32 cpu_role, cpu_ext, root_role
    cdef public bint initialised
    cdef public u64 pae_root, pml4_root, pml5_root
    cdef readonly u8 permissions[ACCESSES]
    cdef readonly u64 rsvd_bits[2 * PT64_ROOT_MAX_LEVEL]
    cdef readonly u64 pdptrs[PAE_PDPTES]
    cpdef bint direct(self) noexcept
    cpdef u32 guest_level(self) noexcept
    cpdef u32 shadow_level(self) noexcept
    cpdef bint cr0_wp(self) noexcept
    cpdef bint efer_nx(self) noexcept
    cpdef u64 special_root(self) noexcept
    cpdef bint root_is_special(self) noexcept
