"""The four PDPTEs of a PAE guest, which the processor loads at MOV to CR3 (load_pdptrs, x86.c, 6.12.111)."""

from ...x86.bits import ADDR, P
from ..bits import REQ_LOAD_MMU_PGD
from ..state.mmu import KvmMmu
from ..state.vcpu import Vcpu
from .guest_memory import read_guest


def read_pdptrs(vcpu: Vcpu, cr3: int) -> list[int] | None:
    """Return the PDPTEs that are in memory at CR3; None if one cannot be read or has a reserved bit."""
    base = cr3 & ~31 & 0xFFFFFFFF
    values = [read_guest(vcpu.kvm, base + 8 * i, 8) for i in range(4)]
    reserved = ADDR & ~((1 << vcpu.maxphyaddr) - 1) | 0xFFF << 52 | 0x1E6
    pdptrs = [value for value in values if value is not None]
    if len(pdptrs) != 4 or any(value & P and value & reserved for value in pdptrs):
        return None
    return pdptrs


def refresh_pdptrs(vcpu: Vcpu, mmu: KvmMmu) -> None:
    """Load the PDPTEs at CR3 into `mmu`, or keep the old ones if they are not valid.

    With two-dimensional paging MOV to CR3 does not exit, so KVM reads them when it needs them. An Intel
    processor has them in registers, which KVM reads from the VMCS (ept_save_pdptrs).
    """
    if vcpu.kvm.parameters.vmx:
        mmu.set_pdptrs(list(vcpu.cpu.walker.pdptes))
        return
    pdptrs = read_pdptrs(vcpu, vcpu.cr3)
    if pdptrs is not None:
        mmu.set_pdptrs(pdptrs)
        vcpu.make_request(REQ_LOAD_MMU_PGD)
