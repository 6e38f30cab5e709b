"""Atomic operations on an SPTE: each is one indivisible step, for code that changes SPTEs without mmu_lock or
with mmu_lock held for reading only.
"""

from cython import ulonglong as u64

from ..state.vm import Kvm
from .split_spte import SpteWrite


def cmpxchg64(kvm: Kvm, sptep: u64, old: u64, new: u64) -> u64:
    """Store `new` if the SPTE at sptep is `old`. Return what it was; the store happened if that is `old`."""
    seen: u64 = kvm.words[sptep >> 3]
    if seen == old:
        kvm.words[sptep >> 3] = new
    return seen


def xchg64(kvm: Kvm, sptep: u64, new: u64) -> u64:
    """Store `new` in the SPTE at sptep. Return what it was."""
    seen: u64 = kvm.words[sptep >> 3]
    kvm.words[sptep >> 3] = new
    return seen


def fetch_andnot64(kvm: Kvm, sptep: u64, bits: u64) -> u64:
    """Clear `bits` in the SPTE at sptep. Return what it was."""
    seen: u64 = kvm.words[sptep >> 3]
    kvm.words[sptep >> 3] = seen & ~bits
    return seen


def write_in_halves(kvm: Kvm, sptep: u64, new: u64) -> u64:
    """Store `new` as a host without 64-bit stores does, without another access in between. Return `new`."""
    write = SpteWrite(kvm, sptep, new)
    while write.step():
        pass
    return new
