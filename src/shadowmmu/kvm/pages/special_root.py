"""Special roots as shadow pages, allocated for one vCPU each (the design of mail 004 that was not merged).

A special root is above the levels that the guest has tables for: the PAE root of a guest with fewer than four
levels, or without paging, and the levels above it where the shadow has more. Merged kernels keep bare tables
there and link the four directories while they load the root (roots.py). With `special_roots` at one_off these
are ordinary pages, but on no list and not in the hash, not counted as used, and freed with the root. A fault
makes the directory that it needs, a child like all others.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR, P
from ..bits import INVALID_PAGE, PT32E_ROOT_LEVEL, SPTE_MMU_PRESENT
from ..guest_access.guest_walk import get_pdptr
from ..state.fault import GuestWalker
from ..state.mmu import KvmMmu
from ..state.shadow_page import ShadowPage
from ..state.table import clear_table
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .get_page import link_shadow_page
from .zap import drop_parent_pte


def using_special_root(mmu: KvmMmu) -> bool:
    """Return whether the root of an MMU is above all the guest's tables."""
    if mmu.direct():
        return mmu.shadow_level() == PT32E_ROOT_LEVEL
    return mmu.guest_level() <= PT32E_ROOT_LEVEL


def _alloc_special_page(vcpu: Vcpu, role: u32) -> ShadowPage:
    """Return a new, empty special page."""
    spt: u64 = vcpu.shadow_page_cache.take()
    clear_table(vcpu.kvm, spt)
    sp: ShadowPage = ShadowPage(0, role, spt, 0)
    sp.special = True
    sp.mmu_valid_gen = vcpu.kvm.mmu_valid_gen
    vcpu.kvm.set_owner(spt, sp)
    return sp


def alloc_special_root(vcpu: Vcpu) -> u64:
    """Return the hpa of a root without directories: a special page for each level down to 3, linked at entry
    0.
    """
    root: ShadowPage = _alloc_special_page(vcpu, vcpu.mmu.root_role)
    root.root_count = 1
    sp: ShadowPage = root
    while sp.level() > PT32E_ROOT_LEVEL:
        child: ShadowPage = _alloc_special_page(vcpu, sp.role - 1)
        link_shadow_page(vcpu.kvm, sp.spt, child)
        sp = child
    return root.spt


def free_special_root(kvm: Kvm, sp: ShadowPage) -> None:
    """Unlink the directories, which stay in the hash, and free the special pages."""
    i: u64
    for i in range(512):
        spte: u64 = kvm.words[(sp.spt >> 3) + i]
        if spte & SPTE_MMU_PRESENT:
            child: ShadowPage = kvm.sptep_to_sp(spte & ADDR)
            drop_parent_pte(kvm, child, sp.spt + i * 8)
            if child.special:
                free_special_root(kvm, child)
    kvm.owners[sp.spt >> 12] = None
    kvm.arena.free_table(sp.spt)


def special_walk_root(vcpu: Vcpu) -> u64:
    """Return the table where a walk of the shadow tables starts: the special page of level 3, or the root if
    that is not special.
    """
    mmu: KvmMmu = vcpu.mmu
    table: u64 = mmu.root_hpa
    if table == 0 or table == INVALID_PAGE or not using_special_root(mmu):
        return table
    level: u32 = mmu.shadow_level()
    while level > PT32E_ROOT_LEVEL:
        table = vcpu.kvm.words[table >> 3] & ADDR
        level -= 1
    return table


def special_walk_level(mmu: KvmMmu) -> u32:
    """Return the level of the table at special_walk_root."""
    return PT32E_ROOT_LEVEL if using_special_root(mmu) else mmu.shadow_level()


def pdpte_changed(vcpu: Vcpu, w: GuestWalker, addr: u64) -> bool:
    """Return whether the PDPTE that a walk of a PAE guest's tables used has changed since."""
    mmu: KvmMmu = vcpu.mmu
    if mmu.guest_level() != PT32E_ROOT_LEVEL:
        return False
    pdpte: u64 = get_pdptr(vcpu, mmu, (addr >> 30) & 3)
    return not pdpte & P or (pdpte & ADDR) >> 12 != w.table_gfn[1]
