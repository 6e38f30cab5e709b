cimport cython
from ...host.memory cimport Arena
from ...x86.bits cimport *
from ...x86.processor cimport Processor
from ..bits cimport *
from .fault cimport GuestWalker, LeafSpte, PageFault
from .mmu cimport KvmMmu
from .stats cimport VcpuStat
from .tdp_iter cimport TdpIter
from .vm cimport Kvm

@cython.final
cdef class MemoryCache:
    cdef readonly Arena arena
    cdef readonly list objects
    cpdef void top_up(self, u32 minimum) except *
    cpdef u64 take(self) except? 1

@cython.final
cdef class Vcpu:
    cdef readonly Kvm kvm
    cdef readonly int id
    cdef readonly Processor cpu
    cdef readonly VcpuStat stat
    cdef readonly KvmMmu root_mmu, guest_mmu, nested_mmu
    cdef public KvmMmu mmu, walk_mmu
    cdef readonly GuestWalker walker
    cdef readonly PageFault fault
    cdef readonly LeafSpte leaf
    cdef readonly TdpIter tdp_iter
    cdef readonly MemoryCache shadow_page_cache, translation_cache
    cdef public u32 requests
    cdef public u64 cr0, cr2, cr3, cr4, efer, rip
    cdef public u32 cpl, maxphyaddr, host_maxphyaddr
    cdef public u64 cr4_missing, efer_missing, apic_base, nested_cr3, hsave_msr
    cdef public bint compatibility_mode, eflags_ac, wide_cr0, bad_cr3_fails_entry, implicit_obeys_ac, guest_mode, nested_run_pending
    cdef public tuple configured
    cdef public object exception, soft_interrupt, dirty_ring, l1_state
    cdef public u64 exit_code, exit_info1, exit_info2
    cdef public u64 mmio_gva, mmio_gfn, mmio_gen, last_retry_rip, last_retry_addr
    cdef public u32 mmio_access, emulation_type, last_result
    cpdef bint is_paging(self) noexcept
    cpdef bint is_pae(self) noexcept
    cpdef bint is_long_mode(self) noexcept
    cpdef bint is_64_bit_mode(self) noexcept
    cpdef bint is_pae_paging(self) noexcept
    cpdef bint mmu_is_nested(self) noexcept
    cpdef u64 guest_pgd(self, KvmMmu mmu) noexcept
    cpdef void make_request(self, u32 request) noexcept
    cpdef bint needs_reinjection(self) except -1
