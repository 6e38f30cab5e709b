from ..x86.bits cimport ADDR, u32, u64
from .bits cimport ROLE_4BYTE_GPTE, ROLE_LEVEL, SPTE_MMU_PRESENT
from .flush cimport kvm_flush_remote_tlbs
from .guest_walk cimport read_gpte_atomic
from .mmio cimport vcpu_clear_mmio_info
from .mmu cimport KvmMmu
from .prefetch cimport prefetch_gpte
from .shadow_page cimport ShadowPage
from .spte cimport is_last_spte, spte_index
from .sync cimport level1_gpte_gpa
from .vcpu cimport Vcpu
from .vm cimport Kvm
from .walk_start cimport first_table
from .zap cimport mmu_page_zap_pte

cpdef void zap_on_invlpg(Vcpu vcpu, KvmMmu mmu, u64 addr, u64 root_hpa) except *
cdef void _map_anew(Vcpu vcpu, ShadowPage sp, u64 sptep) except *
