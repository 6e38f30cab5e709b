from ...x86.bits cimport *
from ..bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs_range
from ..spte.huge_page cimport pages_per_hpage
from ..spte.rmap cimport drop_spte
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport is_last_spte, page_gfn, spte_index
from ..state.vm cimport Kvm
from .zap cimport kvm_mmu_remote_flush_or_zap, mmu_page_zap_pte

cpdef bint split_needs_flush(Kvm kvm, u32 leads_on) except -1
cpdef void zap_replaced_spte(Kvm kvm, u64 sptep, u32 flush) except *
