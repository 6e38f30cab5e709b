"""Writes of the guest to the registers that control paging (kvm_set_cr0, kvm_set_cr3, kvm_set_cr4, set_efer;
6.12.111).

The functions return whether the value is accepted; if not the guest gets #GP.
"""

from ...x86.bits import (
    CR0_CD,
    CR0_ET,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
    EFER_SCE,
    PCID_MASK,
)
from ..bits import (
    DEFECT_CR3_UNSYNCED,
    DEFECT_PCID_ROOTS_KEPT,
    DEFECT_PDPTRS_STALE,
    NUM_PREV_ROOTS,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_SYNC,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TLB_FLUSH_GUEST,
)
from ..guest_access.pdptrs import read_pdptrs
from ..pages.role import kvm_init_mmu
from ..pages.roots import kvm_mmu_free_roots, kvm_mmu_new_pgd, kvm_mmu_reset_context, kvm_mmu_unload
from ..state.vcpu import Vcpu

CR0_ROLE_BITS = CR0_PG | CR0_WP
CR4_ROLE_BITS = CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE
EFER_ROLE_BITS = EFER_LME | EFER_NX
CR0_PDPTR_BITS = CR0_CD | CR0_NW | CR0_PG
CR4_PDPTR_BITS = CR4_PGE | CR4_PSE | CR4_PAE | CR4_SMEP
CR0_RESERVED = ~0xE005003F
CR4_KNOWN = 0x3F1FFF
"""CR4 bits that a guest may set; PKE needs two-dimensional paging."""
CR3_NOFLUSH = 1 << 63
EFER_FFXSR = 1 << 14
EFER_KNOWN = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX | 1 << 12 | 1 << 13 | EFER_FFXSR
EFER_KNOWN_INTEL = EFER_SCE | EFER_LME | EFER_LMA | EFER_NX


def load_pdptrs(vcpu: Vcpu, cr3: int) -> bool:
    """Load the four PDPTEs at CR3; if one changed, free the current root. Return False if one is
    not valid.
    """
    pdptrs = read_pdptrs(vcpu, cr3)
    if pdptrs is None:
        return False
    mmu = vcpu.root_mmu
    changed = pdptrs != [mmu.pdptr(i) for i in range(4)]
    if changed and not vcpu.kvm.parameters.tdp_enabled and vcpu.kvm.design.defect != DEFECT_PDPTRS_STALE:
        kvm_mmu_free_roots(vcpu.kvm, mmu, 1)
    mmu.set_pdptrs(pdptrs)
    if vcpu.kvm.ept:
        vcpu.cpu.walker.set_pdptes(pdptrs)
    vcpu.make_request(REQ_LOAD_MMU_PGD)
    return True


def _is_valid_cr0(cr0: int) -> bool:
    """Return whether the processor allows the combination of bits."""
    if cr0 >> 32 or (cr0 & CR0_NW and not cr0 & CR0_CD):
        return False
    return not cr0 & CR0_PG or bool(cr0 & CR0_PE)


def _store_cr0(vcpu: Vcpu, cr0: int) -> None:
    """Store CR0; with EFER.LME, switching paging on and off sets and clears EFER.LMA (svm_set_cr0)."""
    if vcpu.efer & EFER_LME and bool(cr0 & CR0_PG) != vcpu.is_paging():
        vcpu.efer ^= EFER_LMA
    vcpu.cr0 = cr0


def kvm_set_cr0(vcpu: Vcpu, value: int) -> bool:
    """Write CR0: PG with EFER.LME enters and leaves long mode, PG and WP are part of the role."""
    old = vcpu.cr0
    cr0 = (old & ~0xFFFFFFFF) | (value & 0xFFFFFFFF)
    if not _is_valid_cr0(cr0):
        return False
    cr0 = (cr0 | CR0_ET) & ~CR0_RESERVED
    if vcpu.efer & EFER_LME and not vcpu.is_paging() and cr0 & CR0_PG and not vcpu.is_pae():
        return False
    pae = not vcpu.efer & EFER_LME and cr0 & CR0_PG and vcpu.is_pae()
    if pae and (cr0 ^ old) & CR0_PDPTR_BITS and not load_pdptrs(vcpu, vcpu.cr3):
        return False
    if not cr0 & CR0_PG and (vcpu.is_64_bit_mode() or vcpu.cr4 & CR4_PCIDE):
        return False
    _store_cr0(vcpu, cr0)
    only_wp = cr0 ^ old == CR0_WP
    if only_wp and vcpu.kvm.parameters.tdp_enabled:
        kvm_init_mmu(vcpu)
        return True
    if only_wp and not cr0 & CR0_PG and not vcpu.kvm.design.cr0_wp_resets_without_paging:
        return True
    if (cr0 ^ old) & CR0_PG and not cr0 & CR0_PG:
        vcpu.make_request(REQ_TLB_FLUSH_GUEST)
    if (cr0 ^ old) & CR0_ROLE_BITS:
        kvm_mmu_reset_context(vcpu)
    return True


def active_pcid(vcpu: Vcpu) -> int:
    """Return the PCID in the guest's CR3, 0 without CR4.PCIDE (kvm_get_active_pcid)."""
    return vcpu.cr3 & PCID_MASK if vcpu.cr4 & CR4_PCIDE else 0


def kvm_invalidate_pcid(vcpu: Vcpu, pcid: int) -> None:
    """Flush one PCID: the active one by requests, others by freeing their roots.

    With two-dimensional paging a flush of the guest's translations suffices.
    """
    if vcpu.kvm.parameters.tdp_enabled:
        vcpu.make_request(REQ_TLB_FLUSH_GUEST)
        return
    if active_pcid(vcpu) == pcid:
        if vcpu.kvm.design.defect != DEFECT_CR3_UNSYNCED:
            vcpu.make_request(REQ_MMU_SYNC)
        vcpu.make_request(REQ_TLB_FLUSH_CURRENT)
    if not vcpu.cr4 & CR4_PCIDE or vcpu.kvm.design.defect == DEFECT_PCID_ROOTS_KEPT:
        return
    roots = 0
    for i in range(NUM_PREV_ROOTS):
        if vcpu.mmu.prev_root(i)[0] & PCID_MASK == pcid:
            roots |= 2 << i
    kvm_mmu_free_roots(vcpu.kvm, vcpu.mmu, roots)


def kvm_set_cr3(vcpu: Vcpu, cr3: int) -> bool:
    """Write CR3: switch the root if the value changes, and flush unless bit 63 forbids it with CR4.PCIDE."""
    pcid, flush = 0, True
    if vcpu.cr4 & CR4_PCIDE:
        flush = not cr3 & CR3_NOFLUSH
        cr3 &= ~CR3_NOFLUSH
        pcid = cr3 & PCID_MASK
    if cr3 != vcpu.cr3 or vcpu.is_pae_paging():
        if cr3 >> vcpu.maxphyaddr:
            return False
        if vcpu.is_pae_paging() and not load_pdptrs(vcpu, cr3):
            return False
        if cr3 != vcpu.cr3:
            kvm_mmu_new_pgd(vcpu, cr3)
        vcpu.cr3 = cr3
    if flush:
        kvm_invalidate_pcid(vcpu, pcid)
    return True


def _is_valid_cr4_change(vcpu: Vcpu, cr4: int) -> bool:
    """Return whether the guest may change CR4 so; it loads the PDPTEs if the change requires it."""
    old = vcpu.cr4
    if cr4 & ~CR4_KNOWN or cr4 & vcpu.cr4_missing:
        return False
    if vcpu.is_long_mode():
        if not cr4 & CR4_PAE or (cr4 ^ old) & CR4_LA57:
            return False
    elif (
        vcpu.is_paging()
        and cr4 & CR4_PAE
        and (cr4 ^ old) & CR4_PDPTR_BITS
        and not load_pdptrs(vcpu, vcpu.cr3)
    ):
        return False
    enabling_pcid = cr4 & CR4_PCIDE and not old & CR4_PCIDE
    return not enabling_pcid or (not vcpu.cr3 & PCID_MASK and vcpu.is_long_mode())


def kvm_set_cr4(vcpu: Vcpu, value: int) -> bool:
    """Write CR4: reset the MMU if a bit of the role changes, and make the flush that other bits require."""
    old = vcpu.cr4
    cr4 = (old & ~0xFFFFFFFF) | (value & 0xFFFFFFFF)
    if not _is_valid_cr4_change(vcpu, cr4):
        return False
    vcpu.cr4 = cr4
    if (cr4 ^ old) & CR4_ROLE_BITS:
        kvm_mmu_reset_context(vcpu)
    if cr4 & CR4_PCIDE and not old & CR4_PCIDE and not vcpu.kvm.parameters.tdp_enabled:
        kvm_mmu_unload(vcpu)
    if (cr4 ^ old) & CR4_PGE or (old & CR4_PCIDE and not cr4 & CR4_PCIDE):
        vcpu.make_request(REQ_TLB_FLUSH_GUEST)
    elif (cr4 ^ old) & CR4_PAE or (cr4 & CR4_SMEP and not old & CR4_SMEP):
        vcpu.make_request(REQ_TLB_FLUSH_CURRENT)
    return True


def set_efer(vcpu: Vcpu, efer: int) -> bool:
    """Write EFER. LMA keeps its value."""
    old = vcpu.efer
    if (
        efer & ~(EFER_KNOWN_INTEL if vcpu.kvm.parameters.vmx else EFER_KNOWN)
        or efer & EFER_FFXSR & vcpu.efer_missing
        or (vcpu.is_paging() and (efer ^ old) & EFER_LME)
    ):
        return False
    vcpu.efer = (efer & ~EFER_LMA) | (old & EFER_LMA)
    if (vcpu.efer ^ old) & EFER_ROLE_BITS:
        kvm_mmu_reset_context(vcpu)
    return True


def kvm_vcpu_reset(vcpu: Vcpu) -> None:
    """Reset the vCPU as INIT does: real mode, nothing pending. What runs then is not modelled."""
    paging = vcpu.is_paging()
    vcpu.cr0 = CR0_CD | CR0_NW | CR0_ET
    vcpu.cr2 = vcpu.cr3 = vcpu.cr4 = vcpu.efer = 0
    vcpu.rip = 0xFFF0
    vcpu.exception = None
    vcpu.soft_interrupt = None
    if paging:
        vcpu.make_request(REQ_TLB_FLUSH_GUEST)
        kvm_mmu_reset_context(vcpu)


def set_sregs(vcpu: Vcpu, cr0: int, cr3: int, cr4: int, efer: int, *, code_64bit: bool = False) -> bool:
    """Set registers from user space (KVM_SET_SREGS). Return False for values that do not go together
    (EINVAL).

    code_64bit: the code segment is one of 64-bit mode (CS.L).
    """
    if efer & EFER_LME and cr0 & CR0_PG:
        if not cr4 & CR4_PAE or not efer & EFER_LMA or cr3 >> vcpu.maxphyaddr:
            return False
    elif efer & EFER_LMA or code_64bit:
        return False
    if cr4 & ~CR4_KNOWN or cr4 & vcpu.cr4_missing or not _is_valid_cr0(cr0):
        return False
    reset = (cr3, efer, cr0, cr4) != (vcpu.cr3, vcpu.efer, vcpu.cr0, vcpu.cr4)
    vcpu.cr3, vcpu.efer, vcpu.cr4 = cr3, efer, cr4
    vcpu.cr0 = cr0
    if vcpu.is_pae_paging():
        load_pdptrs(vcpu, cr3)
        reset = True
    if reset:
        kvm_mmu_reset_context(vcpu)
        if vcpu.kvm.design.set_sregs_flushes:
            vcpu.make_request(REQ_TLB_FLUSH_GUEST)
    return True
