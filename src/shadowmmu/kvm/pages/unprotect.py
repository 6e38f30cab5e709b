"""Unprotecting a guest table: its shadow pages are zapped so that the guest may write it (mmu.c, x86.c).

kvm_mmu_unprotect_gfn_and_retry is 6.12.111's; retry_instruction, reexecute_instruction and
kvm_mmu_unprotect_page_virt are 6.1.176's.
"""

from ...x86.bits import PFERR_U, PFERR_W
from ...x86.insn import Insn
from ..bits import EMULTYPE_ALLOW_RETRY_PF, EMULTYPE_WRITE_PF_TO_SP, INVALID_PAGE
from ..guest_access.guest_memory import write_page
from ..guest_access.guest_walk import gva_to_gpa
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .zap import kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page


def kvm_mmu_unprotect_gfn(kvm: Kvm, gfn: int) -> bool:
    """Zap every page that shadows the table at gfn. Return whether there was one."""
    invalid_list: list[ShadowPage] = []
    sp = kvm.first_sp_with_gptes(gfn)
    while sp is not None:
        kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
        sp = kvm.next_sp_with_gptes(sp.hash_next, gfn)
    zapped = bool(invalid_list)
    kvm_mmu_commit_zap_page(kvm, invalid_list)
    return zapped


def _user(vcpu: Vcpu) -> int:
    """Return PFERR_U if the vCPU is at CPL 3, else 0."""
    return PFERR_U if vcpu.cpl == 3 else 0


def _write_gpa(vcpu: Vcpu, addr: int) -> int:
    """Return the gpa that a write to addr reaches (addr itself for a direct MMU); INVALID_PAGE if
    it faults.
    """
    return addr if vcpu.mmu.direct() else gva_to_gpa(vcpu, addr, PFERR_W | _user(vcpu))


# -- 6.12 --------------------------------------------------------------------------------------------


def _zap_addr(vcpu: Vcpu, addr: int) -> bool:
    """Zap every page that shadows the table at addr. Return whether there was one."""
    if not vcpu.kvm.indirect_shadow_pages:
        return False
    gpa = _write_gpa(vcpu, addr)
    return gpa != INVALID_PAGE and kvm_mmu_unprotect_gfn(vcpu.kvm, gpa >> 12)


def kvm_mmu_unprotect_gfn_and_retry(vcpu: Vcpu, addr: int, *, always_retry: bool = False) -> bool:
    """Zap every page that shadows the table at addr (a gva; a gpa for a direct MMU). Return whether there was
    one.

    If so, or with `always_retry`, instruction and address are recorded, so that it is not retried for ever.
    """
    zapped = _zap_addr(vcpu, addr)
    if zapped or always_retry:
        vcpu.last_retry_rip = vcpu.rip
        vcpu.last_retry_addr = addr
    return zapped


# -- 6.1 ---------------------------------------------------------------------------------------------


def kvm_mmu_unprotect_page_virt(vcpu: Vcpu, addr: int) -> None:
    """Zap the pages that shadow the table at addr before a fault there is handled; nothing for a
    direct MMU.
    """
    if not vcpu.mmu.direct():
        kvm_mmu_unprotect_gfn(vcpu.kvm, gva_to_gpa(vcpu, addr, _user(vcpu)) >> 12)


def retry_instruction(vcpu: Vcpu, insn: Insn, addr: int, emulation_type: int) -> bool:
    """Return whether to run an instruction again instead of emulating it, with its page unprotected.

    Never an instruction that writes page tables, and not twice in a row.
    """
    last = vcpu.last_retry_rip, vcpu.last_retry_addr
    vcpu.last_retry_rip = vcpu.last_retry_addr = 0
    if not emulation_type & EMULTYPE_ALLOW_RETRY_PF or insn.op.writes_page_tables or last == (vcpu.rip, addr):
        return False
    vcpu.last_retry_rip = vcpu.rip
    vcpu.last_retry_addr = addr
    kvm_mmu_unprotect_gfn(vcpu.kvm, _write_gpa(vcpu, addr) >> 12)
    return True


def reexecute_instruction(vcpu: Vcpu, addr: int, emulation_type: int) -> bool:
    """Return whether to run an instruction again that cannot be emulated, with its page unprotected."""
    if not emulation_type & EMULTYPE_ALLOW_RETRY_PF:
        return False
    gpa = _write_gpa(vcpu, addr)
    if gpa == INVALID_PAGE:
        return True
    slot = vcpu.kvm.visible_memslot(gpa >> 12)
    if slot is None or write_page(slot, gpa >> 12) == INVALID_PAGE:
        return False
    kvm_mmu_unprotect_gfn(vcpu.kvm, gpa >> 12)
    return vcpu.mmu.direct() or not emulation_type & EMULTYPE_WRITE_PF_TO_SP
