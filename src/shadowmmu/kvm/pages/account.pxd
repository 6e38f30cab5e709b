from ...x86.bits cimport *
from ..bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs, kvm_flush_remote_tlbs_range
from ..state.memslots cimport MemSlot
from ..state.shadow_page cimport ShadowPage
from ..state.vm cimport Kvm
from .write_protect cimport kvm_mmu_slot_gfn_write_protect

cpdef void account_shadowed(Kvm kvm, ShadowPage sp) except *
cpdef void unaccount_shadowed(Kvm kvm, ShadowPage sp) except *
cdef bint _may_unsync(Kvm kvm, ShadowPage sp) except -1
cdef void _write_track(MemSlot slot, u64 gfn, i64 delta) except *
