from ...x86.bits cimport *
from ..bits cimport *
from ..state.mmu cimport KvmMmu
from ..state.vcpu cimport Vcpu
from .special_root cimport special_walk_level, special_walk_root
from .walk_start cimport pae_directory

cpdef u64 shadow_walk_root(Vcpu vcpu, u64 addr) except? 1
cpdef u32 shadow_walk_level(Vcpu vcpu) except? 0xdead
cpdef u64 shadow_walk_sptep(u64 table, u64 addr, u32 level) except? 0xdead
