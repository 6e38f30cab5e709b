"""Model-specific registers that the guest may write (kvm_set_msr_common, svm.c, mtrr.c, 6.12.111).

Only EFER, the APIC base and VM_HSAVE_PA have an effect here; of the others it is modelled which values KVM
accepts.
"""

from ...x86.bits import EFER_SVME
from ..state.vcpu import Vcpu
from .regs import set_efer

MSR_TSC = 0x10
MSR_APIC_BASE = 0x1B
MSR_PAT = 0x277
MSR_MTRR_DEF_TYPE = 0x2FF
MSR_MTRR_VARIABLE = range(0x200, 0x210)
MSR_MTRR_FIXED = (0x250, 0x258, 0x259, *range(0x268, 0x270))
MSR_EFER = 0xC0000080
MSR_VM_CR, MSR_VM_HSAVE_PA = 0xC0010114, 0xC0010117
MSR_HWCR = 0xC0010015
HWCR_IGNORED, HWCR_VALID = 0x148, 1 << 18 | 1 << 24
VM_CR_VALID, VM_CR_SVM_DISABLE = 0x1F, 0x10
SYSENTER_MSRS = (0x174, 0x175, 0x176)
SYSCALL_MSRS = (0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084)
MTRR_TYPES = (0, 1, 4, 5, 6)
APIC_ON, APIC_X2, APIC_MODE = 0x800, 0xC00, 0xC00
APIC_BASE_RESERVED = 0x2FF
PAT_TYPES = (0, 1, 4, 5, 6, 7)


def is_intercepted(index: int) -> bool:
    """Return whether WRMSR of a register exits; the processor switches those that do not."""
    return index not in SYSENTER_MSRS and index not in SYSCALL_MSRS


def _types(value: int) -> list[int]:
    """Return the eight bytes of a value, each a memory type, lowest first."""
    return [value >> 8 * i & 0xFF for i in range(8)]


def _is_valid_mtrr(vcpu: Vcpu, index: int, value: int) -> bool:
    """Return whether KVM accepts the value of an MTRR (kvm_mtrr_valid)."""
    if index == MSR_MTRR_DEF_TYPE:
        return not value & ~0xCFF and value & 0xFF in MTRR_TYPES
    if index in MSR_MTRR_FIXED:
        return all(kind in MTRR_TYPES for kind in _types(value))
    if value >> vcpu.maxphyaddr:
        return False
    return not value & 0x7FF if index & 1 else not value & 0xF00 and value & 0xFF in MTRR_TYPES


def _set_apic_base(vcpu: Vcpu, value: int) -> bool:
    """Set the APIC base: x2APIC mode is entered only from xAPIC, and left only to off (kvm_set_apic_base).
    Return whether the value is valid.
    """
    old, new = vcpu.apic_base & APIC_MODE, value & APIC_MODE
    if value & APIC_BASE_RESERVED or value >> vcpu.maxphyaddr or new == APIC_X2 & ~APIC_ON:
        return False
    if (old == APIC_X2 and new == APIC_ON) or (not old and new == APIC_X2):
        return False
    vcpu.apic_base = value
    return True


def _set_hsave(vcpu: Vcpu, value: int) -> bool:
    """Set the address where L1's state is kept while L2 runs; 0 makes VMRUN fail. Return whether the value is
    valid.
    """
    if value & 0xFFF or value >> vcpu.maxphyaddr:
        return False
    vcpu.hsave_msr = value
    return True


def set_msr(vcpu: Vcpu, index: int, value: int) -> bool:
    """Emulate WRMSR. Return False for #GP."""
    if index == MSR_EFER:
        return set_efer(vcpu, value)
    if index == MSR_PAT:
        return all(kind in PAT_TYPES for kind in _types(value))
    if index == MSR_MTRR_DEF_TYPE or index in MSR_MTRR_VARIABLE or index in MSR_MTRR_FIXED:
        return _is_valid_mtrr(vcpu, index, value)
    if index == MSR_APIC_BASE:
        return _set_apic_base(vcpu, value)
    if index in (MSR_TSC, MSR_HWCR):
        return index == MSR_TSC or not value & ~(HWCR_IGNORED | HWCR_VALID)
    if not vcpu.kvm.parameters.vmx:
        if index == MSR_VM_HSAVE_PA:
            return _set_hsave(vcpu, value)
        if index == MSR_VM_CR:
            return not value & ~VM_CR_VALID and not (value & VM_CR_SVM_DISABLE and vcpu.efer & EFER_SVME)
    return vcpu.kvm.parameters.ignore_msrs
