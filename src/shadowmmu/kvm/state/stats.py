"""KVM's binary statistics of the MMU, by KVM's names (virt/kvm/kvm_main.c, arch/x86/kvm/x86.c, 6.12.111)."""

from dataclasses import dataclass, fields


@dataclass(eq=False)
class VmStat:
    """Statistics of a VM (struct kvm_vm_stat). Counters only grow; mmu_unsync, pages_* and nx_lpage_splits
    are numbers of what there is now, and max_* are maxima.

    Attributes:
        remote_tlb_flush: Flushes of all vCPUs that had to interrupt one; 0 here, no vCPU is inside the guest
            while the MMU works.
        remote_tlb_flush_requests: Flushes requested of all vCPUs.
        mmu_shadow_zapped: Shadow pages zapped.
        mmu_pte_write: Emulated writes to shadowed guest tables.
        mmu_pde_zapped: SPTEs above level 1 zapped by emulated writes of gptes that are not 0.
        mmu_flooded: Shadow pages zapped by an emulated write: by write flooding, or a misaligned one.
        mmu_recycled: Shadow pages zapped to make room for others.
        mmu_cache_miss: Shadow pages allocated.
        mmu_unsync: Shadow pages that are unsync now.
        pages_4k: Leaf SPTEs of 4 KiB pages now.
        pages_2m: Leaf SPTEs of 2 MiB pages now.
        pages_1g: Leaf SPTEs of 1 GiB pages now.
        nx_lpage_splits: Shadow pages now without which an executable page could be huge.
        max_mmu_rmap_size: Largest number of SPTEs found for one frame when one was added.
        max_mmu_page_hash_collisions: Largest number of other pages passed in a hash bucket during a lookup.
        mmu_pte_updated: SPTEs made at once by an emulated write to a guest table. Not counted by 6.12.
        prefetch_gptes: Gptes read for prefetching. Not counted with the merged prefetch; no kernel has it.
        prefetch_lookups: Host pages, or runs of them, looked up for prefetching. No kernel has it.
    """

    remote_tlb_flush: int = 0
    remote_tlb_flush_requests: int = 0
    mmu_shadow_zapped: int = 0
    mmu_pte_write: int = 0
    mmu_pde_zapped: int = 0
    mmu_flooded: int = 0
    mmu_recycled: int = 0
    mmu_cache_miss: int = 0
    mmu_unsync: int = 0
    pages_4k: int = 0
    pages_2m: int = 0
    pages_1g: int = 0
    nx_lpage_splits: int = 0
    max_mmu_rmap_size: int = 0
    max_mmu_page_hash_collisions: int = 0
    mmu_pte_updated: int = 0
    prefetch_gptes: int = 0
    prefetch_lookups: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return all statistics by name, in the order of VM_STATS."""
        return {name: getattr(self, name) for name in VM_STATS}


@dataclass(eq=False)
class VcpuStat:
    """Statistics of a vCPU (struct kvm_vcpu_stat). All count events but guest_mode.

    Attributes:
        pf_taken: Page faults that KVM's MMU handled.
        pf_fixed: Faults that ended with a new or changed SPTE.
        pf_emulate: Faults that ended with the emulation of an instruction.
        pf_spurious: Faults that found the SPTE right already.
        pf_fast: Faults that ended without mmu_lock (fast_page_fault), fixed or spurious.
        pf_mmio_spte_created: MMIO SPTEs made by faults.
        pf_guest: Page faults injected into the guest.
        tlb_flush: Flushes of this vCPU's TLB.
        invlpg: INVLPG instructions emulated.
        mmio_exits: Accesses that user space completed.
        insn_emulation: Instructions emulated.
        insn_emulation_fail: Instructions that could not be emulated.
        irq_injections: Interrupts injected.
        nested_run: Successful entries of L2.
        guest_mode: 1 while L2 runs, else 0.
    """

    pf_taken: int = 0
    pf_fixed: int = 0
    pf_emulate: int = 0
    pf_spurious: int = 0
    pf_fast: int = 0
    pf_mmio_spte_created: int = 0
    pf_guest: int = 0
    tlb_flush: int = 0
    invlpg: int = 0
    mmio_exits: int = 0
    insn_emulation: int = 0
    insn_emulation_fail: int = 0
    irq_injections: int = 0
    nested_run: int = 0
    guest_mode: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return all statistics by name, in the order of VCPU_STATS."""
        return {name: getattr(self, name) for name in VCPU_STATS}


@dataclass(eq=False)
class Tally:
    """What studies of the MMU count and no kernel does.

    Attributes:
        leaves_made: Leaf SPTEs made.
        leaves_zapped: Leaf SPTEs emptied or replaced by a table.
        leaves_unused: Of these, those that nobody had used: Accessed was clear, or they were access-tracked.
        hash_passed: Valid pages of other gfns that lookups passed in hash buckets, all in all.
        tdp_tables_made: Tables below roots of the TDP MMU that were linked.
        tdp_tables_zapped: Of these, those that were unlinked.
        page_fault_exits: Exits for page faults, for known MMIO and for full logs of dirty pages.
        gpte_walks: Walks of guest tables by KVM.
    """

    leaves_made: int = 0
    leaves_zapped: int = 0
    leaves_unused: int = 0
    hash_passed: int = 0
    tdp_tables_made: int = 0
    tdp_tables_zapped: int = 0
    page_fault_exits: int = 0
    gpte_walks: int = 0


VM_STATS = tuple(field.name for field in fields(VmStat))
VCPU_STATS = tuple(field.name for field in fields(VcpuStat))
