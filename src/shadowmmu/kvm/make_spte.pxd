from ..x86.bits cimport A, ACC_U, ACC_W, ACC_X, D, NX, P, PS, U, W, u32, u64
from .bits cimport (MAKE_CAN_UNSYNC, MAKE_HOST_WRITABLE, MAKE_PREFETCH, ROLE_ACCESS, ROLE_ACCESS_SHIFT, ROLE_LEVEL,
                    SPTE_HOST_WRITABLE, SPTE_MMU_PRESENT, SPTE_MMU_WRITABLE)
from .fault cimport LeafSpte
from .mark_dirty cimport mark_page_dirty_in_slot
from .memslots cimport MemSlot
from .shadow_page cimport ShadowPage
from .spte cimport is_last_spte
from .unsync cimport mmu_try_to_unsync_pages
from .vm cimport Kvm

cpdef void make_spte(Kvm kvm, LeafSpte leaf, ShadowPage sp, MemSlot slot, u32 access, u64 gfn, u64 pfn, u64 old,
                     u32 flags) except *
cpdef u64 make_huge_page_split_spte(Kvm kvm, u64 huge, u32 role, u64 index) except? 0xdead
