"""What the TLBs hold, against the tables (I34, I36)."""

from collections.abc import Iterator

from ...guest.machine import Machine
from ...kvm.bits import (
    INVALID_PAGE,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    REQ_TLB_FLUSH,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TLB_FLUSH_GUEST,
)
from ...kvm.mmu import KvmMmu
from ...kvm.vcpu import Vcpu
from ...x86.bits import ADDR, NX, PS, P, U, W
from ..predicate import Finding, Scope, predicate
from ..tables import Tables

FLUSHES = (
    REQ_TLB_FLUSH
    | REQ_TLB_FLUSH_CURRENT
    | REQ_TLB_FLUSH_GUEST
    | REQ_LOAD_MMU_PGD
    | REQ_MMU_FREE_OBSOLETE_ROOTS
)
NESTED_W, NESTED_X = 1 << 52, 1 << 53


def walk(t: Tables, mmu: KvmMmu, address: int) -> tuple[list[int], int, int]:
    """The tables' own answer: addresses of the SPTEs on the way, the last SPTE, its level.

    The last SPTE is 0 if it has no P, or if there is no root.
    """
    level, table = mmu.shadow_level(), mmu.root_hpa
    if table in (0, INVALID_PAGE):
        return [], 0, 0
    if mmu.root_is_special():
        entry = t.kvm.read_spte(mmu.pae_root + 8 * (address >> 30 & 3))
        if not entry & P:
            return [], 0, 0
        level, table = 2, entry & ADDR
    way = []
    while True:
        sptep = table + 8 * (address >> 12 + 9 * (level - 1) & 511)
        way.append(sptep)
        spte = t.kvm.read_spte(sptep)
        if not spte & P or spte & 1 << 51:
            return way, 0, level
        if level == 1 or spte & PS:
            return way, spte, level
        table, level = spte & ADDR, level - 1


def _gpa_of(machine: Machine, pfn: int) -> int | None:
    """The guest address that a host frame backs now."""
    for slot in machine.kvm.memslots:
        index = slot.mapping.index_of(pfn)
        if index is not None and slot.first_page <= index < slot.first_page + slot.npages:
            return slot.base_gfn + index - slot.first_page << 12
    return None


@predicate(
    "tlb-as-tables",
    Scope.VCPU,
    "a vCPU that will not flush before it enters the guest has nothing in its TLB that the tables forbid",
    "kvm_flush_remote_tlbs",
    "mmu_spte_update",
    "kvm_mmu_remote_flush_or_zap",
    "kvm_tdp_mmu_zap_leafs",
)
def tlb_as_tables(t: Tables, vcpu: Vcpu) -> Iterator[Finding]:
    if vcpu.requests & FLUSHES or vcpu.mmu.root_hpa == INVALID_PAGE:
        return
    nested = t.kvm.parameters.tdp_enabled
    seen = set()
    for gva, _, level, entry in vcpu.cpu.tlb.translations():
        if (gva, level, entry) in seen:
            continue
        seen.add((gva, level, entry))
        if nested and not vcpu.guest_mode:
            finding = _against_nested(t, vcpu, gva, entry)
        else:
            finding = _against_walk(t, vcpu, gva, level, entry)
        if finding is not None:
            yield finding


def _against_walk(t: Tables, vcpu: Vcpu, gva: int, level: int, entry: int) -> Finding | None:
    """The tables translate the very address: shadow paging, or L2, which has no paging of its own."""
    way, spte, at = walk(t, vcpu.mmu, gva)
    what = f"vCPU {vcpu.id} has a translation of {gva:#x} in its TLB"
    if not spte:
        return Finding(f"{what}, its tables have none", tuple(way), vcpus=(vcpu,))
    inside = (1 << 12 + 9 * (at - 1)) - 1
    if (spte & ADDR & ~inside | gva & inside & ~0xFFF) != entry & ADDR:
        return Finding(f"{what} to another frame than its tables", tuple(way), vcpus=(vcpu,))
    if at < level:
        return None
    nested = t.kvm.parameters.tdp_enabled
    writable = entry & NESTED_W if nested else entry & W
    executable = entry & NESTED_X if nested else not entry & NX
    if (writable and not spte & W) or (executable and spte & NX) or (entry & U and not spte & U):
        return Finding(f"{what} with more rights than its tables", tuple(way), vcpus=(vcpu,))
    return None


def _against_nested(t: Tables, vcpu: Vcpu, gva: int, entry: int) -> Finding | None:
    """The guest's own tables may have changed without a flush: only the frame and the nested rights count."""
    pfn = (entry & ADDR) >> 12
    if not pfn:
        return None
    what = f"vCPU {vcpu.id} has a translation of {gva:#x} in its TLB"
    gpa = _gpa_of(t.machine, pfn)
    if gpa is None:
        return Finding(f"{what} to frame {pfn:x}, which backs no guest memory any more", vcpus=(vcpu,))
    way, spte, _ = walk(t, vcpu.mmu, gpa)
    if not spte:
        return Finding(f"{what} to gpa {gpa:#x}, which its tables do not map", tuple(way), vcpus=(vcpu,))
    if (entry & NESTED_W and not spte & W) or (entry & NESTED_X and spte & NX):
        return Finding(f"{what} with more rights than its tables", tuple(way), vcpus=(vcpu,))
    return None
