from ...x86.bits cimport *
from ..bits cimport *
from ..spte.spte cimport is_last_spte
from ..state.shadow_page cimport ShadowPage
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from .shadow_walk cimport shadow_walk_level, shadow_walk_root, shadow_walk_sptep

cpdef bint detect_write_flooding(ShadowPage sp, u32 limit) except -1
cpdef void shadow_page_table_clear_flood(Vcpu vcpu, u64 addr) except *
