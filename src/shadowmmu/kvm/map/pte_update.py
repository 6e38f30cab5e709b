"""Emulated page-table writes that map the new gpte at once (mmu_pte_write_new_pte, 2.6.37; update_pte, 3.12).

The write itself has zapped the SPTE (track_write). The gpte is mapped by the same code as a neighbour of a
fault, and as after INVLPG (prefetch_gpte): not Accessed, and only if the gpte is Accessed.
"""

from ...x86.bits import ADDR, NX, P, U, W
from ..bits import REQ_TLB_FLUSH
from ..pages.sync import kvm_sync_page_check
from ..spte.spte import is_shadow_present
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu
from .prefetch import prefetch_gpte


def need_remote_flush(old: int, new: int) -> bool:
    """Return whether TLBs may hold more than the new SPTE allows: another page, or a right that it does not
    grant.
    """
    if not is_shadow_present(old):
        return False
    if not is_shadow_present(new) or (old ^ new) & ADDR:
        return True
    return bool((old ^ NX) & ~(new ^ NX) & (P | W | U | NX))


def update_pte(vcpu: Vcpu, sp: ShadowPage, sptep: int, gentry: int) -> None:
    """Map a gpte that was just written to a leaf table of the writing vCPU's paging mode.

    A page of a slot that logs becomes dirty.
    """
    kvm = vcpu.kvm
    if not gentry or sp.level() > 1 or not kvm_sync_page_check(vcpu, sp):
        return
    kvm.stat.mmu_pte_updated += 1
    if not kvm.mmu_invalidate_in_progress:
        prefetch_gpte(vcpu, sp, sptep, gentry, 0)


def flush_local_tlb(vcpu: Vcpu) -> None:
    """Flush the writing vCPU only: no other can hold what the write took away."""
    vcpu.make_request(REQ_TLB_FLUSH)
