from ...x86.bits cimport *
from ..bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs
from ..guest_access.guest_walk cimport read_gpte_atomic
from ..spte.mmio cimport vcpu_clear_mmio_info
from ..state.mmu cimport KvmMmu
from .prefetch cimport prefetch_gpte
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport is_last_spte, spte_index
from ..pages.sync cimport level1_gpte_gpa
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from ..pages.walk_start cimport first_table
from ..pages.zap cimport mmu_page_zap_pte

cpdef void zap_on_invlpg(Vcpu vcpu, KvmMmu mmu, u64 addr, u64 root_hpa) except *
cdef void _map_anew(Vcpu vcpu, ShadowPage sp, u64 sptep) except *
