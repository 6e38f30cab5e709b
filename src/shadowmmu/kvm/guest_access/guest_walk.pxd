from ...x86.bits cimport *
from ..bits cimport *
from ..state.fault cimport GuestWalker
from .guest_memory cimport read_page_atomic, table_page, write_page
from .mark_dirty cimport mark_page_dirty_in_slot
from ..state.memslots cimport MemSlot
from ..state.mmu cimport KvmMmu
from .prefetch_window cimport read_window
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm

cpdef u32 gpte_access(u64 gpte) except? 0xdead
cpdef bint is_rsvd_bits_set(KvmMmu mmu, u64 gpte, u32 level) except -1
cpdef bint is_last_gpte(KvmMmu mmu, u32 four_byte, u32 level, u64 gpte) except -1
cdef int kvm_mmu_refresh_passthrough_bits(Vcpu vcpu, KvmMmu mmu) except -1
cpdef bint permission_fault(Vcpu vcpu, KvmMmu mmu, u32 pte_access, u64 access) except -1
cpdef u64 get_pdptr(Vcpu vcpu, KvmMmu mmu, u64 index) except? 0xdead
cdef u64 _misaligned(Kvm kvm, u64 gpa) except? 0xdead
cdef u64 _entry(Kvm kvm, u64 hpa, u32 four_byte) except? 0xdead
cdef u32 _walk_once(Vcpu vcpu, KvmMmu mmu, GuestWalker w, u64 addr, u64 access) except? 77
cpdef u32 update_accessed_dirty_bits(Vcpu vcpu, KvmMmu mmu, GuestWalker w, u64 access) except? 77
cdef u32 _exchange_gpte(Kvm kvm, GuestWalker w, u32 level, u32 four_byte, u64 old, u64 new) except? 77
cpdef bint walk_addr(Vcpu vcpu, KvmMmu mmu, GuestWalker w, u64 addr, u64 access) except -1
cpdef u64 gva_to_gpa(Vcpu vcpu, u64 gva, u64 access) except? 1
cpdef bint gpte_changed(Vcpu vcpu, GuestWalker w, u32 level) except -1
cpdef bint read_gpte_atomic(Kvm kvm, u64 gpa, u32 four_byte, GuestWalker w) except -1
