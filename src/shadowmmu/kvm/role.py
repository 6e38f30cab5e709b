"""Roles: what makes two shadow pages of the same guest table different (arch/x86/kvm/mmu/mmu.c, 6.12.111)."""

from ..x86.bits import (
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NX,
)
from ..x86.paging import permission_bitmask, reserved_bits
from .bits import (
    EXT_CR4_LA57,
    EXT_CR4_PKE,
    EXT_CR4_PSE,
    EXT_CR4_SMAP,
    EXT_CR4_SMEP,
    EXT_EFER_LMA,
    EXT_VALID,
    ROLE_4BYTE_GPTE,
    ROLE_ACCESS,
    ROLE_CR0_WP,
    ROLE_DIRECT,
    ROLE_EFER_NX,
    ROLE_LEVEL,
    ROLE_SMAP_ANDNOT_WP,
    ROLE_SMEP_ANDNOT_WP,
)
from .vcpu import Vcpu


def kvm_calc_cpu_role(cr0: int, cr4: int, efer: int) -> tuple[int, int]:
    """(base word, extended word) of the CPU role for these registers."""
    if not cr0 & CR0_PG:
        return ROLE_ACCESS | ROLE_DIRECT, EXT_VALID
    long_mode = bool(efer & EFER_LMA)
    wp = bool(cr0 & CR0_WP)
    if long_mode:
        level = 5 if cr4 & CR4_LA57 else 4
    else:
        level = 3 if cr4 & CR4_PAE else 2
    base = ROLE_ACCESS | level
    for bit, condition in (
        (ROLE_EFER_NX, efer & EFER_NX),
        (ROLE_CR0_WP, wp),
        (ROLE_SMEP_ANDNOT_WP, cr4 & CR4_SMEP and not wp),
        (ROLE_SMAP_ANDNOT_WP, cr4 & CR4_SMAP and not wp),
        (ROLE_4BYTE_GPTE, not cr4 & CR4_PAE),
    ):
        if condition:
            base |= bit
    extended = EXT_VALID
    for bit, condition in (
        (EXT_CR4_PSE, cr4 & CR4_PSE),
        (EXT_CR4_SMEP, cr4 & CR4_SMEP),
        (EXT_CR4_SMAP, cr4 & CR4_SMAP),
        (EXT_CR4_PKE, long_mode and cr4 & CR4_PKE),
        (EXT_CR4_LA57, long_mode and cr4 & CR4_LA57),
        (EXT_EFER_LMA, long_mode),
    ):
        if condition:
            extended |= bit
    return base, extended


def shadow_root_role(cpu_role: int) -> int:
    """The root role of the shadow MMU: at least three levels, and NX forced on."""
    level = max(cpu_role & ROLE_LEVEL, 3)
    return (cpu_role & ~ROLE_LEVEL) | level | ROLE_EFER_NX


def kvm_init_mmu(vcpu: Vcpu) -> None:
    """Compute both roles and their rules; nothing changes if the roles do not (init_kvm_softmmu)."""
    mmu = vcpu.mmu
    base, extended = kvm_calc_cpu_role(vcpu.cr0, vcpu.cr4, vcpu.efer)
    root = shadow_root_role(base)
    if mmu.initialised and (base, extended, root) == (mmu.cpu_role, mmu.cpu_ext, mmu.root_role):
        return
    mmu.initialised = True
    mmu.cpu_role, mmu.cpu_ext, mmu.root_role = base, extended, root
    if not base & ROLE_LEVEL:
        return
    nx = bool(base & ROLE_EFER_NX)
    low, high = reserved_bits(
        base & ROLE_LEVEL,
        vcpu.maxphyaddr,
        nx=nx,
        pse=bool(extended & EXT_CR4_PSE),
        gbpages=True,
        amd=True,
    )
    permissions = permission_bitmask(
        wp=bool(base & ROLE_CR0_WP),
        nx=nx,
        smep=bool(extended & EXT_CR4_SMEP),
        smap=bool(extended & EXT_CR4_SMAP),
    )
    mmu.set_rules(permissions, low, high)
