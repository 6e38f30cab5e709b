from ...x86.bits cimport *
from ..bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs_memslot
from ..spte.huge_page cimport kvm_mmu_max_mapping_level, pages_per_hpage
from ..spte.make_spte cimport make_huge_spte
from ..state.memslots cimport MemSlot
from ..state.shadow_page cimport ShadowPage
from ..state.tdp_iter cimport TdpIter
from ..state.vm cimport Kvm
from .spte_changed cimport tdp_mmu_set_spte_atomic, tdp_mmu_zap_spte_atomic
from .walk cimport TdpWalk

cdef class CollapsibleTables(TdpWalk):
    cdef readonly MemSlot slot
    cdef bint visit(self) except -1
    cdef bint collapse(self) except -1

cdef class ZapCollapsible(CollapsibleTables):
    cdef bint collapse(self) except -1

cdef class RecoverHugePages(CollapsibleTables):
    cdef bint collapse(self) except -1
    cdef u64 first_leaf(self) except? 0xdead
    cdef void next_root(self) except *

cpdef void kvm_tdp_mmu_zap_collapsible_sptes(Kvm kvm, MemSlot slot) except *
