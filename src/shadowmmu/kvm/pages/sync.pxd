from ...x86.bits cimport *
from ..bits cimport *
from ..state.fault cimport LeafSpte
from ..spte.flush cimport kvm_flush_remote_tlbs
from ..guest_access.guest_walk cimport gpte_access, is_rsvd_bits_set, read_gpte_atomic
from ..spte.make_spte cimport make_spte
from ..state.memslots cimport MemSlot
from ..spte.mmio cimport get_mmio_spte_gfn, is_mmio_spte, mark_mmio_spte, vcpu_clear_mmio_info
from ..state.mmu cimport KvmMmu
from ..spte.rmap cimport drop_spte
from ..state.shadow_page cimport ShadowPage
from ..spte.spte cimport (mmu_spte_clear_no_track, mmu_spte_update, page_access, page_gfn, set_page_translation,
                    spte_to_pfn)
from ..spte.unsync cimport UnsyncWalk, kvm_unlink_unsync_page
from ..state.vcpu cimport Vcpu
from ..state.vm cimport Kvm
from .walk_start cimport first_table
from .write_protect cimport kvm_mmu_slot_gfn_write_protect
from .zap cimport kvm_mmu_prepare_zap_page, kvm_mmu_remote_flush_or_zap, mmu_page_zap_pte

cpdef bint prefetch_invalid_gpte(Kvm kvm, KvmMmu mmu, u64 sptep, u64 gpte) except -1
cpdef u32 shadowed_access(ShadowPage sp, u64 gpte) except? 0xdead
cpdef u64 level1_gpte_gpa(ShadowPage sp, u32 index) except? 0xdead
cdef bint _sync_mmio_spte(Kvm kvm, u64 sptep, u64 gfn, u32 access) except -1
cpdef i64 sync_spte(Vcpu vcpu, ShadowPage sp, u32 index) except? 77
cpdef bint kvm_sync_page_check(Vcpu vcpu, ShadowPage sp) except -1
cpdef i64 kvm_sync_page(Vcpu vcpu, ShadowPage sp, list[ShadowPage] invalid_list) except? 77
cpdef bint kvm_vcpu_write_protect_gfn(Kvm kvm, u64 gfn) except -1
cpdef void mmu_sync_children(Vcpu vcpu, ShadowPage parent) except *
cpdef void kvm_mmu_sync_roots(Vcpu vcpu) except *
cpdef u32 unsync_prev_roots(Vcpu vcpu) except? 77
cpdef void sync_on_invlpg(Vcpu vcpu, KvmMmu mmu, u64 addr, u64 root_hpa) except *
