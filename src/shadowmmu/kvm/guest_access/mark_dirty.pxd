from ...x86.bits cimport *
from ..bits cimport *
from .dirty_ring cimport kvm_dirty_ring_push
from ..state.memslots cimport MemSlot
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm

cpdef int mark_page_dirty_in_slot(Kvm kvm, MemSlot slot, u64 gfn) except -1
cpdef int kvm_release_page_dirty(Kvm kvm, MemSlot slot, u64 gfn) except -1
