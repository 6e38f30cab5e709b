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
    """Statistics of a VM; the gauges mmu_unsync, pages_* and nx_lpage_splits go up and down.

    Today's kernels do not count the last three: gptes mapped when they were written (3.12), and, as long as
    prefetching is not the merged one, gptes read and host pages (or runs of them) looked up for it.
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
        return {name: getattr(self, name) for name in VM_STATS}


class VcpuStat:
    """Statistics of a vCPU."""

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
        return {name: getattr(self, name) for name in VCPU_STATS}
