"""What kernel functions do, in plain English: the one place that has words for a mechanism.

The fields in braces are the function's own variables at the moment of the change; where it has none of the
name the sentence is replaced by its `short` form. A function that is not here has no words of its own: its
callers say why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

__all__ = ["SENTENCES", "Sentence", "sentence"]


@dataclass(frozen=True, slots=True)
class Sentence:
    """Words for one function."""

    short: str
    """What it does in general: the name of a cause in counts."""
    says: str = ""
    """What it does to these arguments; empty: as `short`."""


SENTENCES: Mapping[str, Sentence] = {
    # pages/account.py, unsync, sync
    "account_shadowed": Sentence(
        "a guest frame became a shadowed page table",
        "guest frame {sp.gfn:#x} became a level-{sp.at_level} table ({sp})",
    ),
    "mmu_try_to_unsync_pages": Sentence(
        "a shadowed leaf table may be written and gets out of sync",
        "guest frame {gfn:#x} may be written although it holds a leaf table: its pages get out of sync",
    ),
    "mmu_sync_children": Sentence(
        "shadow pages are synced with the guest's tables",
        "{parent}'s pages are synced with the guest's tables",
    ),
    "sync_spte": Sentence("an SPTE is made anew from the guest entry, which changed"),
    "prefetch_invalid_gpte": Sentence("the guest entry maps nothing any more, or lost Accessed"),
    "_sync_mmio_spte": Sentence("the guest entry leads to MMIO"),
    "sync_on_invlpg": Sentence("INVLPG syncs the entry of its address"),
    # map/
    "fetch": Sentence(
        "the way to a faulting address is built",
        "the way to {fault.addr:#x} is built",
    ),
    "direct_map": Sentence(
        "the way to a faulting guest-physical address is built",
        "the way to guest-physical {fault.addr:#x} is built",
    ),
    "kvm_tdp_mmu_map": Sentence(
        "the TDP MMU builds the way to a faulting address",
        "the TDP MMU builds the way to guest-physical {fault.addr:#x}",
    ),
    "pte_prefetch": Sentence("neighbours of a faulting entry are mapped ahead of an access"),
    "prefetch_around": Sentence("neighbours of a faulting entry are mapped ahead of an access"),
    "mark_mmio_spte": Sentence("no memory slot is there: accesses are emulated as MMIO"),
    "_map_mmio": Sentence("no memory slot is there: accesses are emulated as MMIO"),
    "zap_replaced_spte": Sentence("the entry gets another meaning, what it led to is dropped"),
    "_validate_direct_spte": Sentence("the guest changed the rights of a huge page: its table is replaced"),
    "fast_page_fault": Sentence("the fault is fixed without mmu_lock"),
    # pages/zap.py, unprotect.py, roots.py
    "kvm_mmu_prepare_zap_page": Sentence("a shadow page is zapped", "{sp} is zapped"),
    "_zap_unsync_children": Sentence("unsync pages below a zapped page are zapped, too"),
    "_write_sptes": Sentence("the guest wrote the entry in a shadowed table"),
    "kvm_mmu_track_write": Sentence(
        "the guest wrote to a write-protected table",
        "the guest wrote to guest-physical {gpa:#x}, in a write-protected table",
    ),
    "kvm_mmu_unprotect_gfn": Sentence(
        "a frame's shadow pages are dropped, so that it can be written",
        "the shadow pages of guest frame {gfn:#x} are dropped, so that it can be written",
    ),
    "kvm_mmu_zap_oldest_mmu_pages": Sentence("the limit of shadow pages is reached, the oldest are zapped"),
    "kvm_mmu_zap_all_fast": Sentence("all shadow pages are zapped, by generation"),
    "kvm_mmu_zap_memslot": Sentence("the mappings of a memory slot are zapped"),
    "kvm_arch_flush_shadow_memslot": Sentence("a memory slot is deleted or moved"),
    "kvm_mmu_free_obsolete_roots": Sentence("roots of an older generation are freed"),
    "kvm_mmu_free_roots": Sentence("roots that are used no more are freed"),
    "kvm_mmu_load": Sentence("a vCPU without a root gets one"),
    "kvm_mmu_new_pgd": Sentence("CR3 was written: a root for it is looked for"),
    "kvm_mmu_reset_context": Sentence("paging mode changed: the MMU begins anew"),
    "kvm_mmu_unload": Sentence("the roots are dropped"),
    # memory/
    "kvm_mmu_slot_remove_write_access": Sentence("dirty logging starts: the slot is write-protected"),
    "kvm_tdp_mmu_wrprot_slot": Sentence("dirty logging starts: the slot is write-protected"),
    "kvm_mmu_slot_leaf_clear_dirty": Sentence("dirty logging starts: Dirty bits are cleared"),
    "kvm_tdp_mmu_clear_dirty_slot": Sentence("dirty logging starts: Dirty bits are cleared"),
    "kvm_mmu_slot_enable_log": Sentence("dirty logging of a slot starts"),
    "kvm_arch_mmu_enable_log_dirty_pt_masked": Sentence(
        "the dirty log was read: its pages are protected again"
    ),
    "kvm_vm_ioctl_clear_dirty_log": Sentence("KVM_CLEAR_DIRTY_LOG"),
    "kvm_vm_ioctl_get_dirty_log": Sentence("KVM_GET_DIRTY_LOG"),
    "kvm_mmu_try_split_huge_pages": Sentence("huge pages are split ahead of writes (eager split)"),
    "kvm_tdp_mmu_try_split_huge_pages": Sentence("huge pages are split ahead of writes (eager split)"),
    "kvm_mmu_zap_collapsible_sptes": Sentence("dirty logging ends: small pages may become huge again"),
    "kvm_tdp_mmu_zap_collapsible_sptes": Sentence("dirty logging ends: small pages may become huge again"),
    "kvm_unmap_gfn_range": Sentence("the host takes pages away (MMU notifier)"),
    "kvm_tdp_mmu_unmap_gfn_range": Sentence("the host takes pages away (MMU notifier)"),
    "invalidate_range_start": Sentence("the host takes pages away (MMU notifier)"),
    "clear_flush_young": Sentence("the host asks which pages are accessed (MMU notifier)"),
    "kvm_age_rmap": Sentence("the host asks which pages are accessed"),
    "kvm_tdp_mmu_age_gfn_range": Sentence("the host asks which pages are accessed"),
    "kvm_recover_nx_huge_pages": Sentence("the NX recovery worker gives huge pages another chance"),
    "set_nx_huge_pages": Sentence("the module parameter nx_huge_pages was written"),
    "kvm_set_memory_region": Sentence("KVM_SET_USER_MEMORY_REGION"),
    # who asked
    "kvm_mmu_page_fault": Sentence("an access of the guest faulted"),
    "kvm_vcpu_pre_fault_memory": Sentence("KVM_PRE_FAULT_MEMORY"),
    "kvm_mmu_invlpg": Sentence("the guest executed INVLPG", "the guest executed INVLPG {addr:#x}"),
    "kvm_mmu_invpcid_gva": Sentence("the guest executed INVPCID"),
    "kvm_mmu_sync_roots": Sentence("the guest's TLB flush syncs its shadow pages"),
    "kvm_set_cr3": Sentence("the guest wrote CR3"),
    "kvm_set_cr0": Sentence("the guest wrote CR0"),
    "kvm_set_cr4": Sentence("the guest wrote CR4"),
    "set_sregs": Sentence("KVM_SET_SREGS"),
    "nested_svm_transition_tlb_flush": Sentence("L2 was entered or left"),
    "emulate": Sentence("an instruction of the guest was emulated"),
    "service_requests": Sentence("a vCPU serves its requests before it enters the guest"),
    "mmu_lock_dropped": Sentence("work of other CPUs while mmu_lock is dropped"),
}


class _Variables(Formatter):
    """Formats with a function's variables; asks for nothing that they do not have."""

    def __init__(self, variables: Mapping[str, Any]) -> None:
        self._variables = variables

    def get_value(self, key: int | str, args: Any, kwargs: Any) -> Any:
        return self._variables[str(key)]


def sentence(function: str, variables: Mapping[str, Any]) -> str | None:
    """Return what a function does, with its variables; None if there are no words for it."""
    words = SENTENCES.get(function)
    if words is None:
        return None
    try:
        return _Variables(variables).format(words.says or words.short)
    except (KeyError, AttributeError, TypeError, ValueError):
        return words.short
