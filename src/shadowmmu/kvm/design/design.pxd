cimport cython
from ...x86.bits cimport *

@cython.final
cdef class Design:
    # The switches that are read on each fault, SPTE or page walk. All others are in __dict__.
    cdef dict __dict__
    cdef public u64 empty_spte
    cdef public u32 defect, get_page_flow, hash_function, host_word, mmio_generation_bits, mmio_invalidation
    cdef public u32 active_pages, eager_split, prefetch_window, split_flush, unsync, write_flooding
    cdef public bint child_inherits_invalid, child_lookup_compares_role, clear_spte_count
    cdef public bint early_invalidation_check, fast_page_fault, invlpg_zaps, merged_prefetch, multimapped
    cdef public bint nested_zap_spares_roots, nx_marks_only_possible_huge_pages, nx_marks_without_paging
    cdef public bint prefetch_above_level_1, prefetch_gpte_reads, prefetch_host_lookups, pte_write_prefetches
    cdef public bint ranged_flush, reinjection_unprotects_first, retry_without_zapping, rmap_grows_at_tail
    cdef public bint self_map_test_before_fetch, special_roots, stale_check_before_recycling
    cdef public bint sync_always_rebuilds, tdp_fault_splits, tdp_zap_reports_frozen
    cdef public bint flush_on_ad_cleared, prefetch_keeps_leaf, sync_sets_accessed, tdp_keeps_allowed_leaf
    cdef public bint tdp_zap_traces_after, writable_spte_is_dirty, spte_bit_10_is_xu, ept_read_is_user
    cdef public bint vcpu_mmio_cache, write_protected_is_emulate
