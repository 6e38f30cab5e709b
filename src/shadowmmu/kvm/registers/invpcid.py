"""INVPCID, intercepted with shadow paging (kvm_handle_invpcid, kvm_mmu_invpcid_gva, 6.12.111)."""

from ...x86.bits import CR4_PCIDE
from ..bits import INVALID_PAGE, NUM_PREV_ROOTS, REQ_TLB_FLUSH_GUEST
from ..state.vcpu import Vcpu
from .invlpg import invalidate_addr_in_root, is_noncanonical
from .regs import active_pcid, kvm_invalidate_pcid

INDIVIDUAL_ADDRESS, SINGLE_CONTEXT, ALL_WITH_GLOBAL, ALL_WITHOUT_GLOBAL = range(4)


def kvm_mmu_invpcid_gva(vcpu: Vcpu, gva: int, pcid: int) -> None:
    """Invalidate one address of one PCID, in all roots that have it."""
    mmu = vcpu.walk_mmu
    if active_pcid(vcpu) == pcid:
        vcpu.cpu.flush_gva(gva)
        if mmu.root_hpa != INVALID_PAGE:
            invalidate_addr_in_root(vcpu, mmu, gva, mmu.root_hpa)
    for i in range(NUM_PREV_ROOTS):
        pgd, root_hpa = mmu.prev_root(i)
        if root_hpa != INVALID_PAGE and pgd & 0xFFF == pcid:
            invalidate_addr_in_root(vcpu, mmu, gva, root_hpa)
    vcpu.stat.invlpg += 1


def kvm_handle_invpcid(vcpu: Vcpu, kind: int, pcid: int, gva: int) -> bool:
    """Emulate INVPCID. `kind` is its type, `pcid` the low half of the descriptor, `gva` the address. Return
    False for #GP.

    The shadow has no global pages, so both types that flush everything are the same.
    """
    if kind > ALL_WITHOUT_GLOBAL or pcid >> 12:
        return False
    without = pcid and not vcpu.cr4 & CR4_PCIDE
    match kind:
        case 0:
            if without or is_noncanonical(vcpu, gva):
                return False
            kvm_mmu_invpcid_gva(vcpu, gva, pcid)
        case 1:
            if without:
                return False
            kvm_invalidate_pcid(vcpu, pcid)
        case _:
            vcpu.make_request(REQ_TLB_FLUSH_GUEST)
    return True
