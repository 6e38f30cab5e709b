"""Splitting the huge pages of a slot before they are written to (kvm_mmu_try_split_huge_pages, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from .memslots import MemSlot
from .tdp.split import kvm_tdp_mmu_try_split_huge_pages
from .vm import Kvm


def kvm_mmu_try_split_huge_pages(
    kvm: Kvm, slot: MemSlot, start: u64, end: u64, target_level: u32, shared: u32
) -> None:
    """Split what maps pages [start, end) of a slot at a level above target_level. Only with the TDP MMU.

    `shared`: the TDP MMU's part is done with mmu_lock held for reading. No flush: the caller does one.
    """
    if kvm.tdp_mmu_enabled():
        kvm_tdp_mmu_try_split_huge_pages(kvm, start, end, target_level, shared)
