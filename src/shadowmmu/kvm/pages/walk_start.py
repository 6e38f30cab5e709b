"""The table where a walk of shadow tables starts."""

from cython import ulonglong as u64

from ...x86.bits import ADDR, P
from ..bits import INVALID_PAGE
from ..state.mmu import KvmMmu
from ..state.vm import Kvm


def pae_directory(kvm: Kvm, mmu: KvmMmu, addr: u64) -> u64:
    """Return the page directory for addr of a three-level shadow, one of the four in pae_root; 0 if there is
    none.
    """
    entry: u64 = kvm.words[(mmu.pae_root >> 3) + ((addr >> 30) & 3)]
    return entry & ADDR if entry & P else 0


def first_table(kvm: Kvm, mmu: KvmMmu, addr: u64, root_hpa: u64) -> u64:
    """Return the first shadow page's table on the way to addr from a current or previous root; 0 if there is
    none.
    """
    if root_hpa == INVALID_PAGE:
        return 0
    return pae_directory(kvm, mmu, addr) if root_hpa == mmu.special_root() else root_hpa
