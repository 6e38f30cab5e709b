from ...x86.bits cimport *
from .account cimport account_shadowed
from ..bits cimport *
from ..state.shadow_page cimport ShadowPage
from ..state.table cimport clear_table, clear_translations
from ..state.vcpu cimport MemoryCache
from ..state.vm cimport Kvm

cpdef ShadowPage kvm_mmu_alloc_shadow_page(Kvm kvm, MemoryCache shadow_pages, MemoryCache translation_pages, u64 gfn,
                                           u64 bucket, u32 role)
