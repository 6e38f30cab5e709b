from ...x86.bits cimport *
from ..bits cimport *
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
