from ...x86.bits cimport *
from ..bits cimport *
from ..state.fault cimport LeafSpte
from ..guest_access.mark_dirty cimport mark_page_dirty_in_slot
from ..state.memslots cimport MemSlot
from ..state.shadow_page cimport ShadowPage
from .spte cimport is_access_track_spte, is_last_spte, mark_spte_for_access_track, restore_acc_track_spte
from .unsync cimport mmu_try_to_unsync_pages
from ..state.vm cimport Kvm

cpdef int make_spte(Kvm kvm, LeafSpte leaf, ShadowPage sp, MemSlot slot, u32 access, u64 gfn, u64 pfn, u64 old,
                     u32 flags) except -1
cpdef u64 make_huge_page_split_spte(Kvm kvm, u64 huge, u32 role, u64 index) except? 0xdead
cpdef u64 make_huge_spte(Kvm kvm, u64 small, u32 level) except? 0xdead
cdef u64 _with_execute(Kvm kvm, u64 spte, u32 execute) except? 0xdead
