from ...x86.bits cimport *
from ..bits cimport *
from ..state.fault cimport LeafSpte, PageFault
from ..spte.huge_page cimport trace_spte_requested
from ..spte.flush cimport kvm_flush_remote_tlbs
from ..spte.huge_page cimport disallowed_hugepage_adjust, kvm_mmu_hugepage_adjust
from ..spte.make_spte cimport make_spte
from ..state.memslots cimport MemSlot
from ..spte.mmio cimport get_mmio_spte_generation, make_mmio_spte
from ..spte.spte cimport is_access_allowed, is_last_spte
from ..spte.nx_huge_page cimport track_possible_nx_huge_page
from ..state.shadow_page cimport ShadowPage
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from ..state.tdp_iter cimport TdpIter
from .rcu cimport rcu_read_lock, rcu_read_unlock, tdp_mmu_free_sp
from .roots cimport tdp_mmu_alloc_sp
from .split cimport tdp_mmu_link_sp, tdp_mmu_split_huge_page
from .spte_changed cimport tdp_mmu_set_spte_atomic, tdp_mmu_zap_spte_atomic

cpdef u32 kvm_tdp_mmu_map(Vcpu vcpu, PageFault fault) except? 77
cdef bint _add_table(Vcpu vcpu, PageFault fault, TdpIter it) except -1
cdef u32 _map_target_level(Vcpu vcpu, PageFault fault, TdpIter it) except? 77
cdef bint _leaf_is_right(Kvm kvm, PageFault fault, TdpIter it) except -1
cdef u32 _map_mmio(Vcpu vcpu, TdpIter it) except? 77
