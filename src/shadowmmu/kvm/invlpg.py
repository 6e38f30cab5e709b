"""INVLPG of the guest (kvm_mmu_invlpg, 6.12.111)."""

from .bits import NUM_PREV_ROOTS
from .mmu import KvmMmu
from .sync import sync_on_invlpg
from .vcpu import Vcpu

HOST_VIRTUAL_BITS = 48


def is_noncanonical(vcpu: Vcpu, addr: int) -> bool:
    """Whether no linear address of the guest looks like that."""
    bits = HOST_VIRTUAL_BITS if vcpu.walk_mmu.guest_level() < 5 else 57
    top = addr >> (bits - 1)
    return top not in (0, (1 << (65 - bits)) - 1)


def kvm_mmu_invalidate_addr(vcpu: Vcpu, mmu: KvmMmu, addr: int, *, prev_roots: bool) -> None:
    """Flush one address and sync its SPTE, for the current and perhaps all previous roots of an MMU.

    An address of L2's memory is none that the processor has translations for.
    """
    if mmu is not vcpu.guest_mmu:
        vcpu.cpu.flush_gva(addr)
    if mmu.direct():
        return
    sync_on_invlpg(vcpu, mmu, addr, mmu.root_hpa)
    if prev_roots:
        for i in range(NUM_PREV_ROOTS):
            sync_on_invlpg(vcpu, mmu, addr, mmu.prev_root(i)[1])


def kvm_mmu_invlpg(vcpu: Vcpu, addr: int) -> None:
    """The instruction itself, which counts."""
    kvm_mmu_invalidate_addr(vcpu, vcpu.walk_mmu, addr, prev_roots=True)
    vcpu.stat.invlpg += 1
