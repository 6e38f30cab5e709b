"""Reading the counters of a measurement from a machine."""

from __future__ import annotations

from ..kvm.bits import SPTE_MMU_PRESENT
from ..kvm.state.vm import Kvm
from ..trace.snapshot import shadow_pages
from ..x86.bits import PS
from .configuration import Guest

__all__ = ["counters_of"]


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
    fast = sum(vcpu.stat.pf_fast for vcpu in vcpus)
    walkers = [walker for vcpu in vcpus for walker in (vcpu.cpu.walker, vcpu.cpu.nested)]
    return {
        "instructions": sum(one.instructions for one in counts),
        "exits": kvm.tally.page_fault_exits + (0 if nested else invlpgs + cr3_writes),
        "faults": faults,
        "fixed": sum(vcpu.stat.pf_fixed for vcpu in vcpus),
        "spurious": sum(vcpu.stat.pf_spurious for vcpu in vcpus),
        "fast": fast,
        "locked": faults - fast,
        "guest_walks": kvm.tally.gpte_walks,
        "guest_exceptions": sum(one.page_faults for one in counts),
        "guest_stores": sum(one.stores for one in counts),
        "emulations": sum(vcpu.stat.insn_emulation for vcpu in vcpus),
        "mmio": sum(vcpu.stat.mmio_exits for vcpu in vcpus),
        "mmio_sptes": sum(vcpu.stat.pf_mmio_spte_created for vcpu in vcpus),
        "emulated_stores": stat.mmu_pte_write,
        "flooded": stat.mmu_flooded,
        "invlpgs": invlpgs,
        "cr3_writes": cr3_writes,
        "local_flushes": sum(vcpu.stat.tlb_flush for vcpu in vcpus),
        "remote_flushes": stat.remote_tlb_flush_requests,
        "walks": sum(vcpu.cpu.walker.walks for vcpu in vcpus),
        "walk_loads": sum(walker.loads for walker in walkers) + sum(vcpu.cpu.ept.loads for vcpu in vcpus),
        "prefetch_gptes": stat.prefetch_gptes,
        "prefetch_lookups": stat.prefetch_lookups,
        "sptes_made": kvm.tally.leaves_made,
        "sptes_zapped": kvm.tally.leaves_zapped,
        "unused": kvm.tally.leaves_unused + _unused_now(kvm),
        "shadow_pages_made": stat.mmu_cache_miss + kvm.tally.tdp_tables_made,
        "shadow_pages_zapped": stat.mmu_shadow_zapped + kvm.tally.tdp_tables_zapped,
        "hash_passed": kvm.tally.hash_passed,
        "shadow_pages": kvm.n_used_mmu_pages + kvm.tdp_mmu_pages,
        "unsync_pages": stat.mmu_unsync,
        "collisions": stat.max_mmu_page_hash_collisions,
    }


def _unused_now(kvm: Kvm) -> int:
    """Return how many leaf SPTEs the processor has not used."""
    unused = 0
    for sp in shadow_pages(kvm)[0]:
        leaf = SPTE_MMU_PRESENT if sp.level() == 1 else SPTE_MMU_PRESENT | PS
        mask = leaf | kvm.spte_young_mask
        unused += sum(spte & mask == leaf for spte in kvm.read_table(sp.hpa))
    return unused
