from ...x86.bits cimport *
from ..bits cimport *
from ..state.fault cimport GuestWalker
from ..state.memslots cimport MemSlot
from .set_spte cimport mmu_set_spte
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport page_gfn, spte_index
from ..guest_access.mark_dirty cimport kvm_release_page_dirty
from ..pages.sync cimport prefetch_invalid_gpte, shadowed_access
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm

cpdef MemSlot slot_without_dirty_log(Kvm kvm, u64 gfn, u32 writable)
cpdef u64 atomic_page(Kvm kvm, MemSlot slot, u64 gfn) except? 1
cpdef bint prefetch_gpte(Vcpu vcpu, ShadowPage sp, u64 sptep, u64 gpte, u32 no_dirty_log) except -1
cpdef int pte_prefetch(Vcpu vcpu, GuestWalker w, ShadowPage sp, u64 sptep) except -1
cpdef bint direct_prefetch_run(Vcpu vcpu, ShadowPage sp, u64 start, u64 end) except -1
cpdef int direct_pte_prefetch(Vcpu vcpu, ShadowPage sp, u64 sptep) except -1
