from ...x86.bits cimport *
from ..bits cimport *
from ..state.mmu cimport KvmMmu
from ..state.vm cimport Kvm

cpdef u64 pae_directory(Kvm kvm, KvmMmu mmu, u64 addr) except? 0xdead
cpdef u64 first_table(Kvm kvm, KvmMmu mmu, u64 addr, u64 root_hpa) except? 0xdead
