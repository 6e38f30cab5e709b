"""What the ops of a history add up to: outcomes, statistics, events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["SUMMARY", "count_op"]

SUMMARY = (
    ("page faults", "pf_taken"),
    ("  fixed", "pf_fixed"),
    ("  emulated", "pf_emulate"),
    ("  spurious", "pf_spurious"),
    ("  fast", "pf_fast"),
    ("  given to the guest", "pf_guest"),
    ("MMIO SPTEs made", "pf_mmio_spte_created"),
    ("instructions emulated", "insn_emulation"),
    ("INVLPG", "invlpg"),
    ("TLB flushes requested", "remote_tlb_flush_requests"),
    ("TLB flushes served", "tlb_flush"),
    ("shadow pages made", "made"),
    ("shadow pages found", "found"),
    ("shadow pages zapped", "mmu_shadow_zapped"),
    ("  for flooding", "mmu_flooded"),
    ("  to make room", "mmu_recycled"),
    ("  all at once", "kvm_mmu_zap_all_fast"),
    ("pages made unsync", "kvm_mmu_unsync_page"),
    ("pages synced", "kvm_mmu_sync_page"),
    ("guest table writes seen", "mmu_pte_write"),
    ("upper SPTEs dropped by them", "mmu_pde_zapped"),
    ("leaf SPTEs mapped by them", "mmu_pte_updated"),
    ("leaf SPTEs installed", "kvm_mmu_set_spte"),
    ("gptes read for prefetching", "prefetch_gptes"),
    ("host lookups for prefetching", "prefetch_lookups"),
    ("host mapping changes", "kvm_unmap_hva_range"),
)
"""What people read first: a label, and the name among the totals."""


def count_op(
    totals: Counter[str],
    result: Mapping[str, Any],
    stats: Mapping[str, Mapping[str, int]],
    events: Iterable[Mapping[str, Any]],
) -> None:
    """Add an op to totals: `ops`, `outcome X`, statistics and events by name, pages `made` and `found`."""
    totals["ops"] += 1
    totals[f"outcome {result['outcome']}"] += 1
    for counters in stats.values():
        totals.update(counters)
    for event in events:
        totals[event["e"]] += 1
        if "created" in event:
            totals["made" if event["created"] else "found"] += 1
