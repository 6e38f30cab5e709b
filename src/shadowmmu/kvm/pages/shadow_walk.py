"""The walk of the shadow tables for an address (shadow_walk_init, for_each_shadow_entry, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ..bits import PT32_ROOT_LEVEL
from ..state.mmu import KvmMmu
from ..state.vcpu import Vcpu
from .special_root import special_walk_level, special_walk_root
from .walk_start import pae_directory


def shadow_walk_root(vcpu: Vcpu, addr: u64) -> u64:
    """Return the address of the table where a walk of the shadow tables for addr starts; 0 if there is none.

    With a three-level shadow that is one of the four directories in pae_root, or the special page above them.
    """
    mmu: KvmMmu = vcpu.mmu
    if not mmu.root_is_special():
        return special_walk_root(vcpu) if vcpu.kvm.design.special_roots else mmu.root_hpa
    return pae_directory(vcpu.kvm, mmu, addr)


def shadow_walk_level(vcpu: Vcpu) -> u32:
    """Return the level of the table at shadow_walk_root."""
    if vcpu.mmu.root_is_special():
        return PT32_ROOT_LEVEL
    return special_walk_level(vcpu.mmu) if vcpu.kvm.design.special_roots else vcpu.mmu.shadow_level()


def shadow_walk_sptep(table: u64, addr: u64, level: u32) -> u64:
    """Return the address of the SPTE for addr in a table of `level`."""
    return table + ((addr >> (12 + 9 * (level - 1))) & 511) * 8
