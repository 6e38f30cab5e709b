"""Emulated writes to shadowed guest tables (kvm_mmu_track_write, 6.12.111 and 7.3.4)."""

from ..bits import (
    DEFECT_NONPAE_PDE,
    PT32_ROOT_LEVEL,
    ROLE_4BYTE_GPTE,
    ROLE_LEVEL,
    ROLE_QUADRANT,
    ROLE_QUADRANT_SHIFT,
)
from ..guest_access.guest_memory import read_guest
from ..map.pte_update import flush_local_tlb, need_remote_flush, update_pte
from ..pages.write_flooding import detect_write_flooding
from ..pages.zap import kvm_mmu_prepare_zap_page, kvm_mmu_remote_flush_or_zap, mmu_page_zap_pte
from ..spte.spte import is_shadow_present
from ..state.shadow_page import ShadowPage
from ..state.vcpu import Vcpu


def detect_write_misaligned(sp: ShadowPage, gpa: int, size: int) -> bool:
    """Return whether a write cannot be one of a single gpte: it covers parts of two, or less than 4 bytes.

    One byte at the start of a gpte passes: guests update status bits so.
    """
    entry = 4 if sp.role & ROLE_4BYTE_GPTE else 8
    offset = gpa & 0xFFF
    if offset % entry == 0 and size == 1:
        return False
    return bool((offset ^ (offset + size - 1)) & ~(entry - 1)) or size < 4


def get_written_sptes(sp: ShadowPage, gpa: int) -> list[int]:
    """Return the addresses of the SPTEs that shadow the gpte at gpa: one, two for a 4-byte directory entry,
    or none.
    """
    offset = gpa & 0xFFF
    count = 1
    if sp.role & ROLE_4BYTE_GPTE:
        offset <<= 1
        if sp.role & ROLE_LEVEL == PT32_ROOT_LEVEL:
            offset = (offset & ~7) << 1
            count = 2
        quadrant = offset >> 12
        offset &= 0xFFF
        if quadrant != (sp.role & ROLE_QUADRANT) >> ROLE_QUADRANT_SHIFT:
            return []
    first = sp.hpa + (offset & ~7)
    return [first + 8 * i for i in range(count)]


def _write_sptes(
    vcpu: Vcpu, sp: ShadowPage, gpa: int, gentry: int, invalid_list: list[ShadowPage] | None
) -> bool:
    """Zap the SPTEs of `sp` that shadow the gpte at gpa, which is `gentry` now. Return whether a flush is
    needed.

    Pages for L2 that nothing points to any more are put on the list if there is one.
    """
    kvm = vcpu.kvm
    flush = False
    sptes = get_written_sptes(sp, gpa)
    if kvm.design.defect == DEFECT_NONPAE_PDE:
        del sptes[1:]
    for sptep in sptes:
        old = kvm.read_spte(sptep)
        mmu_page_zap_pte(kvm, sp, sptep, invalid_list)
        if gentry and sp.level() > 1:
            kvm.stat.mmu_pde_zapped += 1
        if kvm.design.pte_write_prefetches:
            update_pte(vcpu, sp, sptep, gentry)
            flush |= need_remote_flush(old, kvm.read_spte(sptep))
        else:
            flush |= is_shadow_present(old)
    return flush


def kvm_mmu_track_write(vcpu: Vcpu, gpa: int, size: int) -> None:
    """Zap what shadows the `size` bytes at gpa, which were written.

    A page written again and again, or in unusual ways, is not taken for a page table any more and zapped.
    Older kernels map the new gpte at once (pte_update).
    """
    kvm = vcpu.kvm
    if not kvm.indirect_shadow_pages:
        return
    if vcpu.is_pae() and size == 4:
        gpa &= ~7
        size = 8
    gfn = gpa >> 12
    gentry = (read_guest(kvm, gpa, size) or 0) if size in (4, 8) else 0
    kvm.stat.mmu_pte_write += 1
    limit = kvm.design.write_flooding
    invalid_list: list[ShadowPage] = []
    orphans = invalid_list if kvm.design.pte_write_zaps_nested_children else None
    flush = False
    sp = newest = kvm.first_sp_with_gptes(gfn)
    while sp is not None:
        if detect_write_misaligned(sp, gpa, size) or detect_write_flooding(sp, limit):
            kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
            kvm.stat.mmu_flooded += 1
        else:
            flush |= _write_sptes(vcpu, sp, gpa, gentry, orphans)
        sp = kvm.next_sp_with_gptes(sp.hash_next, gfn)
    if kvm.design.pte_write_prefetches and newest is not None and not flush:
        flush_local_tlb(vcpu)
    kvm_mmu_remote_flush_or_zap(kvm, invalid_list, flush)
