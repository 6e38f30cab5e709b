"""Invalidating one address: INVLPG, and a permission fault that the guest gets.

Kernels differ in what happens to the SPTE of an unsync page: 6.12 syncs it in place (sync_on_invlpg), 6.1
zaps it and maps the gpte again (invlpg_zap).
"""

from ..bits import DEFECT_INVLPG_CURRENT_ROOT, INVALID_PAGE, NUM_PREV_ROOTS
from ..map.invlpg_zap import zap_on_invlpg
from ..pages.sync import sync_on_invlpg
from ..state.mmu import KvmMmu
from ..state.vcpu import Vcpu

HOST_VIRTUAL_BITS = 48


def is_noncanonical(vcpu: Vcpu, addr: int) -> bool:
    """Return whether addr is not a linear address of the guest: its upper bits differ."""
    bits = HOST_VIRTUAL_BITS if vcpu.walk_mmu.guest_level() < 5 else 57
    top = addr >> (bits - 1)
    return top not in (0, (1 << (65 - bits)) - 1)


def invalidate_addr_in_root(vcpu: Vcpu, mmu: KvmMmu, addr: int, root_hpa: int) -> None:
    """Sync the SPTE of an address in one root, or zap it by design (__kvm_mmu_invalidate_addr)."""
    if vcpu.kvm.design.invlpg_zaps:
        zap_on_invlpg(vcpu, mmu, addr, root_hpa)
    else:
        sync_on_invlpg(vcpu, mmu, addr, root_hpa)


def kvm_mmu_invalidate_addr(vcpu: Vcpu, mmu: KvmMmu, addr: int, *, prev_roots: bool) -> None:
    """Flush one address and sync its SPTE in the current root, with prev_roots in all previous ones too.

    The TLB holds no translations of L2 addresses, so nothing is flushed for them. 6.12.111, and
    kvm_mmu_invalidate_gva of 6.1.176.
    """
    if mmu is not vcpu.guest_mmu:
        vcpu.cpu.flush_gva(addr)
    if mmu.direct():
        return
    invalidate_addr_in_root(vcpu, mmu, addr, mmu.root_hpa)
    if prev_roots and vcpu.kvm.design.defect != DEFECT_INVLPG_CURRENT_ROOT:
        for i in range(NUM_PREV_ROOTS):
            root_hpa = mmu.prev_root(i)[1]
            if root_hpa != INVALID_PAGE:
                invalidate_addr_in_root(vcpu, mmu, addr, root_hpa)


def kvm_mmu_invlpg(vcpu: Vcpu, addr: int) -> None:
    """Emulate INVLPG: invalidate the address in all roots, and count it."""
    kvm_mmu_invalidate_addr(vcpu, vcpu.walk_mmu, addr, prev_roots=True)
    vcpu.stat.invlpg += 1
