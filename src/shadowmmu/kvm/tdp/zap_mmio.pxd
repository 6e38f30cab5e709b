from ..spte.mmio cimport is_mmio_spte
from ..state.vm cimport Kvm
from .spte_changed cimport tdp_mmu_iter_set_spte
from .walk cimport TdpWalk

cdef class ZapMmio(TdpWalk):
    cdef bint visit(self) except -1

cpdef void kvm_tdp_mmu_zap_mmio_sptes(Kvm kvm) except *
