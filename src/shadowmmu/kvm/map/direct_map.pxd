from ...x86.bits cimport *
from ..bits cimport *
from ..state.fault cimport PageFault
from ..spte.huge_page cimport trace_spte_requested
from ..pages.shadow_walk cimport shadow_walk_level, shadow_walk_root, shadow_walk_sptep
from ..spte.huge_page cimport (disallowed_hugepage_adjust, gfn_round_for_level,
                         kvm_mmu_hugepage_adjust)
from ..spte.nx_huge_page cimport account_nx_huge_page
from ..pages.get_page cimport is_linked, kvm_mmu_get_child_sp, link_shadow_page
from .prefetch cimport direct_pte_prefetch
from .prefetch_designs cimport direct_prefetch_around
from .set_spte cimport mmu_set_spte
from ..state.shadow_page cimport ShadowPage
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm

cpdef u32 direct_map(Vcpu vcpu, PageFault fault) except? 77
