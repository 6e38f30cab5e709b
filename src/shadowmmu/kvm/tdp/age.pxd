from ...x86.bits cimport *
from ..bits cimport *
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport mark_spte_for_access_track
from ..state.vm cimport Kvm
from ..state.tdp_iter cimport TdpIter
from .rcu cimport rcu_read_lock, rcu_read_unlock
from .spte_changed cimport kvm_tdp_mmu_write_spte, tdp_mmu_clear_spte_bits

cpdef bint kvm_tdp_mmu_age_gfn_range(Kvm kvm, u64 start, u64 end) except -1
cpdef bint kvm_tdp_mmu_test_age_gfn(Kvm kvm, u64 start, u64 end) except -1
cdef bint _look(Kvm kvm, u64 start, u64 end, u32 clear) except -1
cdef void _clear(Kvm kvm, TdpIter it) except *
