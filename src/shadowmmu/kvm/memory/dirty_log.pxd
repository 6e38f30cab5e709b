cimport cython
from ...x86.bits cimport *
from ..bits cimport *
from ..spte.flush cimport kvm_flush_remote_tlbs_memslot
from ..spte.huge_page cimport kvm_mmu_max_mapping_level
from ..state.memslots cimport MemSlot
from ..spte.rmap cimport RmapIterator, drop_spte, rmap_write_protect
from ..state.shadow_page cimport ShadowPage
from .split_huge_page cimport kvm_mmu_try_split_huge_pages
from ..spte.spte cimport mmu_spte_update
from ..tdp.collapse cimport kvm_tdp_mmu_zap_collapsible_sptes
from ..tdp.dirty_log cimport (kvm_tdp_mmu_clear_dirty_pt_masked, kvm_tdp_mmu_clear_dirty_slot,
                             kvm_tdp_mmu_wrprot_slot)
from ..state.vm cimport Kvm
from ..pages.write_protect cimport kvm_mmu_slot_gfn_write_protect

@cython.locals(heads=u64[::1])
cpdef bint kvm_mmu_slot_remove_write_access(Kvm kvm, MemSlot slot, u32 start_level) except -1
@cython.locals(heads=u64[::1])
cpdef void kvm_mmu_slot_leaf_clear_dirty(Kvm kvm, MemSlot slot) except *
cdef void _rmap_clear_dirty(Kvm kvm, u64 head) except *
cpdef void kvm_mmu_slot_enable_log(Kvm kvm, MemSlot slot) except *
@cython.locals(heads=u64[::1])
cpdef void kvm_mmu_zap_collapsible_sptes(Kvm kvm, MemSlot slot) except *
@cython.locals(heads=u64[::1])
cdef bint _zap_collapsible(Kvm kvm, MemSlot slot, u32 level, u64 index) except -1
cdef u32 _mapping_level(Kvm kvm, MemSlot slot, u64 gfn) except? 77
cdef void _read_lpage_info_below(Kvm kvm, MemSlot slot, u64 gfn) except *
cpdef void kvm_arch_mmu_enable_log_dirty_pt_masked(Kvm kvm, MemSlot slot, u64 first, u64 mask) except *
