"""Dropping what is cached for one address: INVLPG, and a permission fault that goes to the guest.

Kernels differ in what happens to the SPTE of an unsync page: 6.12 syncs it in place (sync_on_invlpg), 6.1
zaps it and maps the gpte anew (invlpg_zap).
"""

from .bits import INVALID_PAGE, NUM_PREV_ROOTS
from .invlpg_zap import zap_on_invlpg
from .sync import sync_on_invlpg
from .vcpu import Vcpu

HOST_VIRTUAL_BITS = 48


def is_noncanonical(vcpu: Vcpu, addr: int) -> bool:
    """Whether no linear address of the guest looks like that."""
    bits = HOST_VIRTUAL_BITS if vcpu.mmu.guest_level() < 5 else 57
    top = addr >> (bits - 1)
    return top not in (0, (1 << (65 - bits)) - 1)


def invalidate_addr_in_root(vcpu: Vcpu, addr: int, root_hpa: int) -> None:
    """Bring the SPTE for addr below one root up to date; nothing for a direct MMU."""
    if vcpu.mmu.direct():
        return
    if vcpu.kvm.design.invlpg_zaps:
        zap_on_invlpg(vcpu, addr, root_hpa)
    else:
        sync_on_invlpg(vcpu, addr, root_hpa)


def invalidate_addr_in_current_root(vcpu: Vcpu, addr: int) -> None:
    """Flush one address and bring its SPTE up to date, for the current root only."""
    vcpu.cpu.flush_gva(addr)
    invalidate_addr_in_root(vcpu, addr, vcpu.mmu.root_hpa)


def kvm_mmu_invalidate_addr(vcpu: Vcpu, addr: int) -> None:
    """The same for the current and all previous roots (6.12.111; kvm_mmu_invalidate_gva, 6.1.176)."""
    invalidate_addr_in_current_root(vcpu, addr)
    for i in range(NUM_PREV_ROOTS):
        root_hpa = vcpu.mmu.prev_root(i)[1]
        if root_hpa != INVALID_PAGE:
            invalidate_addr_in_root(vcpu, addr, root_hpa)


def kvm_mmu_invlpg(vcpu: Vcpu, addr: int) -> None:
    """The instruction itself, which counts."""
    kvm_mmu_invalidate_addr(vcpu, addr)
    vcpu.stat.invlpg += 1
