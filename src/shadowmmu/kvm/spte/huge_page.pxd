from ...x86.bits cimport *
from ..bits cimport *
from ..state.fault cimport PageFault
from ..state.memslots cimport MemSlot
from ..state.shadow_page cimport ShadowPage
from ..state.vm cimport Kvm

cpdef u64 pages_per_hpage(u32 level) except? 0xdead
cpdef u64 gfn_round_for_level(u64 gfn, u32 level) except? 0xdead
cpdef u32 kvm_mmu_max_mapping_level(Kvm kvm, MemSlot slot, u64 gfn, u32 max_level) except? 77
cpdef void kvm_mmu_hugepage_adjust(Kvm kvm, PageFault fault) except *
cpdef void disallowed_hugepage_adjust(Kvm kvm, PageFault fault, u64 spte, u32 level) except *
cpdef void trace_spte_requested(Kvm kvm, PageFault fault, u32 access) except *
