cimport cython
from ...x86.bits cimport u8, u32, u64
from ..bits cimport (INVALID_PAGE, ROLE_CR0_WP, ROLE_DIRECT, ROLE_EFER_NX,
                    ROLE_LEVEL)

@cython.final
cdef class KvmMmu:
    cdef public u64 root_hpa, root_pgd
    cdef u64 prev_hpa[3]
    cdef u64 prev_pgd[3]
    cdef public u32 cpu_role, cpu_ext, root_role
    cdef public bint initialised
    cdef public u64 pae_root, pml4_root, pml5_root
    cdef u8 permissions[16]
    cdef u64 rsvd_bits[10]
    cdef u64 pdptrs[4]
    cpdef bint direct(self)
    cpdef u32 guest_level(self)
    cpdef u32 shadow_level(self)
    cpdef bint cr0_wp(self)
    cpdef bint efer_nx(self)
    cpdef u64 special_root(self)
    cpdef bint root_is_special(self)
