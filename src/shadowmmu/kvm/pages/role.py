"""Roles: what distinguishes shadow pages of the same guest table (mmu.c, 6.12.111 and 7.3.4)."""

from ...x86.bits import (
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
from ...x86.paging import permission_bitmask, reserved_bits
from ..bits import (
    DEFECT_CR0_WP_SHARED,
    DEFECT_SMEP_SHARED,
    EXT_CR4_LA57,
    EXT_CR4_PKE,
    EXT_CR4_PSE,
    EXT_CR4_SMAP,
    EXT_CR4_SMEP,
    EXT_EFER_LMA,
    EXT_VALID,
    PT64_ROOT_4LEVEL,
    ROLE_4BYTE_GPTE,
    ROLE_ACCESS,
    ROLE_AD_DISABLED,
    ROLE_CR0_WP,
    ROLE_DIRECT,
    ROLE_EFER_NX,
    ROLE_GUEST_MODE,
    ROLE_LEVEL,
    ROLE_PASSTHROUGH,
    ROLE_SMAP_ANDNOT_WP,
    ROLE_SMEP,
)
from ..state.mmu import KvmMmu
from ..state.vcpu import Vcpu


def kvm_calc_cpu_role(
    cr0: int, cr4: int, efer: int, *, guest_mode: bool = False, has_smep: bool = False
) -> tuple[int, int]:
    """Return (base word, extended word) of the CPU role for these registers.

    SMEP counts in the base word with `has_smep`, else only where CR0.WP is clear.
    """
    common = ROLE_ACCESS | (ROLE_GUEST_MODE if guest_mode else 0)
    if not cr0 & CR0_PG:
        return common | ROLE_DIRECT, EXT_VALID
    long_mode = bool(efer & EFER_LMA)
    wp = bool(cr0 & CR0_WP)
    if long_mode:
        level = 5 if cr4 & CR4_LA57 else 4
    else:
        level = 3 if cr4 & CR4_PAE else 2
    base = common | level
    for bit, condition in (
        (ROLE_EFER_NX, efer & EFER_NX),
        (ROLE_CR0_WP, wp),
        (ROLE_SMEP, cr4 & CR4_SMEP and (has_smep or not wp)),
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
    """Return the root role of the shadow MMU: at least three levels, and NX forced on."""
    level = max(cpu_role & ROLE_LEVEL, 3)
    return (cpu_role & ~ROLE_LEVEL) | level | ROLE_EFER_NX


def kvm_mmu_get_tdp_level(vcpu: Vcpu) -> int:
    """Return the levels of the nested tables: on AMD those of the host's; of EPT five only if the guest needs
    them.
    """
    parameters = vcpu.kvm.parameters
    return 4 if parameters.vmx and vcpu.maxphyaddr <= 48 else parameters.tdp_level


def tdp_root_role(vcpu: Vcpu) -> int:
    """Return the root role of an MMU that maps guest-physical memory (kvm_calc_tdp_mmu_root_page_role)."""
    role = ROLE_ACCESS | ROLE_DIRECT | ROLE_CR0_WP | ROLE_EFER_NX | kvm_mmu_get_tdp_level(vcpu)
    role |= 0 if vcpu.kvm.ad_enabled else ROLE_AD_DISABLED
    if vcpu.kvm.mbec:
        role |= ROLE_SMEP
    return role | (ROLE_GUEST_MODE if vcpu.guest_mode else 0)


def nested_npt_root_role(cpu_role: int, tdp_level: int) -> int:
    """Return the root role of an MMU that shadows L1's nested tables.

    A level above the four of L1's tables shadows no table of L1: ROLE_PASSTHROUGH.
    """
    role = (cpu_role & ~ROLE_LEVEL) | tdp_level
    if tdp_level > PT64_ROOT_4LEVEL and cpu_role & ROLE_LEVEL == PT64_ROOT_4LEVEL:
        role |= ROLE_PASSTHROUGH
    return role


def _init_context(vcpu: Vcpu, mmu: KvmMmu, cpu_role: tuple[int, int], root_role: int) -> None:
    """Give an MMU its roles and the paging rules that follow; nothing changes if the roles do not."""
    base, extended = cpu_role
    if mmu.initialised and (base, extended, root_role) == (mmu.cpu_role, mmu.cpu_ext, mmu.root_role):
        return
    mmu.initialised = True
    mmu.cpu_role, mmu.cpu_ext, mmu.root_role = base, extended, root_role
    if not base & ROLE_LEVEL:
        return
    nx = bool(base & ROLE_EFER_NX)
    low, high = reserved_bits(
        base & ROLE_LEVEL,
        vcpu.maxphyaddr,
        nx=nx,
        pse=bool(extended & EXT_CR4_PSE),
        gbpages=True,
        amd=not vcpu.kvm.parameters.vmx,
    )
    permissions = permission_bitmask(
        wp=bool(base & ROLE_CR0_WP),
        nx=nx,
        smep=bool(extended & EXT_CR4_SMEP),
        smap=bool(extended & EXT_CR4_SMAP),
    )
    mmu.set_rules(permissions, low, high)


def _cpu_role(vcpu: Vcpu, cr0: int, cr4: int, efer: int) -> tuple[int, int]:
    has_smep = vcpu.kvm.design.role_has_smep != 0
    return kvm_calc_cpu_role(cr0, cr4, efer, guest_mode=vcpu.guest_mode, has_smep=has_smep)


def kvm_init_mmu(vcpu: Vcpu) -> None:
    """Compute the roles of the MMU whose tables the guest's registers describe."""
    cpu_role = _cpu_role(vcpu, vcpu.cr0, vcpu.cr4, vcpu.efer)
    if vcpu.mmu_is_nested():
        _init_context(vcpu, vcpu.nested_mmu, cpu_role, vcpu.nested_mmu.root_role)
    elif vcpu.kvm.parameters.tdp_enabled:
        _init_context(vcpu, vcpu.root_mmu, cpu_role, tdp_root_role(vcpu))
    else:
        role = shadow_root_role(cpu_role[0])
        if vcpu.kvm.design.defect == DEFECT_CR0_WP_SHARED:
            role |= ROLE_CR0_WP
        elif vcpu.kvm.design.defect == DEFECT_SMEP_SHARED:
            role &= ~ROLE_SMEP
        _init_context(vcpu, vcpu.root_mmu, cpu_role, role)


def kvm_init_shadow_npt_mmu(vcpu: Vcpu, cr4: int, efer: int) -> None:
    """Compute the roles of guest_mmu for nested tables in the format of L1's CR4 and EFER.

    Of CR0 only PG counts; since 7.3 WP counts as set, and L1's SMEP and SMAP no more.
    """
    if vcpu.kvm.design.nested_role_ignores_l1_cr4:
        base, extended = _cpu_role(vcpu, CR0_PG | CR0_WP, cr4 & ~(CR4_PKE | CR4_SMEP | CR4_SMAP), efer)
    else:
        base, extended = _cpu_role(vcpu, CR0_PG, cr4 & ~CR4_PKE, efer)
    root_role = nested_npt_root_role(base, vcpu.kvm.parameters.tdp_level)
    _init_context(vcpu, vcpu.guest_mmu, (base, extended), root_role)
