from ...x86.bits cimport *
from ..bits cimport *
from ..map.direct_map cimport direct_map
from .fast_fault cimport fast_page_fault, last_sptep_lockless
from ..state.fault cimport GuestWalker, PageFault
from ..map.fetch cimport fetch
from ..guest_access.guest_memory cimport fault_in_page
from ..guest_access.guest_walk cimport walk_addr
from ..guest_access.mark_dirty cimport kvm_release_page_dirty
from ..spte.huge_page cimport pages_per_hpage
from ..state.memslots cimport MemSlot
from ..spte.mmio cimport (check_mmio_spte, get_mmio_spte_access, get_mmio_spte_gfn, is_mmio_spte, mmio_info_in_cache,
                    vcpu_cache_mmio_info)
from ..state.mmu cimport KvmMmu
from ..tdp.map cimport kvm_tdp_mmu_map
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from ..pages.write_flooding cimport shadow_page_table_clear_flood
from ..pages.zap cimport make_mmu_pages_available

cpdef u32 handle_mmio_page_fault(Vcpu vcpu, u64 addr) except? 77
cdef bint _page_fault_handle_page_track(Kvm kvm, PageFault fault) except -1
cdef u64 _sign_extended(u64 seq) except? 0xdead
cpdef bint mmu_invalidate_retry(Kvm kvm, PageFault fault) except -1
cpdef u32 kvm_handle_noslot_fault(Vcpu vcpu, PageFault fault, u32 access) except? 0xdead
cpdef u32 kvm_faultin_pfn(Vcpu vcpu, PageFault fault, u32 access) except? 77
cpdef bint is_page_fault_stale(Vcpu vcpu, PageFault fault) except -1
cdef u32 _prepare_to_map(Vcpu vcpu, PageFault fault) except? 77
cpdef int mmu_topup_memory_caches(Vcpu vcpu, u32 maybe_indirect) except -1
cdef u32 _direct_faultin(Vcpu vcpu, PageFault fault) except? 77
cpdef u32 direct_page_fault(Vcpu vcpu, PageFault fault) except? 77
cdef bint _is_self_change_mapping(Vcpu vcpu, PageFault fault, GuestWalker w) except -1
cpdef u32 kvm_tdp_mmu_page_fault(Vcpu vcpu, PageFault fault) except? 77
cpdef u32 paging_page_fault(Vcpu vcpu, PageFault fault) except? 77
cpdef u32 kvm_mmu_do_page_fault(Vcpu vcpu, u64 addr, u64 error_code, u32 prefetch) except? 77
cdef bint _was_retried(Vcpu vcpu, u64 addr) except -1
cdef u32 _write_protect_fault(Vcpu vcpu, u64 addr, u64 error_code) except? 77
cdef u32 _emulate_without_reason(Vcpu vcpu, u64 addr, u64 error_code, u32 result) except? 77
cpdef u32 kvm_mmu_page_fault(Vcpu vcpu, u64 addr, u64 error_code) except? 77
