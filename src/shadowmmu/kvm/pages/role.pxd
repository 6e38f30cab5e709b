from ..state.mmu cimport KvmMmu
from ..state.vcpu cimport Vcpu
