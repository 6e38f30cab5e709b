"""The software walk of the guest's page tables (arch/x86/kvm/mmu/paging_tmpl.h, 6.12.111).

One walk for 4-byte gptes (two levels, PSE, PSE36) and 8-byte ones (PAE, four and five levels).
"""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import (
    ACC_W,
    ADDR,
    CR0_WP,
    MASK64,
    NX,
    PFERR_F,
    PFERR_P,
    PFERR_RSVD,
    PFERR_U,
    PFERR_W,
    PS,
    A,
    D,
    P,
)
from ...x86.paging import permission_bitmask
from ..bits import (
    DEFECT_CLEAN_WRITABLE,
    DEFECT_NCR3_LOW_BITS,
    DEFECT_TABLE_WRITE_UNLOGGED,
    EXT_CR4_PSE,
    EXT_CR4_SMAP,
    EXT_CR4_SMEP,
    INVALID_PAGE,
    PT32E_ROOT_LEVEL,
    PT64_ROOT_MAX_LEVEL,
    PTE_PREFETCH_NUM,
    ROLE_4BYTE_GPTE,
    ROLE_CR0_WP,
    ROLE_EFER_NX,
    ROLE_LEVEL,
    WALK_AGAIN,
    WALK_FAULT,
    WALK_MAPPED,
)
from ..state.fault import GuestWalker
from ..state.memslots import MemSlot
from ..state.mmu import KvmMmu
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .guest_memory import read_page_atomic, table_page, write_page
from .mark_dirty import mark_page_dirty_in_slot
from .pdptrs import refresh_pdptrs
from .prefetch_window import read_window


def gpte_access(gpte: u64) -> u32:
    """Return the ACC_* bits of a gpte: U and W as they are, X inverted from NX (a 4-byte gpte has none)."""
    return (gpte & 7) ^ (gpte >> 63)


def is_rsvd_bits_set(mmu: KvmMmu, gpte: u64, level: u32) -> bool:
    """Return whether a present gpte of `level` has a bit set that the guest's paging mode reserves."""
    return gpte & mmu.rsvd_bits[(PT64_ROOT_MAX_LEVEL if gpte & PS else 0) + level - 1] != 0


def is_last_gpte(mmu: KvmMmu, four_byte: u32, level: u32, gpte: u64) -> bool:
    """Return whether a gpte maps a page: above level 1 PS says so, in 4-byte gptes only with CR4.PSE."""
    if level == 1:
        return True
    if not gpte & PS:
        return False
    return not four_byte or mmu.cpu_ext & EXT_CR4_PSE != 0


def kvm_mmu_refresh_passthrough_bits(vcpu: Vcpu, mmu: KvmMmu) -> int:
    """Take CR0.WP into an MMU's role and permissions if the guest, which owns it under EPT, changed it
    without an exit. Return 0.
    """
    wp: bool = vcpu.cr0 & CR0_WP != 0
    if wp == (mmu.cpu_role & ROLE_CR0_WP != 0):
        return 0
    mmu.cpu_role ^= ROLE_CR0_WP
    if mmu.cpu_role & ROLE_LEVEL:
        mmu.set_permissions(
            permission_bitmask(
                wp=wp,
                nx=mmu.cpu_role & ROLE_EFER_NX != 0,
                smep=mmu.cpu_ext & EXT_CR4_SMEP != 0,
                smap=mmu.cpu_ext & EXT_CR4_SMAP != 0,
            )
        )
    return 0


def permission_fault(vcpu: Vcpu, mmu: KvmMmu, pte_access: u32, access: u64) -> bool:
    """Return whether an access (PFERR_W, U, F) faults on a page with the rights pte_access, by CR0.WP
    as it is now.
    """
    if vcpu.kvm.ept and mmu is not vcpu.guest_mmu:
        kvm_mmu_refresh_passthrough_bits(vcpu, mmu)
    index: u64 = (access & (PFERR_W | PFERR_U | PFERR_F)) >> 1
    if vcpu.eflags_ac:
        index |= PFERR_RSVD >> 1
    return (mmu.permissions[index] >> pte_access) & 1 != 0


def get_pdptr(vcpu: Vcpu, mmu: KvmMmu, index: u64) -> u64:
    """Return PDPTE `index` of a PAE guest as last loaded; of L1's nested tables, as it is in memory now."""
    if mmu is not vcpu.guest_mmu:
        if vcpu.kvm.parameters.tdp_enabled:
            refresh_pdptrs(vcpu, mmu)
        return mmu.pdptrs[index]
    if vcpu.kvm.design.defect == DEFECT_NCR3_LOW_BITS:
        return _misaligned(vcpu.kvm, vcpu.nested_cr3 + 8 * index)
    page: u64 = table_page(vcpu.kvm, (vcpu.nested_cr3 & ADDR) >> 12)
    if page == INVALID_PAGE:
        return 0
    return vcpu.kvm.words[((page | (vcpu.nested_cr3 & 0xFE0)) >> 3) + index]


def _misaligned(kvm: Kvm, gpa: u64) -> u64:
    """Return the 8 bytes at any gpa, also across pages; bytes that cannot be read are 0."""
    value: u64 = 0
    first: u64 = table_page(kvm, (gpa & ADDR) >> 12)
    if first != INVALID_PAGE:
        value = kvm.words[(first | gpa & 0xFF8) >> 3]
    shift: u64 = (gpa & 7) << 3
    if shift == 0:
        return value
    value >>= shift
    second: u64 = table_page(kvm, (gpa + 8 & ADDR) >> 12)
    if second != INVALID_PAGE:
        value |= kvm.words[(second | gpa + 8 & 0xFF8) >> 3] << (64 - shift) & MASK64
    return value


def _entry(kvm: Kvm, hpa: u64, four_byte: u32) -> u64:
    """Return the gpte at hpa, 4 or 8 bytes wide."""
    word: u64 = kvm.words[hpa >> 3]
    if four_byte:
        word = (word >> ((hpa & 4) * 8)) & 0xFFFFFFFF
    return word


def _walk_once(vcpu: Vcpu, mmu: KvmMmu, w: GuestWalker, addr: u64, access: u64) -> u32:
    """Walk the tables once and fill `w`. Return WALK_MAPPED, WALK_FAULT (w.error_code, without the access's
    own bits, says why), or WALK_AGAIN if a gpte changed meanwhile (FNAME(walk_addr_generic)).
    """
    kvm: Kvm = vcpu.kvm
    four_byte: u32 = mmu.cpu_role & ROLE_4BYTE_GPTE
    bits: u32 = 10 if four_byte else 9
    size: u64 = 4 if four_byte else 8
    level: u32 = mmu.cpu_role & ROLE_LEVEL
    pte: u64 = vcpu.guest_pgd(mmu)
    if four_byte:
        pte &= 0xFFFFFFFF
    w.error_code = 0
    kvm.tally.gpte_walks += 1
    if level == PT32E_ROOT_LEVEL:
        pte = get_pdptr(vcpu, mmu, (addr >> 30) & 3)
        if kvm.tracing:
            kvm.tracer.kvm_mmu_paging_element(pte, level)
        if not pte & P:
            return WALK_FAULT
        level -= 1
    w.max_level = level
    nx: u64 = 0 if four_byte else NX
    combined: u64 = 0xFFFFFFFF if four_byte else MASK64
    inherited: u64
    while True:
        inherited = combined
        index: u64 = (addr >> (12 + bits * (level - 1))) & ((1 << bits) - 1)
        table_gfn: u64 = (pte & ADDR) >> 12
        w.level = level
        w.table_gfn[level - 1] = table_gfn
        w.pte_gpa[level - 1] = (table_gfn << 12) + index * size
        page: u64 = table_page(kvm, table_gfn)
        if page == INVALID_PAGE:
            return WALK_FAULT
        pte_hpa: u64 = page + index * size
        w.pte_hpa[level - 1] = pte_hpa
        pte = kvm.words[pte_hpa >> 3]
        if four_byte:
            pte = (pte >> ((pte_hpa & 4) * 8)) & 0xFFFFFFFF
        if kvm.tracing:
            kvm.tracer.kvm_mmu_paging_element(pte, level)
        combined = inherited & (pte ^ nx)
        if not pte & P:
            return WALK_FAULT
        if is_rsvd_bits_set(mmu, pte, level):
            w.error_code = PFERR_RSVD | PFERR_P
            return WALK_FAULT
        w.ptes[level - 1] = pte
        w.pt_access[level - 1] = gpte_access(inherited ^ nx)
        if is_last_gpte(mmu, four_byte, level, pte):
            break
        level -= 1
    w.pte_access = gpte_access(combined ^ nx)
    if permission_fault(vcpu, mmu, w.pte_access, access):
        w.error_code = PFERR_P
        return WALK_FAULT
    one: u64 = 1
    offset: u64 = (one << (12 + bits * (level - 1))) - 1
    w.gfn = ((pte & ADDR & ~offset) + (addr & offset)) >> 12
    if four_byte and level > 1:
        w.gfn += ((pte >> 13) & 0xF) << 20
    accessed_dirty: u64 = combined & A
    if not access & PFERR_W:
        if not pte & D and kvm.design.defect != DEFECT_CLEAN_WRITABLE:
            w.pte_access &= ~ACC_W
    else:
        accessed_dirty &= pte >> 1
    if accessed_dirty:
        return WALK_MAPPED
    return update_accessed_dirty_bits(vcpu, mmu, w, access)


def update_accessed_dirty_bits(vcpu: Vcpu, mmu: KvmMmu, w: GuestWalker, access: u64) -> u32:
    """Set Accessed in the gptes of a walk, and for a write Dirty in the last one, by compare-and-exchange.

    Return WALK_MAPPED, WALK_FAULT if a gpte cannot be written, or WALK_AGAIN if one changed meanwhile.
    """
    kvm: Kvm = vcpu.kvm
    four_byte: u32 = mmu.cpu_role & ROLE_4BYTE_GPTE
    level: u32 = w.max_level
    while level >= w.level:
        old: u64 = w.ptes[level - 1]
        new: u64 = old
        gpa: u64 = w.pte_gpa[level - 1]
        if not old & A:
            if kvm.tracing:
                kvm.tracer.kvm_mmu_set_accessed_bit(gpa)
            new |= A
        if level == w.level and access & PFERR_W and not old & D:
            if kvm.tracing:
                kvm.tracer.kvm_mmu_set_dirty_bit(gpa)
            new |= D
        if new != old:
            written: u32 = _exchange_gpte(kvm, w, level, four_byte, old, new)
            if written != WALK_MAPPED:
                return written
        level -= 1
    return WALK_MAPPED


def _exchange_gpte(kvm: Kvm, w: GuestWalker, level: u32, four_byte: u32, old: u64, new: u64) -> u32:
    """Replace `old` by `new` in guest memory, and mark the table's page dirty; a read-only slot is left as it
    is.
    """
    gfn: u64 = w.table_gfn[level - 1]
    slot: MemSlot = kvm.memslot_of(gfn)
    if not slot.writable():
        return WALK_MAPPED
    page: u64 = write_page(slot, gfn)
    if page == INVALID_PAGE:
        return WALK_FAULT
    hpa: u64 = page | (w.pte_gpa[level - 1] & 0xFFF)
    if _entry(kvm, hpa, four_byte) != old:
        return WALK_AGAIN
    if four_byte:
        kvm.arena.store(hpa, 4, new)
    else:
        kvm.words[hpa >> 3] = new
    if kvm.design.defect != DEFECT_TABLE_WRITE_UNLOGGED:
        mark_page_dirty_in_slot(kvm, slot, gfn)
    w.ptes[level - 1] = new
    w.pte_hpa[level - 1] = hpa
    return WALK_MAPPED


def walk_addr(vcpu: Vcpu, mmu: KvmMmu, w: GuestWalker, addr: u64, access: u64) -> bool:
    """Walk the guest's tables of `mmu` for addr; `access` are the bits PFERR_W, U and F. Return whether it is
    mapped.

    If not, w.error_code is the error code of the guest's page fault. The walk sets Accessed and Dirty.
    """
    kvm: Kvm = vcpu.kvm
    if kvm.tracing:
        kvm.tracer.kvm_mmu_pagetable_walk(addr, access & 0xFFFFFFFF)
    result: u32 = WALK_AGAIN
    while result == WALK_AGAIN:
        result = _walk_once(vcpu, mmu, w, addr, access)
    if result == WALK_MAPPED:
        return True
    w.error_code |= access & (PFERR_W | PFERR_U)
    if access & PFERR_F and (mmu.cpu_role & ROLE_EFER_NX or mmu.cpu_ext & EXT_CR4_SMEP):
        w.error_code |= PFERR_F
    if kvm.tracing:
        kvm.tracer.kvm_mmu_walker_error(w.error_code & 0xFFFFFFFF)
    return False


def gva_to_gpa(vcpu: Vcpu, gva: u64, access: u64) -> u64:
    """Translate an address for the emulator. Return INVALID_PAGE if it faults (vcpu.walker.error_code says
    how).

    L2 does not page, so its addresses are translated by L1's nested tables (translate_nested_gpa).
    """
    mmu: KvmMmu = vcpu.walk_mmu
    if vcpu.mmu_is_nested():
        mmu = vcpu.guest_mmu
        access |= PFERR_U
    if not mmu.cpu_role & ROLE_LEVEL:
        return gva
    if not walk_addr(vcpu, mmu, vcpu.walker, gva, access):
        return INVALID_PAGE
    return (vcpu.walker.gfn << 12) | (gva & 0xFFF)


def gpte_changed(vcpu: Vcpu, w: GuestWalker, level: u32) -> bool:
    """Return whether the gpte that the walk used at `level` has changed since (FNAME(gpte_changed)).

    At level 1 the aligned eight gptes around it are read too and kept in w.prefetch_ptes.
    """
    kvm: Kvm = vcpu.kvm
    four_byte: u32 = vcpu.mmu.cpu_role & ROLE_4BYTE_GPTE
    page: u64 = read_page_atomic(kvm, w.table_gfn[level - 1])
    if page == INVALID_PAGE:
        return True
    offset: u64 = w.pte_gpa[level - 1] & 0xFFF
    if level == 1 and not kvm.design.merged_prefetch:
        read_window(kvm, w, page, offset, four_byte)
    elif level == 1:
        size: u64 = 4 if four_byte else 8
        first: u64 = (page | (offset & ~(size * PTE_PREFETCH_NUM - 1))) >> 3
        word: u64
        i: u64
        for i in range(PTE_PREFETCH_NUM):
            if four_byte:
                word = kvm.words[first + (i >> 1)]
                w.prefetch_ptes[i] = word >> 32 if i & 1 else word & 0xFFFFFFFF
            else:
                w.prefetch_ptes[i] = kvm.words[first + i]
    return _entry(kvm, page | offset, four_byte) != w.ptes[level - 1]


def read_gpte_atomic(kvm: Kvm, gpa: u64, four_byte: u32, w: GuestWalker) -> bool:
    """Read one gpte into w.prefetch_ptes[0] without sleeping. Return False if that is not possible."""
    page: u64 = read_page_atomic(kvm, gpa >> 12)
    if page == INVALID_PAGE:
        return False
    w.prefetch_ptes[0] = _entry(kvm, page | (gpa & 0xFFF), four_byte)
    return True
