"""A vCPU: the guest's registers, its MMU, its pending requests and what it remembers (struct kvm_vcpu)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cython import uint as u32, ulonglong as u64

from ...host.memory import Arena
from ...x86.bits import CR0_PG, CR4_PAE, EFER_LMA
from ...x86.processor import Processor
from ..bits import REQ_TLB_FLUSH_GUEST, ROLE_INVALID
from .fault import GuestWalker, LeafSpte, PageFault
from .mmu import KvmMmu
from .stats import VcpuStat
from .tdp_iter import TdpIter
from .vm import Kvm

CACHE_CAPACITY = 40


class MemoryCache:
    """Frames set aside before mmu_lock is taken (struct kvm_mmu_memory_cache, capacity 40)."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.objects: list[int] = []

    def top_up(self, minimum: u32) -> None:
        """Fill the cache if it holds fewer than `minimum` frames. Raises OutOfFrames."""
        if len(self.objects) < minimum:
            while len(self.objects) < CACHE_CAPACITY:
                self.objects.append(self.arena.alloc_table())

    def take(self) -> u64:
        if not self.objects:
            return self.arena.alloc_table()
        return self.objects.pop()


@dataclass(slots=True)
class QueuedException:
    """An exception for the guest: pending, or to be injected again after its delivery faulted."""

    vector: int
    error_code: int | None
    cr2: int | None
    reinjected: bool = False


@dataclass(slots=True)
class QueuedInterrupt:
    """An INT n whose delivery faulted, to be injected again; `skip` moves RIP past the instruction."""

    vector: int
    skip: Callable[[], bool]


class Vcpu:
    """vCPU number `id`; `cpu` is the processor that it runs on."""

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
        return self.cr0 & CR0_PG != 0

    def is_pae(self) -> bool:
        """CR4.PAE, also set in long mode."""
        return self.cr4 & CR4_PAE != 0

    def is_long_mode(self) -> bool:
        return self.efer & EFER_LMA != 0

    def is_64_bit_mode(self) -> bool:
        """Long mode, and the code segment is not one of `compatibility_mode` (CS.L)."""
        return self.efer & EFER_LMA != 0 and not self.compatibility_mode

    def is_pae_paging(self) -> bool:
        return self.cr0 & CR0_PG != 0 and self.cr4 & CR4_PAE != 0 and self.efer & EFER_LMA == 0

    def mmu_is_nested(self) -> bool:
        """Whether L2 runs on nested tables of L1."""
        return self.walk_mmu is self.nested_mmu

    def guest_pgd(self, mmu: KvmMmu) -> u64:
        """The root of the guest's tables that `mmu` walks: CR3, or L1's nested CR3."""
        return self.nested_cr3 if mmu is self.guest_mmu else self.cr3

    def make_request(self, request: u32) -> None:
        self.requests |= request

    def needs_reinjection(self) -> bool:
        """Whether the delivery of an event faulted (kvm_event_needs_reinjection)."""
        if self.soft_interrupt is not None:
            return True
        return self.exception is not None and self.exception.reinjected
