"""INVLPG of the guest (kvm_mmu_invlpg, 6.12.111)."""

from .bits import NUM_PREV_ROOTS
from .sync import sync_on_invlpg
from .vcpu import Vcpu

HOST_VIRTUAL_BITS = 48


def is_noncanonical(vcpu: Vcpu, addr: int) -> bool:
    """Whether no linear address of the guest looks like that."""
    bits = HOST_VIRTUAL_BITS if vcpu.mmu.guest_level() < 5 else 57
    top = addr >> (bits - 1)
    return top not in (0, (1 << (65 - bits)) - 1)


def kvm_mmu_invalidate_addr(vcpu: Vcpu, addr: int) -> None:
    """Flush one address and sync its SPTE, for the current and all previous roots."""
    vcpu.cpu.flush_gva(addr)
    if vcpu.mmu.direct():
        return
    sync_on_invlpg(vcpu, addr, vcpu.mmu.root_hpa)
    for i in range(NUM_PREV_ROOTS):
        sync_on_invlpg(vcpu, addr, vcpu.mmu.prev_root(i)[1])


def kvm_mmu_invlpg(vcpu: Vcpu, addr: int) -> None:
    """The instruction itself, which counts."""
    kvm_mmu_invalidate_addr(vcpu, addr)
    vcpu.stat.invlpg += 1
