"""The counters of a measurement."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COUNTERS", "TOTALS", "difference"]

COUNTERS: Mapping[str, str] = {
    "instructions": "Accesses and stores of the guest",
    "exits": "VM exits: page faults that KVM takes, MMIO, INVLPG and MOV to CR3 without nested paging",
    "faults": "Page faults that KVM's MMU handled (pf_taken)",
    "fixed": "Faults that made or changed an SPTE (pf_fixed)",
    "spurious": "Faults that found the SPTE right already (pf_spurious)",
    "fast": "Faults that took no lock (pf_fast)",
    "locked": "Faults that took mmu_lock, or waited for it",
    "guest_walks": "Walks of the guest's tables by KVM",
    "guest_exceptions": "Page faults that the guest's kernel got",
    "guest_stores": "Stores of the guest's kernel to its page tables",
    "emulations": "Instructions that KVM emulated (insn_emulation)",
    "mmio": "Accesses that user space completed (mmio_exits)",
    "mmio_sptes": "MMIO SPTEs made",
    "emulated_stores": "Emulated stores to shadowed page tables (mmu_pte_write)",
    "flooded": "Shadow pages zapped because their table was written too often (mmu_flooded)",
    "invlpgs": "INVLPG of the guest",
    "cr3_writes": "MOV to CR3 of the guest",
    "local_flushes": "Flushes of a vCPU's TLB at entry (tlb_flush)",
    "remote_flushes": "Flushes requested of all vCPUs (remote_tlb_flush_requests)",
    "walks": "Walks of the processor, after TLB misses",
    "walk_loads": "Entries that the processor read in these walks, of both dimensions",
    "prefetch_gptes": "Entries of the guest's tables that were read for prefetching",
    "prefetch_lookups": "Lookups of host pages for prefetching",
    "sptes_made": "Leaf SPTEs made, prefetched ones among them",
    "sptes_zapped": "Leaf SPTEs zapped",
    "unused": "Leaf SPTEs that the processor did not use until they were zapped, or to the end",
    "shadow_pages_made": "Shadow pages allocated (mmu_cache_miss), tables of the TDP MMU among them",
    "shadow_pages_zapped": "Shadow pages zapped (mmu_shadow_zapped), tables of the TDP MMU among them",
    "hash_passed": "Shadow pages of other gfns that lookups passed in hash buckets",
    "shadow_pages": "Shadow pages at the end",
    "unsync_pages": "Unsync shadow pages at the end",
    "collisions": "Most other pages passed in a hash bucket (max_mmu_page_hash_collisions)",
}
"""What each counter of a measurement means."""

TOTALS = ("shadow_pages", "unsync_pages", "collisions")
"""Counters that say what there is at the end; the others count what happened."""


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return what happened between two readings; of TOTALS, what there is at the end."""
    return {name: after[name] - (0 if name in TOTALS else before[name]) for name in COUNTERS}
