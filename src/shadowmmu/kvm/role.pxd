from .mmu cimport KvmMmu
from .vcpu cimport Vcpu
