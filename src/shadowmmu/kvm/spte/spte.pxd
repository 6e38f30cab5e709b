from ...x86.bits cimport *
from ..bits cimport *
from .atomic cimport write_in_halves
from ..state.fault cimport PageFault
from ..state.shadow_page cimport ShadowPage
from ..state.vm cimport Kvm

cpdef bint is_shadow_present(u64 spte) except -1
cpdef bint is_last_spte(u64 spte, u32 level) except -1
cpdef u32 spte_index(u64 sptep) except? 0xdead
cpdef u64 make_nonleaf_spte(Kvm kvm, ShadowPage child) except? 0xdead
cpdef bint is_pae_root(ShadowPage sp) except -1
cpdef u64 make_pae_pdpte(ShadowPage child) except? 0xdead
cpdef u64 page_gfn(Kvm kvm, ShadowPage sp, u32 index) except? 0xdead
cpdef u32 page_access(Kvm kvm, ShadowPage sp, u32 index) except? 77
cpdef int set_page_translation(Kvm kvm, ShadowPage sp, u32 index, u64 gfn, u32 access) except -1
cpdef u64 mmu_spte_set(Kvm kvm, u64 sptep, u64 new) except? 0xdead
cpdef bint mmu_spte_update(Kvm kvm, u64 sptep, u64 new) except -1
cpdef void mmu_spte_clear_no_track(Kvm kvm, u64 sptep) except *
# Nothing in it can raise, and a void function with exceptions is asked for them after each call.
cpdef void count_pages(Kvm kvm, u32 level, i64 delta) noexcept
cpdef bint mmu_spte_clear_track_bits(Kvm kvm, u64 sptep) except -1
cpdef u64 spte_to_pfn(u64 spte) except? 0xdead
cpdef u64 changed_pte_spte(Kvm kvm, u64 spte, u64 pfn) except? 0xdead
cpdef bint is_executable(Kvm kvm, u64 spte) except -1
cpdef bint is_access_allowed(Kvm kvm, PageFault fault, u64 spte) except -1
cpdef bint is_access_track_spte(Kvm kvm, u64 spte) except -1
cpdef u64 mark_spte_for_access_track(Kvm kvm, u64 spte) except? 0xdead
cpdef u64 restore_acc_track_spte(Kvm kvm, u64 spte) except? 0xdead
cpdef u64 saved_rights(Kvm kvm, u64 spte) except? 0xdead
