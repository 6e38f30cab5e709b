"""What KVM is doing when a tracepoint fires: its phase, who works, and whether mmu_lock is held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ENTRY", "EXIT", "FLUSH", "PHASES", "Phase", "phase_of"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of work that tracepoints in a row belong to."""

    name: str
    """What the slice of the timeline is called."""
    locked: bool = False
    """Whether its tracepoints fire with mmu_lock held, for reading or for writing (6.12.111)."""
    worker: str = ""
    """Track of work that user space or a kernel thread starts; empty: no track of its own."""


ENTRY, EXIT = Phase("guest"), Phase("exit")
FLUSH = Phase("flush")
"""Requests and flushes: no tracepoint has them, the statistics show them."""

_WALK = Phase("walk guest tables")
_FETCH = Phase("fetch", locked=True)
_TDP = Phase("TDP MMU", locked=True)
_SYNC = Phase("sync", locked=True)
_UNSYNC = Phase("unsync", locked=True)
_ZAP = Phase("zap", locked=True)
_ZAP_ALL = Phase("zap all", locked=True, worker="zap all")
_SPLIT = Phase("eager split", locked=True, worker="eager split")
_EMULATE = Phase("emulate")
_MMIO = Phase("MMIO")
_INJECT = Phase("inject")
_NESTED = Phase("nested")
_NOTIFIER = Phase("MMU notifier", worker="MMU notifiers")
_RING = Phase("dirty ring")

PHASES: Mapping[str, Phase] = {
    "kvm_entry": ENTRY,
    "kvm_exit": EXIT,
    "kvm_page_fault": Phase("page fault"),
    "kvm_pml_full": Phase("page-modification log"),
    "kvm_cr": Phase("control register"),
    "kvm_msr": Phase("MSR"),
    "kvm_inj_exception": _INJECT,
    "kvm_inj_virq": _INJECT,
    "kvm_emulate_insn": _EMULATE,
    "vcpu_match_mmio": _MMIO,
    "kvm_mmio": _MMIO,
    "kvm_nested_vmexit": _NESTED,
    "kvm_nested_vmenter": _NESTED,
    "kvm_nested_vmenter_failed": _NESTED,
    "kvm_nested_intercepts": _NESTED,
    "kvm_nested_vmexit_inject": _NESTED,
    "kvm_invlpga": Phase("INVLPGA"),
    "kvm_mmu_pagetable_walk": _WALK,
    "kvm_mmu_paging_element": _WALK,
    "kvm_mmu_set_accessed_bit": _WALK,
    "kvm_mmu_set_dirty_bit": _WALK,
    "kvm_mmu_walker_error": _WALK,
    "kvm_mmu_spte_requested": _FETCH,
    "kvm_mmu_get_page": _FETCH,
    "kvm_mmu_set_spte": _FETCH,
    "mark_mmio_spte": _FETCH,
    "kvm_mmu_sync_page": _SYNC,
    "kvm_mmu_unsync_page": _UNSYNC,
    "kvm_mmu_prepare_zap_page": _ZAP,
    "kvm_mmu_zap_all_fast": _ZAP_ALL,
    "kvm_mmu_split_huge_page": _SPLIT,
    "kvm_tdp_mmu_spte_changed": _TDP,
    "fast_page_fault": Phase("fast page fault"),
    "handle_mmio_page_fault": _MMIO,
    "check_mmio_spte": _MMIO,
    "kvm_unmap_hva_range": _NOTIFIER,
    "kvm_set_spte_hva": _NOTIFIER,
    "kvm_age_hva": _NOTIFIER,
    "kvm_test_age_hva": _NOTIFIER,
    "kvm_dirty_ring_push": _RING,
    "kvm_dirty_ring_reset": _RING,
    "kvm_dirty_ring_exit": _RING,
}
"""Tracepoint -> phase."""


def phase_of(tracepoint: str) -> Phase:
    """Return the phase of a tracepoint."""
    return PHASES[tracepoint]
