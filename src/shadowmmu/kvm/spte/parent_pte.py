"""The SPTEs that point to a shadow page: adding and removing one, in two encodings.

Kernels since 3.1 keep them in the tagged word `parent_ptes`, as every reverse map (rmap.py). Before, a page
had a single `parent_pte`, or with its flag `multimapped` set a chain of blocks of five (struct
kvm_pte_chain, mmu_page_add_parent_pte, mmu_page_remove_parent_pte, arch/x86/kvm/mmu.c, 2.6.37). Both are in
ShadowPage.parent_ptes here; a block is a descriptor of rmap.py of which five places are used.
"""

from cython import ulonglong as u64

from ..bits import PTE_CHAIN_EXT
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from .rmap import alloc_desc, free_desc, pte_list_add, pte_list_remove


def mmu_page_add_parent_pte(kvm: Kvm, sp: ShadowPage, sptep: u64) -> None:
    """Record that the SPTE at sptep points to `sp`."""
    if kvm.design.multimapped:
        _add_to_chain(kvm, sp, sptep)
    else:
        sp.parent_ptes = pte_list_add(kvm, sp.parent_ptes, sptep)


def mmu_page_remove_parent_pte(kvm: Kvm, sp: ShadowPage, sptep: u64) -> None:
    """Remove the record that the SPTE at sptep points to `sp`. Raises LookupError if there is none."""
    if sp.multimapped:
        _remove_from_chain(kvm, sp, sptep)
    else:
        sp.parent_ptes = pte_list_remove(kvm, sp.parent_ptes, sptep)


def _add_to_chain(kvm: Kvm, sp: ShadowPage, sptep: u64) -> None:
    """Add a parent to the first block of the chain with room, or to a new first block."""
    if not sp.parent_ptes:
        sp.parent_ptes = sptep
        return
    if not sp.multimapped:
        sp.parent_ptes = _block(kvm, 0, sp.parent_ptes)
        sp.multimapped = True
    block: u64 = sp.parent_ptes
    while block:
        count: u64 = kvm.words[(block >> 3) + 1]
        if count < PTE_CHAIN_EXT:
            kvm.words[(block >> 3) + 2 + count] = sptep
            kvm.words[(block >> 3) + 1] = count + 1
            return
        block = kvm.words[block >> 3]
    sp.parent_ptes = _block(kvm, sp.parent_ptes, sptep)


def _block(kvm: Kvm, more: u64, sptep: u64) -> u64:
    """Return the address of a new block with one parent, linked before block `more`."""
    block: u64 = alloc_desc(kvm)
    kvm.words[block >> 3] = more
    kvm.words[(block >> 3) + 1] = 1
    kvm.words[(block >> 3) + 2] = sptep
    return block


def _remove_from_chain(kvm: Kvm, sp: ShadowPage, sptep: u64) -> None:
    """Remove a parent and move up those after it in its block. A page stays multimapped until it has none
    left.
    """
    before: u64 = 0
    block: u64 = sp.parent_ptes
    while block:
        count: u64 = kvm.words[(block >> 3) + 1]
        first: u64 = (block >> 3) + 2
        i: u64
        for i in range(count):
            if kvm.words[first + i] == sptep:
                _remove_from_block(kvm, block, i)
                if count == 1:
                    _unlink_block(kvm, sp, before, block)
                return
        before = block
        block = kvm.words[block >> 3]
    raise LookupError(f"no parent of {sp!r} is at {sptep:#x}")


def _remove_from_block(kvm: Kvm, block: u64, hole: u64) -> None:
    """Remove parent number `hole` of a block."""
    last: u64 = kvm.words[(block >> 3) + 1] - 1
    i: u64
    for i in range(hole, last):
        kvm.words[(block >> 3) + 2 + i] = kvm.words[(block >> 3) + 3 + i]
    kvm.words[(block >> 3) + 1] = last


def _unlink_block(kvm: Kvm, sp: ShadowPage, before: u64, block: u64) -> None:
    """Free an empty block of the chain; `before` is the block before it, 0 if it is the first."""
    more: u64 = kvm.words[block >> 3]
    free_desc(kvm, block)
    if before:
        kvm.words[before >> 3] = more
    else:
        sp.parent_ptes = more
        sp.multimapped = more != 0
