from ...x86.bits cimport *
from ..bits cimport *
from .spte cimport mmu_spte_set
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm

cpdef bint is_mmio_spte(Kvm kvm, u64 spte) except -1
cpdef u64 make_mmio_spte(Kvm kvm, u64 gfn, u32 access) except? 0xdead
cpdef u64 get_mmio_spte_gfn(Kvm kvm, u64 spte) except? 0xdead
cpdef u32 get_mmio_spte_access(Kvm kvm, u64 spte) except? 0xdead
cpdef u64 mmio_generation_of(u64 spte, u32 low) except? 0xdead
cpdef u64 get_mmio_spte_generation(Kvm kvm, u64 spte) except? 0xdead
cpdef u64 mmio_generation(Kvm kvm) except? 0xdead
cpdef void mark_mmio_spte(Kvm kvm, u64 sptep, u64 gfn, u32 access) except *
cpdef bint check_mmio_spte(Kvm kvm, u64 spte) except -1
cpdef void vcpu_cache_mmio_info(Vcpu vcpu, u64 gva, u64 gfn, u32 access) except *
cpdef void vcpu_clear_mmio_info(Vcpu vcpu, u64 gva) except *
cdef bint _is_current(Vcpu vcpu) except -1
cpdef bint vcpu_match_mmio_gva(Vcpu vcpu, u64 gva) except -1
cpdef bint vcpu_match_mmio_gpa(Vcpu vcpu, u64 gpa) except -1
cpdef bint mmio_info_in_cache(Vcpu vcpu, u64 addr) except -1
