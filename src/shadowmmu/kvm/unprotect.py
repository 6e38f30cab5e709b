"""Giving up the shadow of a guest table so that the guest may write it.

kvm_mmu_unprotect_gfn_and_retry, arch/x86/kvm/mmu/mmu.c, 6.12.111.
"""

from ..x86.bits import PFERR_U, PFERR_W
from .bits import INVALID_PAGE
from .guest_walk import gva_to_gpa
from .shadow_page import ShadowPage
from .vcpu import Vcpu
from .zap import kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page


def _zap_gfn(vcpu: Vcpu, addr: int) -> bool:
    kvm = vcpu.kvm
    if not kvm.indirect_shadow_pages:
        return False
    gpa = addr
    if not vcpu.mmu.direct():
        gpa = gva_to_gpa(vcpu, addr, PFERR_W | (PFERR_U if vcpu.cpl == 3 else 0))
        if gpa == INVALID_PAGE:
            return False
    invalid_list: list[ShadowPage] = []
    for sp in kvm.sps_with_gptes(gpa >> 12):
        kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
    zapped = bool(invalid_list)
    kvm_mmu_commit_zap_page(kvm, invalid_list)
    return zapped


def kvm_mmu_unprotect_gfn_and_retry(vcpu: Vcpu, addr: int, *, always_retry: bool = False) -> bool:
    """Zap every page that shadows the table at addr (a gva; a gpa for a direct MMU); whether one was.

    Then, or if `always_retry`, the vCPU remembers instruction and address, so as not to retry it for ever.
    """
    zapped = _zap_gfn(vcpu, addr)
    if zapped or always_retry:
        vcpu.last_retry_rip = vcpu.rip
        vcpu.last_retry_addr = addr
    return zapped
