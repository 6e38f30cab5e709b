"""The VM: what all vCPUs share (struct kvm with struct kvm_arch)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cython import uint as u32, ulonglong as u64

from ...host.address_space import AddressSpace
from ...host.memory import Arena
from ...x86.bits import MASK64, W
from ..bits import (
    GOLDEN_RATIO_64,
    INVALID_PAGE,
    MEMSLOT_INVALID,
    MMIO_GEN_HIGH_BITS,
    ROLE_DIRECT,
    ROLE_INVALID,
    ROLE_PASSTHROUGH,
)
from ..design.design import Design
from ..tracepoints.tracer import Tracer
from .memslots import MemSlot
from .shadow_page import PageList, ShadowPage
from .spte_masks import (
    LEGACY_MASKS,
    SpteMasks,
    ept_masks,
    frozen_bits,
    mmio_frame,
    mmio_gen_low_bits,
    mmio_value_is_reserved,
)
from .stats import Tally, VmStat

if TYPE_CHECKING:
    from .vcpu import Vcpu


class Parameters:
    """Module parameters and VM capabilities that the MMU reads. They are set before the first vCPU exists,
    except where a field says that it may change later.

    Attributes:
        vmx: The processor is Intel's with VMX, not AMD's with SVM.
        ept_ad_bits: The processor sets Accessed and Dirty in EPT entries (kvm_intel.eptad).
        mbec: With EPT the right to execute is one of user addresses and one of others, in kernels that know
            it (kvm_intel.mbec, since 7.3).
        ept_exec_only: The processor knows EPT entries that allow execution only.
        ignore_guest_pat: Memory is write-back whatever the guest's PAT says (KVM_X86_QUIRK_IGNORE_GUEST_PAT).
        tdp_enabled: Two-dimensional paging is used (kvm_amd.npt or kvm_intel.ept; the kernel's tdp_enabled).
        tdp_mmu: The TDP MMU maps guest-physical memory if tdp_enabled (kvm.tdp_mmu).
        tdp_level: Levels of the nested tables, 4 or 5: with NPT those of the host's own tables, with EPT the
            maximum (the kernel's max_tdp_level).
        host_maxphyaddr: Bits of a physical address on the host, 32 to 52 (kvm_host.maxphyaddr).
        l1tf_cache_bits: Bits of a physical address that the processor's L1 cache uses if it is vulnerable to
            L1TF, host_maxphyaddr to 46 (boot_cpu_data.x86_cache_bits); 0: it is not vulnerable.
        mmio_caching: Addresses that no memslot backs get MMIO SPTEs (kvm.mmio_caching).
        disable_nx_huge_pages: The NX huge page mitigation is off for this VM
            (KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, kvm_arch.disable_nx_huge_pages).
        disabled_quirks: Bit mask of the KVM_X86_QUIRK_* that are off (KVM_CAP_DISABLE_QUIRKS2,
            kvm_arch.disabled_quirks).
        exit_on_emulation_error: A failed emulation ends KVM_RUN at any CPL
            (KVM_CAP_EXIT_ON_EMULATION_FAILURE, kvm_arch.exit_on_emulation_error).
        eager_page_split: Huge pages are split when dirty logging starts or clears (kvm.eager_page_split).
        nx_huge_pages: Huge pages are never executable, against the iTLB multihit erratum (kvm.nx_huge_pages).
            It may change while the VM runs.
        nx_huge_pages_recovery_ratio: The recovery worker zaps 1/ratio of the small pages that the mitigation
            caused in each period; 0 switches it off.
        nx_huge_pages_recovery_period_ms: Milliseconds between two runs of the recovery worker; 0 lets KVM
            derive it from the ratio.
        flush_on_reuse: The TLB is flushed when a previous root becomes the current one again
            (kvm.flush_on_reuse, the kernel's force_flush_and_sync_on_reuse).
        ignore_msrs: RDMSR and WRMSR of an MSR that KVM does not know raise no #GP (kvm.ignore_msrs).
        manual_dirty_log_protect: KVM_GET_DIRTY_LOG leaves the pages writable, KVM_CLEAR_DIRTY_LOG protects
            them (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 with KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE). It may change
            at any time.
        dirty_log_initially_set: The bitmap of a slot that starts to log is all ones
            (KVM_DIRTY_LOG_INITIALLY_SET); only with manual_dirty_log_protect.
        max_huge_page_level: Level of the largest page that KVM maps, 1 to 3 (the kernel's
            max_huge_page_level).
        cpu_dirty_log_size: Entries of the processor's log of dirty pages: 512 with kvm_intel.pml, else 0
            (kvm_x86_ops.cpu_dirty_log_size).
        dirty_ring_size: Bytes of each vCPU's dirty ring, 16 an entry; 0 while slots have bitmaps instead
            (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, kvm.dirty_ring_size).
        max_vcpu_ids: Numbers of vCPUs are below this; 0: nobody has said yet (KVM_CAP_MAX_VCPU_ID,
            kvm_arch.max_vcpu_ids).
    """

    def __init__(self) -> None:
        self.vmx = False
        self.ept_ad_bits = True
        self.mbec = True
        self.ept_exec_only = True
        self.ignore_guest_pat = True
        self.tdp_enabled = False
        self.tdp_mmu = False
        self.tdp_level = 4
        self.host_maxphyaddr = 46
        self.l1tf_cache_bits = 0
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
        self.max_vcpu_ids = 0


class Kvm:
    """A VM: struct kvm with struct kvm_arch, 6.12.111. It starts without vCPUs and memory slots.

    Addresses and frame numbers are u64. "Index of an SPTE" in `words` is its physical address >> 3.

    Attributes:
        arena: The machine's physical memory, guest memory excepted that was never touched.
        words: The arena as u64 words: the word at physical address hpa is words[hpa >> 3].
        host: The hypervisor's address space, whose mappings back the slots (struct mm_struct, kvm.mm).
        parameters: Module parameters and capabilities.
        design: How this kernel behaves where kernels and designs differ; 6.12.111 by default.
        frozen_spte: Value of an SPTE of the TDP MMU that another CPU is changing: FROZEN_SPTE, in 6.1
            REMOVED_SPTE. Constant.
        ept: SPTEs have the format of EPT entries, else that of page-table entries (shadow paging, NPT).
            Constant.
        mbec: With EPT bit 10 allows to execute user addresses, and bit 2 others (enable_mbec). Constant.
        shadow_user_mask: The SPTE's U bit; with EPT R, as all that the guest can read.
        shadow_x_mask: Bits that allow execution: EPT's X, since 7.3 also X for user addresses, else 0.
        shadow_nx_mask: Bits that forbid execution: NX, with EPT 0.
        ad_enabled: The processor sets Accessed and Dirty in SPTEs; else they are access-tracked, and W stands
            for Dirty (kvm_ad_enabled).
        shadow_accessed_mask: The Accessed bit; without ad_enabled 0, since 7.3 a bit that only KVM sets.
        shadow_dirty_mask: The Dirty bit; without ad_enabled 0, since 7.3 a bit that only KVM sets.
        shadow_acc_track_mask: Bits that are cleared to make the next access fault: EPT's rights, else 0.
        acc_track_saved_bits: Rights that an access-tracked SPTE keeps for the next access.
        acc_track_saved_shift: How many bits higher it has them.
        shadow_host_writable_mask: The HOST_WRITABLE bit, see kvm/spte/spte.py.
        shadow_mmu_writable_mask: The MMU_WRITABLE bit, see kvm/spte/spte.py.
        shadow_mmio_value: Bits of every MMIO SPTE; they make the processor fault or exit at each access
            (kvm_arch.shadow_mmio_value).
        shadow_mmio_mask: Bits to compare with shadow_mmio_value; no other SPTE has that value in them.
        shadow_mmio_access_mask: Bits of an MMIO SPTE that hold what the guest's tables grant (W and U); with
            EPT 0: it is not stored.
        spte_leaf_bits: Bits that every leaf SPTE has: present, MMU-present, A/D type, memory type.
        spte_nonleaf_bits: Bits that every SPTE has that points to a table: present, MMU-present, all rights,
            A/D type, Accessed.
        spte_young_mask: A present SPTE with one of these bits was accessed (is_accessed_spte).
        spte_written_mask: A present SPTE with this bit may have been written through (is_dirty_spte).
        spte_flush_mask: A present SPTE that loses one of these bits needs a TLB flush (mmu_spte_update).
        spte_writable_mask: Losing MMU-writable needs a flush if none of these bits is left.
        mmio_gen_low_bits: Bits of the generation in an MMIO SPTE from bit 3 on; the rest begins at bit 52.
        mmio_generation_mask: The bits of memslots_generation that an MMIO SPTE holds.
        enable_mmio_caching: MMIO SPTEs are used: parameters.mmio_caching, and the format has a value for
            them.
        shadow_mmio_gfn_mask: Bits of an MMIO SPTE that hold its frame in their own place
            (shadow_nonpresent_or_rsvd_lower_gfn_mask).
        shadow_nonpresent_or_rsvd_mask: Bits of the frame that an MMIO SPTE has L1TF_BITS_MOVED higher, with
            ones in their own place; 0 without L1TF.
        stat: The VM's statistics (struct kvm_vm_stat).
        tally: What studies count besides; no kernel has it.
        vcpus: All vCPUs, by id.
        running_vcpu: The vCPU whose ioctl runs, or None (kvm_get_running_vcpu); set by `loaded`
            (kvm/state/running_vcpu.py). Its ring takes the pages that get dirty.
        tracing: Somebody listens: the MMU calls `tracer`. False costs one load at each tracepoint.
        tracer: The tracepoints, and those who listen to them.
        memslots: The slots, sorted by base_gfn, disjoint; replaced as a whole (__kvm_memslots).
        memslots_generation: Number of the set of slots, even when stable. Bit 63 (GEN_UPDATE_IN_PROGRESS) is
            set during a change: no MMIO access is cached then (kvm_memslots.generation).
        last_used_slot: The slot that the last lookup found, or None; always one of `memslots`
            (kvm_memslots.last_used_slot).
        owners: owners[n] is the shadow page whose SPTEs are in physical frame n, else None; as long as the
            highest such frame requires (to_shadow_page, page_private).
        buckets: Number of buckets of page_hash, a power of two (KVM_NUM_MMU_PAGES). Constant.
        hash_shift: Bits that the hash is shifted right by: 64 - log2(buckets). Constant.
        page_hash: The newest shadow page of each bucket, which links to the next older one by hash_next; None
            for an empty bucket (kvm_arch.mmu_page_hash). Neither TDP MMU pages nor special pages are in it.
        active_mmu_pages: All shadow pages but those of the TDP MMU, special and zapped ones, newest first.
        possible_nx_huge_pages: Shadow pages without which an executable page could be huge, oldest first:
            those with tracked_nx_huge_page (kvm_arch.possible_nx_huge_pages).
        nx_miscounted: Pages of the TDP MMU that recovery subtracted from the shadow MMU's count, not from
            their own (nx_recovery_miscounts).
        shadow_root_allocated: A shadow page was a root once, so slots may have rmaps; never reset.
        tdp_mmu_roots: Roots of the TDP MMU, also those that are invalid and still referenced.
        tdp_mmu_pages: Number of tables below roots of the TDP MMU.
        rcu_readers: Number of nested RCU read-side sections of the TDP MMU (rcu_read_lock).
        rcu_waiting: Unlinked tables of the TDP MMU that are freed when the last reader leaves (call_rcu).
            Empty while rcu_readers is 0.
        need_resched: Somebody waits for mmu_lock, so long walks of the TDP MMU drop it when they can
            (need_resched, rwlock_needbreak).
        meanwhile: Called whenever mmu_lock is dropped inside a long operation, if not None: work of other
            CPUs.
        n_used_mmu_pages: Number of active_mmu_pages, and of zapped pages that are still in use as roots.
        n_max_mmu_pages: Limit of n_used_mmu_pages; reaching it recycles the oldest pages.
        n_requested_mmu_pages: Limit set by KVM_SET_NR_MMU_PAGES; 0: KVM derives it from the slots' sizes.
        indirect_shadow_pages: Number of shadow pages that shadow guest tables; at 0 emulated writes need no
            lookup.
        mmu_valid_gen: Generation of shadow pages, 0 or 1; a page of another one is obsolete (zap-all flips
            it).
        mmu_invalidate_seq: Number of MMU notifier invalidations that ended; a fault that saw another number
            retries.
        mmu_invalidate_in_progress: Number of invalidations that began and did not end.
        mmu_invalidate_start: First gfn of those in progress; valid only if mmu_invalidate_in_progress.
        mmu_invalidate_end: First gfn after them; 0 if there are none.
        free_pte_list_desc: Physical address of the first free rmap descriptor, linked through its word 0; 0:
            none (the kernel's pte_list_desc_cache).
        pte_list_descs_taken: Number of rmap descriptors allocated so far; it only grows.
        split_caches: Objects set aside for eager splitting, or None before its first use
            (kvm_arch.split_desc_cache, split_page_header_cache, split_shadow_page_cache).
    """

    def __init__(
        self, arena: Arena, host: AddressSpace, parameters: Parameters, design: Design | None = None
    ) -> None:
        self.arena = arena
        self.words = arena.words
        self.host = host
        self.parameters = parameters
        self.design = design or Design()
        self.frozen_spte = self.design.empty_spte | frozen_bits(self.design)
        self.mmio_gen_low_bits = mmio_gen_low_bits(self.design)
        bits: int = min(self.design.mmio_generation_bits, self.mmio_gen_low_bits + MMIO_GEN_HIGH_BITS)
        self.mmio_generation_mask = (1 << bits) - 1
        self.ept = parameters.vmx and parameters.tdp_enabled
        self.mbec = self.ept and parameters.mbec and bool(self.design.ept_mbec)
        self._set_masks(self._masks())
        reserved: bool = mmio_value_is_reserved(parameters.host_maxphyaddr, ept=self.ept)
        self.enable_mmio_caching = self.design.mmio_caching and parameters.mmio_caching and reserved
        frame = mmio_frame(parameters.host_maxphyaddr, parameters.l1tf_cache_bits)
        self.shadow_mmio_gfn_mask = frame.lower
        self.shadow_nonpresent_or_rsvd_mask = frame.moved
        self.stat = VmStat()
        self.tally = Tally()
        self.vcpus: list[Vcpu] = []
        self.running_vcpu: Vcpu | None = None
        self.tracing = False
        self.tracer = Tracer(self)
        self.memslots: list[MemSlot] = []
        self.memslots_generation = 0
        self.last_used_slot: MemSlot | None = None
        self.owners: list[ShadowPage | None] = []
        self.buckets = 1 << self.design.hash_bits
        self.hash_shift = 64 - self.design.hash_bits
        self.page_hash: list[ShadowPage | None] = [None] * self.buckets
        self.active_mmu_pages = PageList()
        self.possible_nx_huge_pages: list[ShadowPage] = []
        self.nx_miscounted = 0
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
        """Return the format of the VM's SPTEs."""
        parameters: Parameters = self.parameters
        if not self.ept:
            return LEGACY_MASKS
        return ept_masks(
            self.design,
            has_ad_bits=parameters.ept_ad_bits,
            has_exec_only=parameters.ept_exec_only,
            ignore_pat=parameters.ignore_guest_pat,
        )

    def _set_masks(self, masks: SpteMasks) -> None:
        """Copy the format of SPTEs into typed fields, which the MMU reads without a call."""
        self.shadow_user_mask = masks.user
        self.shadow_x_mask = masks.x
        self.shadow_nx_mask = masks.nx
        self.shadow_accessed_mask = masks.accessed
        self.shadow_dirty_mask = masks.dirty
        self.ad_enabled = masks.ad_enabled
        self.shadow_acc_track_mask = masks.acc_track
        self.acc_track_saved_bits = masks.saved
        self.acc_track_saved_shift = masks.saved_shift
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

    def vm_stats(self) -> dict[str, int]:
        """Return the statistics of the VM by name, as its kernel has them."""
        stats = self.stat.as_dict()
        if self.design.stat_mmu_shadow_pages:
            stats["mmu_shadow_pages"] = self.n_used_mmu_pages
        return stats

    def gfn_to_memslot(self, gfn: u64) -> MemSlot | None:
        """Return the slot that holds gfn, also one flagged MEMSLOT_INVALID, or None (gfn_to_memslot)."""
        slot: MemSlot | None = self.last_used_slot
        if slot is not None and slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
            return slot
        for slot in self.memslots:
            if slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
                self.last_used_slot = slot
                return slot
        return None

    def memslot_of(self, gfn: u64) -> MemSlot:
        """Return the slot of a frame that is mapped or shadowed.

        Raises LookupError if there is none: the MMU's structures are corrupt.
        """
        slot: MemSlot | None = self.gfn_to_memslot(gfn)
        if slot is None:
            raise LookupError(f"no memory slot holds gfn {gfn:#x}")
        return slot

    def visible_memslot(self, gfn: u64) -> MemSlot | None:
        """Return the slot that holds gfn if page walks may use it, else None (kvm_is_visible_memslot)."""
        slot: MemSlot | None = self.gfn_to_memslot(gfn)
        return None if slot is None or slot.flags & MEMSLOT_INVALID else slot

    def mapped_page(self, gfn: u64) -> u64:
        """Return the hpa of gfn's page if it is in the last used slot and still as its host memory was
        populated, else INVALID_PAGE.

        The short cut of guest_memory's functions: most pages are so, and most walks stay in one slot.
        """
        slot: MemSlot | None = self.last_used_slot
        if slot is None or gfn < slot.base_gfn or gfn >= slot.base_gfn + slot.npages:
            return INVALID_PAGE
        if slot.flags & MEMSLOT_INVALID:
            return INVALID_PAGE
        return slot.mapping.untouched_page(gfn - slot.base_gfn + slot.first_page)

    def hash_bucket(self, gfn: u64) -> u64:
        """Return the number of gfn's hash bucket: the top bits of the 64-bit golden-ratio hash, or by design
        the low bits of gfn (kvm_page_table_hashfn).
        """
        if self.design.hash_function:
            return gfn & (self.buckets - 1)
        return ((gfn * GOLDEN_RATIO_64) & MASK64) >> self.hash_shift

    def is_obsolete(self, sp: ShadowPage) -> bool:
        """Return whether a page was zapped or is of the generation before the last zap-all (is_obsolete_sp).

        Pages of the TDP MMU have no generation: a zap-all marks their roots invalid.
        """
        if sp.role & ROLE_INVALID:
            return True
        return not sp.tdp_mmu_page and sp.mmu_valid_gen != self.mmu_valid_gen

    def next_sp_with_gptes(self, sp: ShadowPage | None, gfn: u64) -> ShadowPage | None:
        """Return the first valid page from `sp` on along its bucket that shadows the guest table at gfn, or
        None.
        """
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
        """Return the newest valid page that shadows the guest table at gfn, or None
        (for_each_gfn_valid_sp_with_gptes).
        """
        return self.next_sp_with_gptes(self.page_hash[self.hash_bucket(gfn)], gfn)

    def hashed_pages(self, gfn: u64) -> list[ShadowPage]:
        """Return all pages in the bucket of gfn, also those of other gfns, newest first."""
        found = []
        sp: ShadowPage | None = self.page_hash[self.hash_bucket(gfn)]
        while sp is not None:
            found.append(sp)
            sp = sp.hash_next
        return found

    def read_spte(self, sptep: u64) -> u64:
        """Return the SPTE at physical address sptep."""
        return self.words[sptep >> 3]

    def read_table(self, hpa: u64) -> list[int]:
        """Return the 512 words of the frame at hpa."""
        words = []
        i: u64
        for i in range(512):
            words.append(self.words[(hpa >> 3) + i])
        return words

    def sptep_to_sp(self, sptep: u64) -> ShadowPage:
        """Return the shadow page that holds the SPTE at address sptep, or whose table is at that address.

        Raises LookupError if no shadow page is there: the MMU's structures are corrupt.
        """
        sp: ShadowPage | None = self.owners[sptep >> 12]
        if sp is None:
            raise LookupError(f"no shadow page at {sptep:#x}")
        return sp

    def page_at(self, hpa: u64) -> ShadowPage | None:
        """Return the shadow page whose SPTEs are in the frame at hpa, or None."""
        return self.owners[hpa >> 12] if hpa >> 12 < len(self.owners) else None

    def set_owner(self, spt: u64, sp: ShadowPage | None) -> None:
        """Record that the SPTEs of `sp` are in the frame at `spt`; None: no shadow page has the frame any
        more.
        """
        frame: u64 = spt >> 12
        while len(self.owners) <= frame:
            self.owners.append(None)
        self.owners[frame] = sp

    def tdp_mmu_enabled(self) -> bool:
        """Return whether the TDP MMU maps guest-physical memory."""
        return self.parameters.tdp_enabled and self.parameters.tdp_mmu

    def have_rmaps(self) -> bool:
        """Return whether shadow pages may map memory, so rmaps must be walked (kvm_memslots_have_rmaps)."""
        return self.shadow_root_allocated or not self.tdp_mmu_enabled()

    def write_tracked(self, slot: MemSlot, gfn: u64) -> bool:
        """Return whether gfn must stay write-protected: it holds a shadowed upper-level table
        (kvm_gfn_is_write_tracked).
        """
        return slot.write_track[gfn - slot.base_gfn] != 0

    def max_gfn(self) -> u64:
        """Return the last frame number that guest memory may have (kvm_mmu_max_gfn).

        With two-dimensional paging guest-physical addresses end where the host's physical addresses do.
        """
        one: u64 = 1
        bits: u32 = 52
        if self.parameters.tdp_enabled:
            bits = self.parameters.host_maxphyaddr
        return (one << (bits - 12)) - 1

    def is_nx_huge_page_enabled(self) -> bool:
        """Return whether huge pages of this VM must not be executable (is_nx_huge_page_enabled)."""
        return self.parameters.nx_huge_pages and not self.parameters.disable_nx_huge_pages

    def max_level(self) -> u32:
        """Return the level of the largest page that KVM maps."""
        return self.parameters.max_huge_page_level
