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
    """The SPTE at sptep points to `sp` now."""
    if kvm.design.multimapped:
        _add_to_chain(kvm, sp, sptep)
    else:
        sp.parent_ptes = pte_list_add(kvm, sp.parent_ptes, sptep)


def mmu_page_remove_parent_pte(kvm: Kvm, sp: ShadowPage, sptep: u64) -> None:
    """The SPTE at sptep does not point to `sp` any more. Raises LookupError if it never did."""
    if sp.multimapped:
        _remove_from_chain(kvm, sp, sptep)
    else:
        sp.parent_ptes = pte_list_remove(kvm, sp.parent_ptes, sptep)


def _add_to_chain(kvm: Kvm, sp: ShadowPage, sptep: u64) -> None:
    """Blocks are filled in the order of the chain; a new one comes in front."""
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
    """A new block with one parent, before block `more`."""
    block: u64 = alloc_desc(kvm)
    kvm.words[block >> 3] = more
    kvm.words[(block >> 3) + 1] = 1
    kvm.words[(block >> 3) + 2] = sptep
    return block


def _remove_from_chain(kvm: Kvm, sp: ShadowPage, sptep: u64) -> None:
    """The parents behind it in its block move up. Only a page with none left is not multimapped any more."""
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
    last: u64 = kvm.words[(block >> 3) + 1] - 1
    i: u64
    for i in range(hole, last):
        kvm.words[(block >> 3) + 2 + i] = kvm.words[(block >> 3) + 3 + i]
    kvm.words[(block >> 3) + 1] = last


def _unlink_block(kvm: Kvm, sp: ShadowPage, before: u64, block: u64) -> None:
    more: u64 = kvm.words[block >> 3]
    free_desc(kvm, block)
    if before:
        kvm.words[before >> 3] = more
    else:
        sp.parent_ptes = more
        sp.multimapped = more != 0
