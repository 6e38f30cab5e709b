"""The VM: what all vCPUs share (struct kvm with struct kvm_arch)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cython import uint as u32, ulonglong as u64

from ...host.address_space import AddressSpace
from ...host.memory import Arena
from ...x86.bits import MASK64, W
from ..bits import (
    FROZEN_BITS,
    GOLDEN_RATIO_64,
    INVALID_PAGE,
    MEMSLOT_INVALID,
    MMIO_GEN_HIGH_BITS,
    ROLE_DIRECT,
    ROLE_INVALID,
    ROLE_PASSTHROUGH,
    SPTE_XU,
)
from ..design.design import Design
from .memslots import MemSlot
from .shadow_page import PageList, ShadowPage
from .spte_masks import LEGACY_MASKS, SpteMasks, ept_masks, mmio_gfn_mask, mmio_value_is_reserved
from .stats import VmStat
from .tracepoints import Tracer

if TYPE_CHECKING:
    from .vcpu import Vcpu


class Parameters:
    """Module parameters and VM capabilities that the MMU looks at.

    vmx                 the processor is Intel's, not AMD's
    tdp_enabled         kvm_amd.npt, or kvm_intel.ept
    ept_ad_bits         kvm_intel.eptad: the processor keeps Accessed and Dirty in EPT
    ept_exec_only       the processor knows EPT entries that allow execution only
    ignore_guest_pat    memory is write-back whatever the guest's PAT says (KVM_X86_QUIRK_IGNORE_GUEST_PAT)
    tdp_level           levels of the nested tables: those of the host's; of EPT the most that may be used
    host_maxphyaddr     bits of a physical address on the host, 32 to 52 (kvm_host.maxphyaddr)
    mmio_caching        kvm.mmio_caching: addresses without memory get MMIO SPTEs
    disable_nx_huge_pages
                        this VM does without the mitigation (KVM_CAP_VM_DISABLE_NX_HUGE_PAGES)
    exit_on_emulation_error
                        what cannot be emulated ends KVM_RUN at any CPL (KVM_CAP_EXIT_ON_EMULATION_FAILURE)
    disabled_quirks     KVM_X86_QUIRK_* that are off (KVM_CAP_DISABLE_QUIRKS2)
    ignore_msrs         WRMSR of a register that KVM does not know is no #GP
    cpu_dirty_log_size  entries of the processor's log of dirty pages: 512 with kvm_intel.pml
    """

    def __init__(self) -> None:
        self.vmx = False
        self.ept_ad_bits = True
        self.ept_exec_only = True
        self.ignore_guest_pat = True
        self.tdp_enabled = False
        self.tdp_mmu = False
        self.tdp_level = 4
        self.host_maxphyaddr = 46
        self.mmio_caching = True
        self.disable_nx_huge_pages = False
        self.disabled_quirks = 0
        self.exit_on_emulation_error = False
        self.eager_page_split = True
        self.nx_huge_pages = False
        self.nx_huge_pages_recovery_ratio = 60
        self.nx_huge_pages_recovery_period_ms = 0
        self.flush_on_reuse = False
        self.ignore_msrs = False
        self.manual_dirty_log_protect = False
        self.dirty_log_initially_set = False
        self.max_huge_page_level = 3
        self.cpu_dirty_log_size = 0
        self.dirty_ring_size = 0


class Kvm:
    """A VM without vCPUs and memory slots yet.

    `design` says how its kernel behaves, by default as 6.12.111. `tracer` gets every tracepoint while
    `tracing` is set. `owners[n]` is the shadow page whose SPTEs are in frame n. `page_hash` holds the newest
    shadow page of each bucket. `need_resched` says that somebody waits for mmu_lock, so that long walks over
    the TDP MMU let go of it when they can; `meanwhile`, if any, is called where it is free in the middle of
    something long. `ept`: SPTEs have EPT's format; the `shadow_*` and
    `spte_*` fields say how that is (see spte_masks). `enable_mmio_caching`: addresses without memory get MMIO
    SPTEs.
    """

    def __init__(
        self, arena: Arena, host: AddressSpace, parameters: Parameters, design: Design | None = None
    ) -> None:
        self.arena = arena
        self.words = arena.words
        self.host = host
        self.parameters = parameters
        self.design = design or Design()
        unused: int = SPTE_XU if self.design.spte_bit_10_is_xu else 0
        self.frozen_spte = self.design.empty_spte | FROZEN_BITS & ~unused
        self.mmio_gen_low_bits = 7 if self.design.spte_bit_10_is_xu else 8
        bits: int = min(self.design.mmio_generation_bits, self.mmio_gen_low_bits + MMIO_GEN_HIGH_BITS)
        self.mmio_generation_mask = (1 << bits) - 1
        self.ept = parameters.vmx and parameters.tdp_enabled
        self._set_masks(self._masks())
        reserved: bool = mmio_value_is_reserved(parameters.host_maxphyaddr, ept=self.ept)
        self.enable_mmio_caching = self.design.mmio_caching and parameters.mmio_caching and reserved
        self.shadow_mmio_gfn_mask = mmio_gfn_mask(parameters.host_maxphyaddr)
        self.stat = VmStat()
        self.vcpus: list[Vcpu] = []
        self.running_vcpu: Vcpu | None = None
        self.tracing = False
        self.tracer = Tracer()
        self.memslots: list[MemSlot] = []
        self.memslots_generation = 0
        self.last_used_slot: MemSlot | None = None
        self.owners: list[ShadowPage | None] = []
        self.buckets = 1 << self.design.hash_bits
        self.hash_shift = 64 - self.design.hash_bits
        self.page_hash: list[ShadowPage | None] = [None] * self.buckets
        self.active_mmu_pages = PageList()
        self.possible_nx_huge_pages: list[ShadowPage] = []
        self.shadow_root_allocated = False
        self.tdp_mmu_roots: list[ShadowPage] = []
        self.tdp_mmu_pages = 0
        self.rcu_readers = 0
        self.rcu_waiting: list[ShadowPage] = []
        self.need_resched = False
        self.meanwhile: Callable[[], None] | None = None
        self.n_used_mmu_pages = 0
        self.n_max_mmu_pages = 0
        self.n_requested_mmu_pages = 0
        self.indirect_shadow_pages = 0
        self.mmu_valid_gen = 0
        self.mmu_invalidate_seq = 0
        self.mmu_invalidate_in_progress = 0
        self.mmu_invalidate_start = 0
        self.mmu_invalidate_end = 0
        self.free_pte_list_desc = 0
        self.pte_list_descs_taken = 0
        self.split_caches: Any = None

    def _masks(self) -> SpteMasks:
        parameters: Parameters = self.parameters
        if not self.ept:
            return LEGACY_MASKS
        return ept_masks(
            has_ad_bits=parameters.ept_ad_bits,
            has_exec_only=parameters.ept_exec_only,
            suppress_ve=self.design.empty_spte,
            ignore_pat=parameters.ignore_guest_pat,
        )

    def _set_masks(self, masks: SpteMasks) -> None:
        """Keep the format of SPTEs where the MMU finds it fast."""
        self.shadow_user_mask = masks.user
        self.shadow_x_mask = masks.x
        self.shadow_nx_mask = masks.nx
        self.shadow_accessed_mask = masks.accessed
        self.shadow_dirty_mask = masks.dirty
        self.shadow_acc_track_mask = masks.acc_track
        self.shadow_host_writable_mask = masks.host_writable
        self.shadow_mmu_writable_mask = masks.mmu_writable
        self.shadow_mmio_value = masks.mmio_value
        self.shadow_mmio_mask = masks.mmio
        self.shadow_mmio_access_mask = masks.mmio_access
        self.spte_leaf_bits = masks.leaf_bits
        self.spte_nonleaf_bits = masks.nonleaf_bits
        self.spte_young_mask = masks.young
        self.spte_written_mask = masks.written
        self.spte_flush_mask = masks.flush if self.design.flush_on_ad_cleared else 0
        self.spte_writable_mask = W if self.design.flush_on_ad_cleared else masks.mmu_writable

    def attach(self, tracer: Tracer) -> None:
        """Let a tracer have every event while `tracing` is set; the one before hears no more."""
        self.tracer = tracer
        tracer.attached(self.design)

    def vm_stats(self) -> dict[str, int]:
        """Return the statistics of the VM by name, as its kernel has them."""
        stats = self.stat.as_dict()
        if self.design.stat_mmu_shadow_pages:
            stats["mmu_shadow_pages"] = self.n_used_mmu_pages
        return stats

    def gfn_to_memslot(self, gfn: u64) -> MemSlot | None:
        """The slot that holds gfn, also if it is flagged INVALID."""
        slot: MemSlot | None = self.last_used_slot
        if slot is not None and slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
            return slot
        for slot in self.memslots:
            if slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
                self.last_used_slot = slot
                return slot
        return None

    def memslot_of(self, gfn: u64) -> MemSlot:
        """The slot of a frame that is mapped or shadowed. Raises LookupError: the structures are corrupt."""
        slot: MemSlot | None = self.gfn_to_memslot(gfn)
        if slot is None:
            raise LookupError(f"no memory slot holds gfn {gfn:#x}")
        return slot

    def visible_memslot(self, gfn: u64) -> MemSlot | None:
        """The slot that holds gfn if page walks may use it (kvm_is_visible_memslot)."""
        slot: MemSlot | None = self.gfn_to_memslot(gfn)
        return None if slot is None or slot.flags & MEMSLOT_INVALID else slot

    def mapped_page(self, gfn: u64) -> u64:
        """hpa of a page of the last used slot that is mapped as its memory was made; else INVALID_PAGE.

        The short cut of guest_memory's functions: most pages are, and most walks stay in one slot.
        """
        slot: MemSlot | None = self.last_used_slot
        if slot is None or gfn < slot.base_gfn or gfn >= slot.base_gfn + slot.npages:
            return INVALID_PAGE
        if slot.flags & MEMSLOT_INVALID:
            return INVALID_PAGE
        return slot.mapping.untouched_page(gfn - slot.base_gfn + slot.first_page)

    def hash_bucket(self, gfn: u64) -> u64:
        """kvm_page_table_hashfn: the top bits of the 64-bit golden-ratio hash."""
        if self.design.hash_function:
            return gfn & (self.buckets - 1)
        return ((gfn * GOLDEN_RATIO_64) & MASK64) >> self.hash_shift

    def is_obsolete(self, sp: ShadowPage) -> bool:
        """is_obsolete_sp: zapped, or of the generation before the last zap-all. Roots of the TDP MMU are just
        marked invalid.
        """
        if sp.role & ROLE_INVALID:
            return True
        return not sp.tdp_mmu_page and sp.mmu_valid_gen != self.mmu_valid_gen

    def next_sp_with_gptes(self, sp: ShadowPage | None, gfn: u64) -> ShadowPage | None:
        """From `sp` on along its bucket: the first valid page that shadows the guest table at gfn."""
        while sp is not None:
            if (
                sp.gfn == gfn
                and sp.role & (ROLE_INVALID | ROLE_DIRECT | ROLE_PASSTHROUGH) == 0
                and sp.mmu_valid_gen == self.mmu_valid_gen
            ):
                return sp
            sp = sp.hash_next
        return None

    def first_sp_with_gptes(self, gfn: u64) -> ShadowPage | None:
        """The newest valid page that shadows the guest table at gfn (for_each_gfn_valid_sp_with_gptes)."""
        return self.next_sp_with_gptes(self.page_hash[self.hash_bucket(gfn)], gfn)

    def hashed_pages(self, gfn: u64) -> list[ShadowPage]:
        """All pages in the bucket of gfn, also of other gfns, newest first."""
        found = []
        sp: ShadowPage | None = self.page_hash[self.hash_bucket(gfn)]
        while sp is not None:
            found.append(sp)
            sp = sp.hash_next
        return found

    def read_spte(self, sptep: u64) -> u64:
        return self.words[sptep >> 3]

    def read_table(self, hpa: u64) -> list[int]:
        """The 512 words of the frame at hpa."""
        words = []
        i: u64
        for i in range(512):
            words.append(self.words[(hpa >> 3) + i])
        return words

    def sptep_to_sp(self, sptep: u64) -> ShadowPage:
        """The shadow page that holds the SPTE at address sptep (also: the child at an SPTE's address).

        Raises LookupError if no shadow page is there: the structures are corrupt.
        """
        sp: ShadowPage | None = self.owners[sptep >> 12]
        if sp is None:
            raise LookupError(f"no shadow page at {sptep:#x}")
        return sp

    def page_at(self, hpa: u64) -> ShadowPage | None:
        """The shadow page whose SPTEs are in the frame at hpa, if it is one's."""
        return self.owners[hpa >> 12] if hpa >> 12 < len(self.owners) else None

    def set_owner(self, spt: u64, sp: ShadowPage | None) -> None:
        frame: u64 = spt >> 12
        while len(self.owners) <= frame:
            self.owners.append(None)
        self.owners[frame] = sp

    def tdp_mmu_enabled(self) -> bool:
        """Whether guest-physical memory is mapped by the TDP MMU."""
        return self.parameters.tdp_enabled and self.parameters.tdp_mmu

    def have_rmaps(self) -> bool:
        """Whether shadow pages may map memory (kvm_memslots_have_rmaps)."""
        return self.shadow_root_allocated or not self.tdp_mmu_enabled()

    def write_tracked(self, slot: MemSlot, gfn: u64) -> bool:
        """kvm_gfn_is_write_tracked: an upper-level table at gfn is shadowed."""
        return slot.write_track[gfn - slot.base_gfn] != 0

    def max_gfn(self) -> u64:
        """Return the last frame that guest memory may have (kvm_mmu_max_gfn).

        With nested paging guest-physical addresses end where the host's physical ones do.
        """
        one: u64 = 1
        bits: u32 = 52
        if self.parameters.tdp_enabled:
            bits = self.parameters.host_maxphyaddr
        return (one << (bits - 12)) - 1

    def is_nx_huge_page_enabled(self) -> bool:
        """Whether executable pages of this VM may not be huge."""
        return self.parameters.nx_huge_pages and not self.parameters.disable_nx_huge_pages

    def max_level(self) -> u32:
        return self.parameters.max_huge_page_level
