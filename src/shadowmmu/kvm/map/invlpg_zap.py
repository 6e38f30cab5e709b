"""INVLPG in kernels before 6.4: the SPTE of an unsync page is zapped, and its gpte is prefetched again.

FNAME(invlpg), arch/x86/kvm/mmu/paging_tmpl.h, 6.1.176.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR
from ..bits import ROLE_4BYTE_GPTE, ROLE_LEVEL, SPTE_MMU_PRESENT
from ..guest_access.guest_walk import read_gpte_atomic
from ..pages.sync import level1_gpte_gpa
from ..pages.walk_start import first_table
from ..pages.zap import mmu_page_zap_pte
from ..spte.flush import kvm_flush_remote_tlbs
from ..spte.mmio import vcpu_clear_mmio_info
from ..spte.spte import is_last_spte, spte_index
from ..state.mmu import KvmMmu
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .prefetch import prefetch_gpte


def zap_on_invlpg(vcpu: Vcpu, mmu: KvmMmu, addr: u64, root_hpa: u64) -> None:
    """Zap the leaf SPTE for addr below a root if its page is unsync, and map what the gpte says now.

    The walk down ends at the first page without unsync children. A page of a slot that logs is mapped too.
    """
    kvm: Kvm = vcpu.kvm
    vcpu_clear_mmio_info(vcpu, addr)
    vcpu.shadow_page_cache.top_up(5)
    vcpu.translation_cache.top_up(5)
    table: u64 = first_table(kvm, mmu, addr, root_hpa)
    while table:
        sp: ShadowPage = kvm.sptep_to_sp(table)
        level: u32 = sp.role & ROLE_LEVEL
        index: u32 = (addr >> (12 + 9 * (level - 1))) & 511
        sptep: u64 = table + index * 8
        spte: u64 = kvm.words[sptep >> 3]
        if is_last_spte(spte, level):
            if sp.unsync:
                _map_anew(vcpu, sp, sptep)
            return
        if not sp.unsync_children or not spte & SPTE_MMU_PRESENT:
            return
        table = spte & ADDR


def _map_anew(vcpu: Vcpu, sp: ShadowPage, sptep: u64) -> None:
    """Zap a leaf SPTE of an unsync page and prefetch its gpte, if that can be read."""
    kvm: Kvm = vcpu.kvm
    present: u64 = kvm.words[sptep >> 3] & SPTE_MMU_PRESENT
    mmu_page_zap_pte(kvm, sp, sptep, None)
    if present:
        kvm_flush_remote_tlbs(kvm)
    gpa: u64 = level1_gpte_gpa(sp, spte_index(sptep))
    if read_gpte_atomic(kvm, gpa, sp.role & ROLE_4BYTE_GPTE, vcpu.walker):
        prefetch_gpte(vcpu, sp, sptep, vcpu.walker.prefetch_ptes[0], 0)
