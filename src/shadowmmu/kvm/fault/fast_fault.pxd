from ...x86.bits cimport *
from ..spte.atomic cimport cmpxchg64
from ..bits cimport *
from ..state.fault cimport PageFault
from ..pages.shadow_walk cimport shadow_walk_level, shadow_walk_root, shadow_walk_sptep
from ..guest_access.mark_dirty cimport mark_page_dirty_in_slot
from ..state.memslots cimport MemSlot
from ..spte.spte cimport is_access_allowed, is_access_track_spte, is_last_spte, restore_acc_track_spte
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm

cpdef u64 last_sptep_lockless(Vcpu vcpu, u64 addr) except? 1
cpdef bint page_fault_can_be_fast(Kvm kvm, PageFault fault) except -1
cpdef u32 fast_page_fault(Vcpu vcpu, PageFault fault) except? 77
