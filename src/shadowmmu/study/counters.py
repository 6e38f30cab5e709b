"""The counters of a measurement, and how they are read from a machine."""

from __future__ import annotations

from collections.abc import Mapping

from ..kvm.bits import SPTE_MMU_PRESENT
from ..kvm.spte.spte import is_last_spte
from ..kvm.state.vm import Kvm
from ..trace.snapshot import shadow_pages
from .configuration import Guest

__all__ = ["COUNTERS", "TOTALS", "counters_of", "difference"]

COUNTERS: Mapping[str, str] = {
    "instructions": "Accesses and stores of the guest",
    "exits": "VM exits: page faults that KVM takes, INVLPG and MOV to CR3 without nested paging, MMIO",
    "faults": "Page faults that KVM's MMU handled (pf_taken)",
    "fixed": "Faults that made or changed an SPTE (pf_fixed)",
    "spurious": "Faults that found the SPTE right already (pf_spurious)",
    "fast": "Faults that took no lock (pf_fast)",
    "guest_exceptions": "Page faults that the guest's kernel got",
    "guest_stores": "Stores of the guest's kernel to its page tables",
    "emulations": "Instructions that KVM emulated (insn_emulation)",
    "emulated_stores": "Emulated stores to shadowed page tables (mmu_pte_write)",
    "flooded": "Shadow pages zapped because their table was written too often (mmu_flooded)",
    "invlpgs": "INVLPG of the guest",
    "cr3_writes": "MOV to CR3 of the guest",
    "local_flushes": "Flushes of a vCPU's TLB at entry (tlb_flush)",
    "remote_flushes": "Flushes requested of all vCPUs (remote_tlb_flush_requests)",
    "walks": "Walks of the processor, after TLB misses",
    "walk_loads": "Entries that the processor read in these walks, of both dimensions",
    "sptes_made": "Leaf SPTEs made, prefetched ones among them",
    "sptes_zapped": "Leaf SPTEs zapped",
    "unused": "Leaf SPTEs that the processor did not use until they were zapped, or to the end",
    "shadow_pages_made": "Shadow pages allocated (mmu_cache_miss), tables of the TDP MMU among them",
    "shadow_pages_zapped": "Shadow pages zapped (mmu_shadow_zapped)",
    "shadow_pages": "Shadow pages at the end",
    "unsync_pages": "Unsync shadow pages at the end",
    "collisions": "Most other pages passed in a hash bucket (max_mmu_page_hash_collisions)",
}
"""What each counter of a measurement means."""

TOTALS = ("shadow_pages", "unsync_pages", "collisions")
"""Counters that say what there is at the end; the others count what happened."""


def counters_of(guest: Guest) -> dict[str, int]:
    """Return the counters as they stand."""
    kvm = guest.vm.kvm
    stat = kvm.stat
    vcpus = [cpu.cpu.vcpu for cpu in guest.cpus]
    counts = [cpu.counts for cpu in guest.cpus]
    nested = kvm.parameters.tdp_enabled
    invlpgs = sum(one.invlpgs for one in counts)
    cr3_writes = sum(one.cr3_writes for one in counts)
    faults = sum(vcpu.stat.pf_taken for vcpu in vcpus)
    walkers = [walker for vcpu in vcpus for walker in (vcpu.cpu.walker, vcpu.cpu.nested)]
    return {
        "instructions": sum(one.instructions for one in counts),
        "exits": faults + (0 if nested else invlpgs + cr3_writes),
        "faults": faults,
        "fixed": sum(vcpu.stat.pf_fixed for vcpu in vcpus),
        "spurious": sum(vcpu.stat.pf_spurious for vcpu in vcpus),
        "fast": sum(vcpu.stat.pf_fast for vcpu in vcpus),
        "guest_exceptions": sum(one.page_faults for one in counts),
        "guest_stores": sum(one.stores for one in counts),
        "emulations": sum(vcpu.stat.insn_emulation for vcpu in vcpus),
        "emulated_stores": stat.mmu_pte_write,
        "flooded": stat.mmu_flooded,
        "invlpgs": invlpgs,
        "cr3_writes": cr3_writes,
        "local_flushes": sum(vcpu.stat.tlb_flush for vcpu in vcpus),
        "remote_flushes": stat.remote_tlb_flush_requests,
        "walks": sum(vcpu.cpu.walker.walks for vcpu in vcpus),
        "walk_loads": sum(walker.loads for walker in walkers) + sum(vcpu.cpu.ept.loads for vcpu in vcpus),
        "sptes_made": kvm.tally.leaves_made,
        "sptes_zapped": kvm.tally.leaves_zapped,
        "unused": kvm.tally.leaves_unused + _unused_now(kvm),
        "shadow_pages_made": stat.mmu_cache_miss,
        "shadow_pages_zapped": stat.mmu_shadow_zapped,
        "shadow_pages": kvm.n_used_mmu_pages + kvm.tdp_mmu_pages,
        "unsync_pages": stat.mmu_unsync,
        "collisions": stat.max_mmu_page_hash_collisions,
    }


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return what happened between two readings; of TOTALS, what there is at the end."""
    return {name: after[name] - (0 if name in TOTALS else before[name]) for name in COUNTERS}


def _unused_now(kvm: Kvm) -> int:
    """Return how many leaf SPTEs the processor has not used."""
    unused, young = 0, kvm.spte_young_mask
    for sp in shadow_pages(kvm)[0]:
        level = sp.level()
        for spte in kvm.read_table(sp.hpa):
            if spte & SPTE_MMU_PRESENT and is_last_spte(spte, level) and not spte & young:
                unused += 1
    return unused
