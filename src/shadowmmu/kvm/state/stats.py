"""KVM's binary statistics of the MMU, by KVM's names (virt/kvm/kvm_main.c, arch/x86/kvm/x86.c, 6.12.111)."""

VM_STATS = (
    "remote_tlb_flush",
    "remote_tlb_flush_requests",
    "mmu_shadow_zapped",
    "mmu_pte_write",
    "mmu_pde_zapped",
    "mmu_flooded",
    "mmu_recycled",
    "mmu_cache_miss",
    "mmu_unsync",
    "pages_4k",
    "pages_2m",
    "pages_1g",
    "nx_lpage_splits",
    "max_mmu_rmap_size",
    "max_mmu_page_hash_collisions",
    "mmu_pte_updated",
    "prefetch_gptes",
    "prefetch_lookups",
)
VCPU_STATS = (
    "pf_taken",
    "pf_fixed",
    "pf_emulate",
    "pf_spurious",
    "pf_fast",
    "pf_mmio_spte_created",
    "pf_guest",
    "tlb_flush",
    "invlpg",
    "mmio_exits",
    "insn_emulation",
    "insn_emulation_fail",
    "irq_injections",
    "nested_run",
    "guest_mode",
)


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

    def __init__(self) -> None:
        self.remote_tlb_flush = 0
        self.remote_tlb_flush_requests = 0
        self.mmu_shadow_zapped = 0
        self.mmu_pte_write = 0
        self.mmu_pde_zapped = 0
        self.mmu_flooded = 0
        self.mmu_recycled = 0
        self.mmu_cache_miss = 0
        self.mmu_unsync = 0
        self.pages_4k = 0
        self.pages_2m = 0
        self.pages_1g = 0
        self.nx_lpage_splits = 0
        self.max_mmu_rmap_size = 0
        self.max_mmu_page_hash_collisions = 0
        self.mmu_pte_updated = 0
        self.prefetch_gptes = 0
        self.prefetch_lookups = 0

    def as_dict(self) -> dict[str, int]:
        """Return all statistics by name, in the order of VM_STATS."""
        return {name: getattr(self, name) for name in VM_STATS}


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

    def __init__(self) -> None:
        self.pf_taken = 0
        self.pf_fixed = 0
        self.pf_emulate = 0
        self.pf_spurious = 0
        self.pf_fast = 0
        self.pf_mmio_spte_created = 0
        self.pf_guest = 0
        self.tlb_flush = 0
        self.invlpg = 0
        self.mmio_exits = 0
        self.insn_emulation = 0
        self.insn_emulation_fail = 0
        self.irq_injections = 0
        self.nested_run = 0
        self.guest_mode = 0

    def as_dict(self) -> dict[str, int]:
        """Return all statistics by name, in the order of VCPU_STATS."""
        return {name: getattr(self, name) for name in VCPU_STATS}
