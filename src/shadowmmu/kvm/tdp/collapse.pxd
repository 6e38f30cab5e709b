from ...x86.bits cimport *
from ..bits cimport *
from ..spte.huge_page cimport kvm_mmu_max_mapping_level
from ..state.memslots cimport MemSlot
from ..state.vm cimport Kvm
from .spte_changed cimport tdp_mmu_zap_spte_atomic
from .walk cimport TdpWalk

cdef class ZapCollapsible(TdpWalk):
    cdef readonly MemSlot slot
    cdef bint visit(self) except -1

cpdef void kvm_tdp_mmu_zap_collapsible_sptes(Kvm kvm, MemSlot slot) except *
