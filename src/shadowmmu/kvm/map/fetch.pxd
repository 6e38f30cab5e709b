from ...x86.bits cimport *
from ..bits cimport *
from ..state.fault cimport GuestWalker, PageFault
from ..spte.flush cimport kvm_flush_remote_tlbs
from ..guest_access.guest_walk cimport gpte_changed
from ..spte.huge_page cimport (disallowed_hugepage_adjust, gfn_round_for_level,
                         kvm_mmu_hugepage_adjust, trace_spte_requested)
from ..state.mmu cimport KvmMmu
from ..spte.nx_huge_page cimport account_nx_huge_page
from ..pages.get_page cimport is_linked, kvm_mmu_get_child_sp, link_shadow_page
from .prefetch cimport pte_prefetch
from .prefetch_designs cimport prefetch_around
from .set_spte cimport mmu_set_spte
from ..state.shadow_page cimport ShadowPage
from ..pages.shadow_walk cimport shadow_walk_level, shadow_walk_root, shadow_walk_sptep
from ..pages.special_root cimport pdpte_changed
from ..pages.sync cimport mmu_sync_children
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from ..pages.zap cimport drop_parent_pte

cdef void _validate_direct_spte(Kvm kvm, u64 sptep, u32 direct_access) except *
cdef u32 _defective_rights(u32 defect, GuestWalker w) except? 77
cpdef u32 fetch(Vcpu vcpu, PageFault fault, GuestWalker w) except? 77
