"""Prefetching as mail 003 proposed and discussed it, where that is not the merged way (prefetch.py).

Other windows, gptes read when they are needed, host pages looked up one by one, and pages above level 1. In
all of them the first gpte that does not allow a mapping ends the prefetch, and no prefetched page is
Accessed.
"""

from cython import longlong as i64, uint as u32, ulonglong as u64

from ...x86.bits import ADDR, A, P
from ..bits import (
    MEM_LOG_DIRTY_PAGES,
    ROLE_4BYTE_GPTE,
    ROLE_ACCESS,
    ROLE_ACCESS_SHIFT,
    ROLE_DIRECT,
    ROLE_LEVEL,
    ROLE_QUADRANT,
    ROLE_QUADRANT_SHIFT,
    SPTE_MMU_PRESENT,
)
from ..guest_access.guest_walk import is_last_gpte, is_rsvd_bits_set, read_gpte_atomic
from ..guest_access.prefetch_window import window_end, window_first
from ..pages.sync import level1_gpte_gpa, shadowed_access
from ..spte.huge_page import kvm_mmu_max_mapping_level, pages_per_hpage
from ..spte.spte import page_gfn, spte_index
from ..state.fault import GuestWalker
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .prefetch import atomic_page, direct_prefetch_run, prefetch_gpte, slot_without_dirty_log
from .set_spte import mmu_set_spte


def prefetch_around(vcpu: Vcpu, w: GuestWalker, sp: ShadowPage, sptep: u64) -> None:
    """Map the neighbours of a faulting page, in the window, whose gptes allow it."""
    kvm: Kvm = vcpu.kvm
    level: u32 = sp.role & ROLE_LEVEL
    if sp.role & ROLE_DIRECT:
        direct_prefetch_around(vcpu, sp, sptep)
        return
    if not _is_prefetched(kvm, level):
        return
    index: u32 = spte_index(sptep)
    first: u32 = window_first(kvm.design, index)
    i: u32
    for i in range(first, window_end(kvm.design, index, 512)):
        at: u64 = sp.spt + i * 8
        if i == index or kvm.words[at >> 3] & SPTE_MMU_PRESENT:
            continue
        if level > 1:
            if not _prefetch_large_gpte(vcpu, w, sp, at):
                return
            continue
        if kvm.design.prefetch_gpte_reads:
            if not _read_gpte(kvm, w, level1_gpte_gpa(sp, i), sp.role & ROLE_4BYTE_GPTE):
                return
            gpte: u64 = w.prefetch_ptes[0]
        else:
            gpte = w.prefetch_ptes[i - first]
        kvm.stat.prefetch_lookups += 1
        if not prefetch_gpte(vcpu, sp, at, gpte, 1):
            return


def _is_prefetched(kvm: Kvm, level: u32) -> bool:
    """Return whether SPTEs of `level` are prefetched now."""
    if not kvm.design.prefetch_window or kvm.mmu_invalidate_in_progress:
        return False
    return level == 1 or kvm.design.prefetch_above_level_1 != 0


def _read_gpte(kvm: Kvm, w: GuestWalker, gpa: u64, four_byte: u32) -> bool:
    """Read and count one gpte. Return False if it cannot be read without sleeping."""
    kvm.stat.prefetch_gptes += 1
    return read_gpte_atomic(kvm, gpa, four_byte, w)


def _upper_gpte_gpa(sp: ShadowPage, index: u32) -> u64:
    """Return the gpa of the gpte for entry `index` of a page above level 1; two SPTEs share a 4-byte one."""
    wide: u64 = index
    if sp.role & ROLE_4BYTE_GPTE:
        quadrant: u64 = (sp.role & ROLE_QUADRANT) >> ROLE_QUADRANT_SHIFT
        return (sp.gfn << 12) + ((quadrant << 9) + wide >> 1) * 4
    return (sp.gfn << 12) + wide * 8


def _prefetch_large_gpte(vcpu: Vcpu, w: GuestWalker, sp: ShadowPage, sptep: u64) -> bool:
    """Map the large page of a gpte above level 1, if the host has one. Return False if not."""
    kvm: Kvm = vcpu.kvm
    level: u32 = sp.role & ROLE_LEVEL
    four_byte: u32 = sp.role & ROLE_4BYTE_GPTE
    index: u64 = spte_index(sptep)
    if not _read_gpte(kvm, w, _upper_gpte_gpa(sp, index), four_byte):
        return False
    gpte: u64 = w.prefetch_ptes[0]
    if not gpte & P or not gpte & A or is_rsvd_bits_set(vcpu.mmu, gpte, level):
        return False
    if not is_last_gpte(vcpu.mmu, four_byte, level, gpte):
        return False
    gfn: u64 = (gpte & ADDR) >> 12
    if four_byte:
        gfn = (gfn & ~0x3FF) | ((gpte >> 13) & 0xF) << 20 | (index & 1) << 9
    gfn &= ~(pages_per_hpage(level) - 1)
    return _prefetch_huge_page(vcpu, sp, sptep, gfn, shadowed_access(sp, gpte))


def _prefetch_huge_page(vcpu: Vcpu, sp: ShadowPage, sptep: u64, gfn: u64, access: u32) -> bool:
    """Map a page of the level of `sp`, if the host maps it at that level and nothing forbids it. Return False
    if not.
    """
    kvm: Kvm = vcpu.kvm
    level: u32 = sp.role & ROLE_LEVEL
    slot: MemSlot | None = kvm.visible_memslot(gfn)
    if slot is None or slot.flags & MEM_LOG_DIRTY_PAGES:
        return False
    if kvm_mmu_max_mapping_level(kvm, slot, gfn, level) != level:
        return False
    return _prefetch_page(vcpu, slot, sp, sptep, access, gfn)


def _prefetch_page(vcpu: Vcpu, slot: MemSlot, sp: ShadowPage, sptep: u64, access: u32, gfn: u64) -> bool:
    """Look up the host page of gfn and map it. Return False if there is none."""
    vcpu.kvm.stat.prefetch_lookups += 1
    page: u64 = atomic_page(vcpu.kvm, slot, gfn)
    if page == 0:
        return False
    mmu_set_spte(vcpu, slot, sp, sptep, access, gfn, (page & ADDR) >> 12, None)
    return True


def direct_prefetch_around(vcpu: Vcpu, sp: ShadowPage, sptep: u64) -> None:
    """Map the empty entries of the window in a direct page.

    In batches: a run of empty entries must lie in one slot, and what the host has of it, up to the first page
    that is missing, is mapped; unless that is nothing the next run follows. One by one: each page may be in
    another slot, and the first that is missing ends it all. Huge pages are looked up one by one.
    """
    kvm: Kvm = vcpu.kvm
    level: u32 = sp.role & ROLE_LEVEL
    if not _is_prefetched(kvm, level):
        return
    one_by_one: bool = kvm.design.prefetch_host_lookups != 0 or level > 1
    index: u32 = spte_index(sptep)
    end: u32 = window_end(kvm.design, index, 512)
    start: i64 = -1
    i: u32
    for i in range(window_first(kvm.design, index), end):
        if i == index or kvm.words[(sp.spt >> 3) + i] & SPTE_MMU_PRESENT:
            if start >= 0 and not _prefetch_run(vcpu, sp, start, i):
                return
            start = -1
        elif one_by_one:
            if not _prefetch_direct_page(vcpu, sp, sp.spt + i * 8):
                return
        elif start < 0:
            start = i
    if start >= 0:
        _prefetch_run(vcpu, sp, start, end)


def _prefetch_run(vcpu: Vcpu, sp: ShadowPage, start: u64, end: u64) -> bool:
    """Map entries start to end - 1 of a direct page. Return False if nothing could be mapped."""
    vcpu.kvm.stat.prefetch_lookups += 1
    return direct_prefetch_run(vcpu, sp, sp.spt + start * 8, sp.spt + end * 8)


def _prefetch_direct_page(vcpu: Vcpu, sp: ShadowPage, sptep: u64) -> bool:
    """Map the page of one SPTE of a direct page, whatever slot it is in. Return False if that is not
    possible.
    """
    access: u32 = (sp.role & ROLE_ACCESS) >> ROLE_ACCESS_SHIFT
    gfn: u64 = page_gfn(vcpu.kvm, sp, spte_index(sptep))
    if sp.role & ROLE_LEVEL > 1:
        return _prefetch_huge_page(vcpu, sp, sptep, gfn, access)
    slot: MemSlot | None = slot_without_dirty_log(vcpu.kvm, gfn, access)
    return slot is not None and _prefetch_page(vcpu, slot, sp, sptep, access, gfn)
