cimport cython
from ...x86.bits cimport *

@cython.final
cdef class VmStat:
    cdef public i64 remote_tlb_flush, remote_tlb_flush_requests, mmu_shadow_zapped, mmu_pte_write
    cdef public i64 mmu_pde_zapped, mmu_flooded, mmu_recycled, mmu_cache_miss, mmu_unsync
    cdef public i64 pages_4k, pages_2m, pages_1g, nx_lpage_splits
    cdef public i64 max_mmu_rmap_size, max_mmu_page_hash_collisions
    cdef public i64 mmu_pte_updated, prefetch_gptes, prefetch_lookups

@cython.final
cdef class Tally:
    cdef public i64 leaves_made, leaves_zapped, leaves_unused, hash_passed, tdp_tables_made, tdp_tables_zapped, page_fault_exits, gpte_walks

@cython.final
cdef class VcpuStat:
    cdef public i64 pf_taken, pf_fixed, pf_emulate, pf_spurious, pf_fast, pf_mmio_spte_created, pf_guest
    cdef public i64 tlb_flush, invlpg, mmio_exits, insn_emulation, insn_emulation_fail, irq_injections
    cdef public i64 nested_run, guest_mode
