from ...x86.bits cimport ADDR, PS, u32, u64
from ..bits cimport (MAKE_CAN_UNSYNC, MAKE_HOST_WRITABLE, MAKE_PREFETCH, RET_PF_EMULATE, RET_PF_FIXED,
                    RET_PF_SPURIOUS, RET_PF_WRITE_PROTECTED, ROLE_LEVEL, SPTE_MMU_PRESENT, DEFECT_MMIO_OVER_PRESENT, DEFECT_RMAP_LEFT)
from ..state.fault cimport LeafSpte, PageFault
from ..spte.flush cimport kvm_flush_remote_tlbs
from ..spte.make_spte cimport make_spte
from ..state.memslots cimport MemSlot
from ..spte.mmio cimport mark_mmio_spte
from ..spte.rmap cimport drop_spte, rmap_add
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport mmu_spte_clear_track_bits, mmu_spte_update, page_gfn, set_page_translation, spte_index, spte_to_pfn
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from ..pages.zap cimport drop_parent_pte

cpdef u32 mmu_set_spte(Vcpu vcpu, MemSlot slot, ShadowPage sp, u64 sptep, u32 access, u64 gfn, u64 pfn,
                       PageFault fault) except? 77
