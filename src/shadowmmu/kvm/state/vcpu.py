"""A vCPU: the guest's registers, its MMUs, its pending requests, and records of its last exits (struct
kvm_vcpu, struct kvm_vcpu_arch).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cython import uint as u32, ulonglong as u64

from ...host.memory import Arena
from ...x86.bits import CR0_PG, CR4_PAE, EFER_LMA
from ...x86.processor import Processor
from ..bits import REQ_TLB_FLUSH, REQ_TLB_FLUSH_GUEST, ROLE_INVALID
from .fault import GuestWalker, LeafSpte, PageFault
from .mmu import KvmMmu
from .stats import VcpuStat
from .tdp_iter import TdpIter
from .vm import Kvm

CACHE_CAPACITY = 40


class MemoryCache:
    """Frames set aside before mmu_lock is taken, for code that must not allocate under it (struct
    kvm_mmu_memory_cache).

    Attributes:
        arena: The memory that the frames come from.
        objects: Physical addresses of the frames, at most CACHE_CAPACITY (40); the last one is taken first.
    """

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.objects: list[int] = []

    def top_up(self, minimum: u32) -> None:
        """Fill the cache to its capacity if it holds fewer than `minimum` frames. Raises OutOfFrames."""
        if len(self.objects) < minimum:
            while len(self.objects) < CACHE_CAPACITY:
                self.objects.append(self.arena.alloc_table())

    def take(self) -> u64:
        """Return the address of a frame of the cache, of a fresh frame if it is empty. Raises OutOfFrames."""
        if not self.objects:
            return self.arena.alloc_table()
        return self.objects.pop()


@dataclass(slots=True)
class QueuedException:
    """An exception for the guest: pending, or to be injected again after its delivery faulted.

    Attributes:
        vector: Vector of the exception, 0 to 31.
        error_code: The error code, or None for an exception without one.
        cr2: The faulting address of a #PF, else None.
        reinjected: A VM entry tried to deliver it already (kvm_vcpu_arch.exception.injected).
    """

    vector: int
    error_code: int | None
    cr2: int | None
    reinjected: bool = False


@dataclass(slots=True)
class QueuedInterrupt:
    """An INT n whose delivery faulted, to be injected again (kvm_vcpu_arch.interrupt with soft set).

    Attributes:
        vector: Vector of the interrupt, 0 to 255.
        skip: Moves RIP past the instruction; returns False if the instruction cannot be read.
    """

    vector: int
    skip: Callable[[], bool]


class Vcpu:
    """A vCPU: struct kvm_vcpu with struct kvm_vcpu_arch and what the model needs of struct vcpu_svm,
    6.12.111.

    Attributes:
        kvm: The VM.
        id: Number of the vCPU, its index in kvm.vcpus.
        cpu: The processor that it runs on, with the TLB.
        stat: The vCPU's statistics (struct kvm_vcpu_stat).
        root_mmu: Shadows L1's tables, or maps guest-physical memory with two-dimensional paging
            (arch.root_mmu).
        guest_mmu: Shadows L1's nested tables while L2 runs (arch.guest_mmu).
        nested_mmu: Only the paging rules of L2's own tables; it has no roots (arch.nested_mmu).
        mmu: The MMU whose root the processor uses: root_mmu, or guest_mmu while L2 runs with nested paging
            (arch.mmu).
        walk_mmu: The MMU that describes the tables of whatever runs: root_mmu, or nested_mmu while L2 runs
            with nested paging (arch.walk_mmu).
        walker: Result of the last walk of guest tables; reused by every walk.
        fault: Record of the last page fault; reused by every fault.
        leaf: Result of the last make_spte; reused.
        tdp_iter: Position of the last walk by this vCPU of a TDP MMU root; reused.
        shadow_page_cache: Frames for the tables of new shadow pages (arch.mmu_shadow_page_cache).
        translation_cache: Frames for their `translations` (arch.mmu_shadowed_info_cache).
        requests: Bit mask of pending REQ_*; served at the next VM entry (kvm_vcpu.requests).
        cr0: Guest's CR0 as the guest sees it; likewise CR4 and EFER.
        cr2: Guest's CR2: the address of its last #PF.
        cr3: Guest's CR3: physical address of its top table with PCID and cache bits.
        cr4: Guest's CR4.
        efer: Guest's EFER.
        rip: Guest's instruction pointer at the last exit.
        cpl: Current privilege level, 0 to 3.
        eflags_ac: EFLAGS.AC, which lifts SMAP for explicit supervisor accesses.
        compatibility_mode: The code segment is not a 64-bit one (CS.L clear); it counts in long mode only.
        maxphyaddr: Bits of a physical address that the guest's CPUID reports (arch.maxphyaddr).
        host_maxphyaddr: Bits of a physical address of the processor it runs on.
        configured: CR0, CR4, EFER and shadow level that `cpu` was last set up for; () before the first entry.
        nested_cr3: Physical address in L1 of L1's nested tables; valid while L2 runs
            (svm.nested.ctl.nested_cr3).
        hsave_msr: Value of MSR VM_HSAVE_PA; 0 makes VMRUN fail (svm.nested.hsave_msr).
        guest_mode: L2 runs (HF_GUEST_MASK).
        l1_state: L1's registers while L2 runs, else None (svm.vmcb01).
        nested_run_pending: L1's VMRUN was emulated and L2 was not entered yet (svm.nested_run_pending).
        exit_code: SVM exit code, or VMX basic exit reason, of the last exit.
        exit_info1: EXITINFO1 of the last exit, or VMX's exit qualification; for #PF the error code.
        exit_info2: EXITINFO2 of the last exit; for #PF and nested page faults the address.
        cr4_missing: Bits of CR4 that the guest's processor does not have (arch.cr4_guest_rsvd_bits).
        efer_missing: Bits of EFER that the processor does not have.
        wide_cr0: The processor ignores bits 63:32 of a value moved to CR0 (see x86.implementation).
        bad_cr3_fails_entry: The processor refuses to enter a guest whose CR3 has reserved bits (same).
        implicit_obeys_ac: EFLAGS.AC lifts SMAP for implicit accesses below CPL 3 too (same).
        apic_base: Value of MSR IA32_APICBASE (arch.apic_base).
        dirty_ring: The vCPU's DirtyRing, or None if the VM's slots have bitmaps (kvm_vcpu.dirty_ring).
        exception: The exception that the next VM entry delivers, or None (arch.exception).
        soft_interrupt: The INT n that the next VM entry delivers again, or None (arch.interrupt).
        mmio_gva: Page address of the last MMIO access; 0: none recorded by gva (arch.mmio_gva).
        mmio_gfn: Frame of the last MMIO access; 0: none recorded by gpa (arch.mmio_gfn).
        mmio_access: ACC_* that the guest's tables grant to mmio_gva (arch.mmio_access).
        mmio_gen: memslots_generation when the access was recorded; the record is void in any other
            (arch.mmio_gen).
        emulation_type: Bit mask of EMULTYPE_* of the last fault: how its instruction is to be emulated.
        last_result: RET_PF_* of the last fault, for whoever plays accesses in bulk.
        last_retry_rip: RIP of the last instruction retried because its table was unprotected; 0: none
            (arch.last_retry_eip).
        last_retry_addr: Address that instruction faulted at, gva or gpa (arch.last_retry_addr).
    """

    def __init__(self, kvm: Kvm, id: int, cpu: Processor) -> None:
        self.kvm = kvm
        self.id = id
        self.cpu = cpu
        self.stat = VcpuStat()
        unused = ROLE_INVALID if kvm.design.unused_role_is_invalid else 0
        has_pae_root = not kvm.parameters.tdp_enabled and not kvm.design.special_roots
        self.root_mmu = KvmMmu(unused, kvm.arena.alloc_table() if has_pae_root else 0)
        self.guest_mmu = KvmMmu(unused)
        self.nested_mmu = KvmMmu(unused)
        self.mmu = self.root_mmu
        self.walk_mmu = self.root_mmu
        self.walker = GuestWalker()
        self.fault = PageFault()
        self.leaf = LeafSpte()
        self.tdp_iter = TdpIter(kvm)
        self.shadow_page_cache = MemoryCache(kvm.arena)
        self.translation_cache = MemoryCache(kvm.arena)
        self.requests = REQ_TLB_FLUSH_GUEST if kvm.design.set_sregs_flushes else 0
        if kvm.parameters.vmx:
            self.requests |= REQ_TLB_FLUSH  # vmx_vcpu_load_vmcs: onto a CPU on which it was not
        self.cr0 = self.cr2 = self.cr3 = self.cr4 = self.efer = 0
        self.rip = 0
        self.cpl = 0
        self.eflags_ac = False
        self.compatibility_mode = False
        self.maxphyaddr = 40
        self.host_maxphyaddr = kvm.parameters.host_maxphyaddr
        self.configured: tuple[int, ...] = ()
        self.nested_cr3 = 0
        self.hsave_msr = 0
        self.guest_mode = False
        self.l1_state: Any = None
        self.nested_run_pending = False
        self.exit_code = 0
        self.exit_info1 = 0
        self.exit_info2 = 0
        self.cr4_missing = 0
        self.efer_missing = 0
        self.wide_cr0 = False
        self.bad_cr3_fails_entry = False
        self.implicit_obeys_ac = False
        self.apic_base = 0
        self.dirty_ring: Any = None
        self.exception: QueuedException | None = None
        self.soft_interrupt: QueuedInterrupt | None = None
        self.mmio_gva = 0
        self.mmio_gfn = 0
        self.mmio_access = 0
        self.mmio_gen = 0
        self.emulation_type = 0
        self.last_result = 0
        self.last_retry_rip = 0
        self.last_retry_addr = 0
        kvm.vcpus.append(self)

    def is_paging(self) -> bool:
        """Return whether CR0.PG is set (is_paging)."""
        return self.cr0 & CR0_PG != 0

    def is_pae(self) -> bool:
        """Return whether CR4.PAE is set; it is in long mode too (is_pae)."""
        return self.cr4 & CR4_PAE != 0

    def is_long_mode(self) -> bool:
        """Return whether EFER.LMA is set (is_long_mode)."""
        return self.efer & EFER_LMA != 0

    def is_64_bit_mode(self) -> bool:
        """Return whether the guest runs 64-bit code: in long mode, with CS.L set (is_64_bit_mode)."""
        return self.efer & EFER_LMA != 0 and not self.compatibility_mode

    def is_pae_paging(self) -> bool:
        """Return whether the guest uses PAE tables: four PDPTEs, not long mode (is_pae_paging)."""
        return self.cr0 & CR0_PG != 0 and self.cr4 & CR4_PAE != 0 and self.efer & EFER_LMA == 0

    def mmu_is_nested(self) -> bool:
        """Return whether L2 runs on L1's nested tables (mmu_is_nested)."""
        return self.walk_mmu is self.nested_mmu

    def guest_pgd(self, mmu: KvmMmu) -> u64:
        """Return the root of the guest tables that `mmu` walks: CR3, or for guest_mmu L1's nested CR3."""
        return self.nested_cr3 if mmu is self.guest_mmu else self.cr3

    def make_request(self, request: u32) -> None:
        """Set bits of `requests` (kvm_make_request)."""
        self.requests |= request

    def needs_reinjection(self) -> bool:
        """Return whether an event must be injected again because its delivery faulted
        (kvm_event_needs_reinjection).
        """
        if self.soft_interrupt is not None:
            return True
        return self.exception is not None and self.exception.reinjected
