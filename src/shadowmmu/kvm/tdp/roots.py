"""Roots and pages of the TDP MMU: allocation, reference counts, invalidation (tdp_mmu.c, 6.12.111).

There is one root per role, whatever the guest does. Its count starts at two: one reference for the vCPU, one
for the MMU itself, which is dropped once the root has been invalidated and zapped.
"""

from cython import uint as u32, ulonglong as u64

from ..bits import ROLE_INVALID
from ..state.shadow_page import ShadowPage
from ..state.table import clear_table
from ..state.tdp_iter import TdpIter
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .rcu import call_rcu


def tdp_mmu_alloc_sp(vcpu: Vcpu, gfn: u64, role: u32, ptep: u64) -> ShadowPage:
    """Return an empty table for gfn, to be linked at address ptep (0: a root). Nobody can reach it yet."""
    kvm: Kvm = vcpu.kvm
    spt: u64 = vcpu.shadow_page_cache.take()
    clear_table(kvm, spt)
    return tdp_mmu_init_sp(kvm, spt, gfn, role, ptep)


def tdp_mmu_init_sp(kvm: Kvm, spt: u64, gfn: u64, role: u32, ptep: u64) -> ShadowPage:
    """Return a page of the TDP MMU whose SPTEs are in the frame at spt."""
    sp: ShadowPage = ShadowPage(gfn, role, spt, 0)
    sp.tdp_mmu_page = True
    sp.ptep = ptep
    kvm.set_owner(spt, sp)
    if kvm.tracing:
        kvm.tracer.kvm_mmu_get_page(sp, True)
    return sp


def tdp_mmu_init_child_sp(kvm: Kvm, spt: u64, it: TdpIter) -> ShadowPage:
    """Return a page, in the frame at spt, for the table to link at the walk's current SPTE."""
    return tdp_mmu_init_sp(kvm, spt, it.gfn, kvm.sptep_to_sp(it.sptep).role - 1, it.sptep)


def kvm_tdp_mmu_alloc_root(vcpu: Vcpu) -> None:
    """Give the vCPU the root of its role, which it may share with other vCPUs (kvm_tdp_mmu_alloc_root)."""
    kvm: Kvm = vcpu.kvm
    root: ShadowPage | None = _find_root(kvm, vcpu.mmu.root_role)
    if root is None:
        root = tdp_mmu_alloc_sp(vcpu, 0, vcpu.mmu.root_role, 0)
        root.root_count = 2
        kvm.tdp_mmu_roots.insert(0, root)
    else:
        root.root_count += 1
    vcpu.mmu.root_hpa = root.spt
    vcpu.mmu.root_pgd = 0


def _find_root(kvm: Kvm, role: u32) -> ShadowPage | None:
    """Return the valid root of a role, or None."""
    root: ShadowPage
    for root in kvm.tdp_mmu_roots:
        if root.role == role:
            return root
    return None


def kvm_tdp_mmu_put_root(kvm: Kvm, root: ShadowPage) -> None:
    """Drop a reference; the last one frees the root, which must have been invalidated."""
    root.root_count -= 1
    if root.root_count:
        return
    if not root.role & ROLE_INVALID:
        raise RuntimeError(f"a valid root must keep a reference: {root!r}")
    kvm.tdp_mmu_roots.remove(root)
    call_rcu(kvm, root)


def tdp_mmu_next_root(kvm: Kvm, previous: ShadowPage | None, only_valid: u32) -> ShadowPage | None:
    """Return the root after `previous`, with a reference taken, or None; the reference to `previous` is
    dropped.

    So a walk over the roots may drop mmu_lock: the root it is at is not freed.
    """
    found: ShadowPage | None = None
    after: u32 = previous is None
    root: ShadowPage
    for root in kvm.tdp_mmu_roots:
        if after and not (only_valid and root.role & ROLE_INVALID):
            found = root
            root.root_count += 1
            break
        if root is previous:
            after = 1
    if previous is not None:
        kvm_tdp_mmu_put_root(kvm, previous)
    return found


def kvm_tdp_mmu_invalidate_all_roots(kvm: Kvm) -> None:
    """Mark all roots invalid, so that no vCPU uses one again, and schedule them to be zapped."""
    root: ShadowPage
    for root in kvm.tdp_mmu_roots:
        if not root.role & ROLE_INVALID:
            root.scheduled_root_to_zap = True
            root.role |= ROLE_INVALID
