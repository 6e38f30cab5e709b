from ..x86.bits cimport u32, u64
from .memslots cimport MemSlot
from .tdp.split cimport kvm_tdp_mmu_try_split_huge_pages
from .vm cimport Kvm

cpdef void kvm_mmu_try_split_huge_pages(Kvm kvm, MemSlot slot, u64 start, u64 end, u32 target_level, u32 shared) except *
