from ...x86.bits cimport *
from ..bits cimport *
from ..state.fault cimport GuestWalker
from ..guest_access.guest_walk cimport is_last_gpte, is_rsvd_bits_set, read_gpte_atomic
from ..spte.huge_page cimport kvm_mmu_max_mapping_level, pages_per_hpage
from ..state.memslots cimport MemSlot
from .prefetch cimport atomic_page, direct_prefetch_run, prefetch_gpte, slot_without_dirty_log
from ..guest_access.prefetch_window cimport window_end, window_first
from .set_spte cimport mmu_set_spte
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport page_gfn, spte_index
from ..pages.sync cimport level1_gpte_gpa, shadowed_access
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm

cpdef void prefetch_around(Vcpu vcpu, GuestWalker w, ShadowPage sp, u64 sptep) except *
cdef bint _is_prefetched(Kvm kvm, u32 level) except -1
cdef bint _read_gpte(Kvm kvm, GuestWalker w, u64 gpa, u32 four_byte) except -1
cdef u64 _upper_gpte_gpa(ShadowPage sp, u32 index) except? 0xdead
cdef bint _prefetch_large_gpte(Vcpu vcpu, GuestWalker w, ShadowPage sp, u64 sptep) except -1
cdef bint _prefetch_huge_page(Vcpu vcpu, ShadowPage sp, u64 sptep, u64 gfn, u32 access) except -1
cdef bint _prefetch_page(Vcpu vcpu, MemSlot slot, ShadowPage sp, u64 sptep, u32 access, u64 gfn) except -1
cpdef void direct_prefetch_around(Vcpu vcpu, ShadowPage sp, u64 sptep) except *
cdef bint _prefetch_run(Vcpu vcpu, ShadowPage sp, u64 start, u64 end) except -1
cdef bint _prefetch_direct_page(Vcpu vcpu, ShadowPage sp, u64 sptep) except -1
