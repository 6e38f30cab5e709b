"""The contents of the TLBs, compared with the tables (I34, I36)."""

from collections.abc import Iterator
from dataclasses import dataclass

from ....guest.play.machine import Machine
from ....kvm.bits import (
    INVALID_PAGE,
    NUM_PREV_ROOTS,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    REQ_TLB_FLUSH,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TLB_FLUSH_GUEST,
    ROLE_CR0_WP,
    ROLE_SMEP,
    SPTE_MMU_PRESENT,
)
from ....kvm.spte.spte import is_access_track_spte, saved_rights
from ....kvm.state.mmu import KvmMmu
from ....kvm.state.vcpu import Vcpu
from ....x86.bits import (
    ACC_U,
    ACC_W,
    ACC_X,
    ADDR,
    CR4_PCIDE,
    NESTED_W,
    NESTED_X,
    NX,
    PCID_MASK,
    PS,
    P,
    U,
    W,
)
from ..predicate import Finding, Scope, predicate
from ..shadow_copy import rights_of
from ..tables import Tables

FLUSHES = (
    REQ_TLB_FLUSH
    | REQ_TLB_FLUSH_CURRENT
    | REQ_TLB_FLUSH_GUEST
    | REQ_LOAD_MMU_PGD
    | REQ_MMU_FREE_OBSOLETE_ROOTS
)

Compared = tuple[list[int], Finding | None]
"""Addresses of the SPTEs that a translation depends on, and what is wrong with it."""


def walk(t: Tables, mmu: KvmMmu, address: int, root: int | None = None) -> tuple[list[int], int, int]:
    """Return the tables' own answer: addresses of the SPTEs on the way, the last SPTE, its level.

    The last SPTE is 0 if it is not present, or if there is no root. `root`: another than the current one.
    """
    level, table = mmu.shadow_level(), mmu.root_hpa if root is None else root
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
        if not spte & SPTE_MMU_PRESENT:
            return way, 0, level
        if level == 1 or spte & PS:
            return way, spte, level
        table, level = spte & ADDR, level - 1


def _gpa_of(machine: Machine, pfn: int) -> int | None:
    """Return the guest address that a host frame backs now, or None."""
    for slot in machine.kvm.memslots:
        index = slot.mapping.index_of(pfn)
        if index is not None and slot.first_page <= index < slot.first_page + slot.npages:
            return slot.base_gfn + index - slot.first_page << 12
    return None


@predicate(
    "tlb-as-tables",
    Scope.VCPU,
    "a vCPU without a pending flush has nothing in its TLB that the tables do not allow",
    "kvm_flush_remote_tlbs",
    "mmu_spte_update",
    "kvm_mmu_remote_flush_or_zap",
    "kvm_tdp_mmu_zap_leafs",
)
def _tlb_as_tables(t: Tables, vcpu: Vcpu) -> Iterator[Finding]:
    if vcpu.requests & FLUSHES or vcpu.mmu.root_hpa == INVALID_PAGE:
        return
    nested = t.kvm.parameters.tdp_enabled and not vcpu.guest_mode
    if vcpu.cr4 & CR4_PCIDE and not nested:
        yield from _by_pcid(t, vcpu)
        return
    known = t.translations(vcpu.id, _tables_of(t, vcpu))
    for gva, _, level, entry in vcpu.cpu.tlb.translations():
        if known.has((gva, level, entry)):
            continue
        if nested:
            way, finding = _against_nested(t, vcpu, gva, level, entry)
        else:
            way, finding = _against_walk(t, vcpu, gva, level, entry)
        if finding is None:
            known.add((gva, level, entry), way)
        else:
            yield finding


def _by_pcid(t: Tables, vcpu: Vcpu) -> Iterator[Finding]:
    """Yield translations that agree with no root of their PCID, current or previous."""
    mmu = vcpu.mmu
    cached = [(mmu.root_pgd, mmu.root_hpa), *(mmu.prev_root(i) for i in range(NUM_PREV_ROOTS))]
    for gva, pcid, level, entry in vcpu.cpu.tlb.translations():
        roots = [hpa for pgd, hpa in cached if hpa not in (0, INVALID_PAGE) and pgd & PCID_MASK == pcid]
        findings = [_against_walk(t, vcpu, gva, level, entry, root)[1] for root in roots]
        if findings and None not in findings and findings[0] is not None:
            yield findings[0]


def _tables_of(t: Tables, vcpu: Vcpu) -> tuple[int, ...]:
    """Return what a vCPU's translations are compared with: its root, or the four directories."""
    mmu = vcpu.mmu
    if not mmu.root_is_special():
        return (mmu.root_hpa,)
    return (mmu.root_hpa, *(t.kvm.read_spte(mmu.pae_root + 8 * i) for i in range(4)))


def _against_walk(
    t: Tables, vcpu: Vcpu, gva: int, level: int, entry: int, root: int | None = None
) -> Compared:
    """Compare a translation of an address that the tables translate themselves: shadow paging, or L2, which
    does not page.
    """
    what = f"vCPU {vcpu.id} has a translation of {gva:#x} in its TLB"
    if t.kvm.parameters.tdp_enabled:
        needs = _Needs(entry & ADDR, bool(entry & NESTED_W), bool(entry & NESTED_X), bool(entry & U))
    else:
        needs = _Needs(entry & ADDR, bool(entry & W), not entry & NX, bool(entry & U))
    return _compare(t, vcpu, gva, level, needs, what, root)


def _against_nested(t: Tables, vcpu: Vcpu, gva: int, level: int, entry: int) -> Compared:
    """Compare a translation where the guest's own tables may have changed without a flush: frame and nested
    rights only.
    """
    pfn = (entry & ADDR) >> 12
    if t.kvm.host.is_zeros(pfn):
        return [], None
    what = f"vCPU {vcpu.id} has a translation of {gva:#x} in its TLB"
    gpa = _gpa_of(t.machine, pfn)
    if gpa is None:
        return [], Finding(f"{what} to frame {pfn:x}, which backs no guest memory any more", vcpus=(vcpu,))
    needs = _Needs(entry & ADDR, bool(entry & NESTED_W), bool(entry & NESTED_X), user=False)
    return _compare(t, vcpu, gpa, level, needs, f"{what}, at gpa {gpa:#x},")


@dataclass(frozen=True, slots=True)
class _Needs:
    """What the tables must grant: the frame and the rights of a translation."""

    frame: int
    write: bool
    execute: bool
    user: bool

    def denied_by(self, t: Tables, sptep: int, spte: int) -> bool:
        """Return whether an SPTE lacks one of the rights. Rights that were taken away for a while count as
        granted.

        Access tracking takes them without a flush, and W may stay away when it restores them: dirty logging
        flushes in any case, and write-protecting a table tests MMU_WRITABLE. A supervisor's write with
        CR0.WP=0 is alike: a page that users may read becomes one that the supervisor may write, and with SMEP
        not execute, without a flush.
        """
        kvm, page = t.kvm, t.pages.get(sptep & ~0xFFF)
        rights = rights_of(kvm, spte)
        if rights & ACC_W and not self.write and page is not None and not page.role & ROLE_CR0_WP:
            rights |= ACC_U | (ACC_X if page.role & ROLE_SMEP else 0)
        if is_access_track_spte(kvm, spte):
            rights = rights_of(kvm, spte | saved_rights(kvm, spte))
        if not kvm.ad_enabled and spte & kvm.shadow_mmu_writable_mask:
            rights |= ACC_W
        needed = (ACC_W if self.write else 0) | (ACC_X if self.execute else 0) | (ACC_U if self.user else 0)
        return bool(needed & ~rights)


def _compare(
    t: Tables, vcpu: Vcpu, address: int, level: int, needs: _Needs, what: str, root: int | None = None
) -> Compared:
    """Compare a translation with the SPTE on the walk for its address; a huge one with everything
    below it.
    """
    way, spte, at = walk(t, vcpu.mmu, address, root)
    if not spte:
        return way, Finding(f"{what} that its tables do not have", tuple(way[-1:]), vcpus=(vcpu,))
    if at < level:
        upper = way[at - level - 1]
        below, wrong = _below(t, t.kvm.read_spte(upper) & ADDR, level - 1, needs.frame, needs)
        way += below
        if wrong is None:
            return way, None
        return way, Finding(f"{what} {wrong[0]}", (wrong[1],), vcpus=(vcpu,))
    inside = (1 << 12 + 9 * (at - 1)) - 1
    if (spte & ADDR & ~inside | address & inside & ~0xFFF) != needs.frame:
        return way, Finding(f"{what} to another frame than its tables", tuple(way[-1:]), vcpus=(vcpu,))
    if needs.denied_by(t, way[-1], spte):
        return way, Finding(f"{what} with more rights than its tables", tuple(way[-1:]), vcpus=(vcpu,))
    return way, None


def _below(
    t: Tables, table: int, level: int, frame: int, needs: _Needs
) -> tuple[list[int], tuple[str, int] | None]:
    """Return the SPTEs of a table, and which of them does not map its part of a huge page, with what is
    wrong.
    """
    seen = []
    for index, spte in enumerate(t.kvm.read_table(table)):
        sptep, at = table + 8 * index, frame + (index << 12 + 9 * (level - 1))
        seen.append(sptep)
        if not spte & SPTE_MMU_PRESENT:
            return seen, ("of a part that its tables do not have", sptep)
        if level > 1 and not spte & PS:
            below, wrong = _below(t, spte & ADDR, level - 1, at, needs)
            seen += below
            if wrong:
                return seen, wrong
        elif spte & ADDR != at:
            return seen, ("to another frame than its tables, in a part", sptep)
        elif needs.denied_by(t, sptep, spte):
            return seen, ("with more rights than its tables, in a part", sptep)
    return seen, None
