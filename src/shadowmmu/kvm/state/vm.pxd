cimport cython
from ...host.memory cimport Arena
from ...x86.bits cimport *
from ..bits cimport *
from ..design.design cimport Design
from .memslots cimport MemSlot
from .shadow_page cimport PageList, ShadowPage
from .stats cimport Tally, VmStat

@cython.final
cdef class Parameters:
    cdef public bint vmx, ept_ad_bits, ept_exec_only, ignore_guest_pat, mbec
    cdef public bint tdp_enabled, tdp_mmu, eager_page_split
    cdef public u32 tdp_level
    cdef public bint nx_huge_pages, flush_on_reuse, ignore_msrs, manual_dirty_log_protect, dirty_log_initially_set
    cdef public u32 nx_huge_pages_recovery_ratio, nx_huge_pages_recovery_period_ms, max_huge_page_level
    cdef public u32 cpu_dirty_log_size, dirty_ring_size, host_maxphyaddr, max_vcpu_ids, l1tf_cache_bits
    cdef public bint mmio_caching, disable_nx_huge_pages, exit_on_emulation_error
    cdef public u64 disabled_quirks

@cython.final
cdef class Kvm:
    cdef readonly Arena arena
    cdef readonly u64[::1] words
    cdef readonly object host
    cdef readonly Parameters parameters
    cdef readonly Design design
    cdef readonly VmStat stat
    cdef readonly Tally tally
    cdef readonly list vcpus, owners, page_hash, possible_nx_huge_pages, tdp_mmu_roots, rcu_waiting
    cdef public u64 tdp_mmu_pages, rcu_readers, nx_miscounted
    cdef public bint need_resched
    cdef public object running_vcpu
    cdef public bint tracing
    cdef public object tracer, meanwhile
    cdef public list memslots
    cdef public u64 memslots_generation
    cdef public MemSlot last_used_slot
    cdef readonly PageList active_mmu_pages
    cdef public u64 n_used_mmu_pages, n_max_mmu_pages, n_requested_mmu_pages, indirect_shadow_pages
    cdef public u32 mmu_valid_gen
    cdef public u64 mmu_invalidate_seq, mmu_invalidate_in_progress, mmu_invalidate_start, mmu_invalidate_end
    cdef readonly u64 free_pte_list_desc
    cdef readonly bint ept
    cdef readonly u64 frozen_spte, buckets, hash_shift
    cdef readonly u64 shadow_user_mask, shadow_x_mask, shadow_nx_mask, shadow_accessed_mask, shadow_dirty_mask
    cdef readonly u64 shadow_acc_track_mask, shadow_host_writable_mask, shadow_mmu_writable_mask
    cdef readonly u64 shadow_mmio_value, shadow_mmio_mask, shadow_mmio_access_mask, shadow_mmio_gfn_mask
    cdef readonly u64 shadow_nonpresent_or_rsvd_mask, acc_track_saved_bits
    cdef readonly u32 acc_track_saved_shift
    cdef readonly bint ad_enabled, mbec
    cdef readonly bint enable_mmio_caching
    cdef readonly u32 mmio_gen_low_bits
    cdef readonly u64 mmio_generation_mask
    cdef readonly u64 spte_leaf_bits, spte_nonleaf_bits, spte_young_mask, spte_written_mask, spte_flush_mask, spte_writable_mask
    cdef public u64 pte_list_descs_taken
    cdef public object split_caches
    cdef public bint shadow_root_allocated
    cpdef MemSlot gfn_to_memslot(self, u64 gfn)
    cpdef MemSlot memslot_of(self, u64 gfn)
    cpdef MemSlot visible_memslot(self, u64 gfn)
    cpdef u64 mapped_page(self, u64 gfn) except? 1
    cpdef u64 hash_bucket(self, u64 gfn) noexcept
    cpdef bint is_obsolete(self, ShadowPage sp) noexcept
    cpdef ShadowPage next_sp_with_gptes(self, ShadowPage sp, u64 gfn)
    cpdef ShadowPage first_sp_with_gptes(self, u64 gfn)
    cpdef u64 read_spte(self, u64 sptep) except? 0xdead
    cpdef list read_table(self, u64 hpa)
    cpdef ShadowPage sptep_to_sp(self, u64 sptep)
    cpdef ShadowPage page_at(self, u64 hpa)
    cpdef void set_owner(self, u64 spt, ShadowPage sp) except *
    cpdef bint tdp_mmu_enabled(self) noexcept
    cpdef bint have_rmaps(self) noexcept
    cpdef bint write_tracked(self, MemSlot slot, u64 gfn) except -1
    cpdef u64 max_gfn(self) noexcept
    cpdef bint is_nx_huge_page_enabled(self) noexcept
    cpdef u32 max_level(self) noexcept
