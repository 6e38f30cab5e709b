cimport cython
from ...x86.bits cimport u32, u64

@cython.final
cdef class Design:
    cdef public bint set_sregs_flushes, cr0_wp_resets_without_paging
    cdef public u64 empty_spte
    cdef public bint rmap_grows_at_tail
    cdef public bint sync_always_rebuilds
    cdef public bint invlpg_zaps
    cdef public bint child_lookup_compares_role, child_inherits_invalid
    cdef public bint stale_check_before_recycling, early_invalidation_check
    cdef public bint write_protected_is_emulate, reinjection_unprotects_first, retry_without_zapping
    cdef public bint self_map_test_before_fetch
    cdef public bint invisible_root_is_triple_fault
    cdef public bint translations_at_all_levels
    cdef public bint nx_marks_only_possible_huge_pages, nx_marks_without_paging
    cdef public bint nx_recovery_skips_logged_slots
    cdef public u64 valid_quirks
    cdef public bint nested_zap_spares_roots, lpage_info_below_slot
    cdef public bint remap_joins_next_first, mprotect_announces_tables, mprotect_unaccounts, reclaim_asks_age
    cdef public bint split_maps_zero_page, remap_hides_error, new_module_parameters
    cdef public bint change_pte, hugetlb_unmap_notifies_again, pre_fault_memory, event_strings, unused_role_is_invalid
    cdef public u32 tdp_zap_starts_at
    cdef public bint tdp_zap_reports_frozen, tdp_fault_splits
    cdef public u64 zero_page
    cdef public u32 get_page_flow, hash_function, hash_bits, active_pages
    cdef public u32 split_flush, eager_split, ranged_flush_start
    cdef public bint ranged_flush
    cdef public bint special_roots
    cdef public u32 prefetch_window
    cdef public bint prefetch_gpte_reads, prefetch_host_lookups, prefetch_above_level_1, merged_prefetch
    cdef public bint pte_write_prefetches
    cdef public bint multimapped, mmio_caching, vcpu_mmio_cache, fast_page_fault, clear_spte_count, unsync
    cdef public u32 write_flooding, mmio_invalidation, mmio_generation_bits, zap_all, host_word, defect
