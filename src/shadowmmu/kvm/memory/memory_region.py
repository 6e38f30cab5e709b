"""KVM_SET_USER_MEMORY_REGION and its effects on the MMU (kvm_set_memslot, 6.12.111)."""

import errno

from ...host.mapping import Mapping
from ..bits import (
    ADDRESS_SPACES,
    BY_GENERATION,
    DEFECT_MMIO_WRAP,
    DEFECT_SLOT_MISALIGNED,
    GEN_UPDATE_IN_PROGRESS,
    MEM_LOG_DIRTY_PAGES,
    MEM_READONLY,
    MEMSLOT_INVALID,
    MIN_ALLOC_MMU_PAGES,
)
from ..pages.mmio_walk import kvm_mmu_zap_mmio_sptes
from ..pages.zap import kvm_mmu_change_mmu_pages
from ..pages.zap_all import zap_all
from ..registers.pml import kvm_mmu_update_cpu_dirty_logging
from ..state.memslots import MemSlot
from ..state.vm import Kvm
from .dirty_log import kvm_mmu_slot_enable_log, kvm_mmu_zap_collapsible_sptes
from .zap_memslot import kvm_arch_flush_shadow_memslot

PAGES_PER_MMU_PAGE = 50
MAX_SLOT_PAGES = (1 << 31) - 1


class RegionError(OSError):
    """KVM refused an ioctl; `errno` says why, the text what must be different."""


def id_to_memslot(kvm: Kvm, id: int) -> MemSlot | None:
    """Return the slot with that number, or None."""
    return next((slot for slot in kvm.memslots if slot.id == id), None)


def activate_memslots(kvm: Kvm, slots: list[MemSlot]) -> None:
    """Publish a new set of slots with a new generation; if the part that MMIO SPTEs keep wraps, zap all
    pages.
    """
    generation = kvm.memslots_generation
    kvm.memslots_generation = generation | GEN_UPDATE_IN_PROGRESS
    kvm.memslots = sorted(slots, key=lambda slot: slot.base_gfn)
    kvm.last_used_slot = None
    generation += ADDRESS_SPACES
    kept = generation & kvm.mmio_generation_mask & ~(ADDRESS_SPACES - 1)
    wrapped = not kept and kvm.design.defect != DEFECT_MMIO_WRAP
    if wrapped and kvm.design.mmio_invalidation == BY_GENERATION:
        zap_all(kvm)
    kvm.memslots_generation = generation


def _recompute_mmu_pages(kvm: Kvm) -> None:
    """Derive the limit of shadow pages from the slots' sizes, unless user space set it."""
    if not kvm.n_requested_mmu_pages:
        pages = sum(slot.npages for slot in kvm.memslots)
        kvm_mmu_change_mmu_pages(kvm, max(pages // PAGES_PER_MMU_PAGE, MIN_ALLOC_MMU_PAGES))


def _check_max_gfn(kvm: Kvm, id: int, base_gfn: int, npages: int) -> None:
    """Raise RegionError(EINVAL) if a slot ends beyond what KVM can map (kvm_arch_prepare_memory_region)."""
    if base_gfn + npages - 1 > kvm.max_gfn():
        bits = kvm.max_gfn().bit_length() + 12
        raise RegionError(errno.EINVAL, f"slot {id} ends beyond {bits} address bits, the most KVM can map")


def _check_overlap(kvm: Kvm, id: int, base_gfn: int, npages: int) -> None:
    """Raise RegionError(EEXIST) if a slot would overlap another one."""
    for slot in kvm.memslots:
        if slot.id != id and slot.base_gfn < base_gfn + npages and base_gfn < slot.base_gfn + slot.npages:
            raise RegionError(errno.EEXIST, f"slot {id} must not overlap slot {slot.id}")


def _set_logging(kvm: Kvm, slot: MemSlot, *, on: bool) -> None:
    """Switch a slot's dirty logging on or off."""
    parameters = kvm.parameters
    bitmap, initially_set = not parameters.dirty_ring_size, parameters.dirty_log_initially_set
    slot.set_logging(on=on, bitmap=bitmap, initially_set=initially_set)


def _new_slot(
    kvm: Kvm, id: int, base_gfn: int, npages: int, flags: int, mapping: Mapping, first_page: int
) -> MemSlot:
    """Return a new slot that is not active yet."""
    slot = MemSlot(id, base_gfn, npages, flags, mapping, first_page)
    if kvm.design.defect == DEFECT_SLOT_MISALIGNED:
        slot.forget_misalignment()
    return slot


def _create(
    kvm: Kvm, id: int, base_gfn: int, npages: int, flags: int, mapping: Mapping, first_page: int
) -> None:
    """Add a slot."""
    _check_overlap(kvm, id, base_gfn, npages)
    _check_max_gfn(kvm, id, base_gfn, npages)
    slot = _new_slot(kvm, id, base_gfn, npages, flags & ~MEM_LOG_DIRTY_PAGES, mapping, first_page)
    if flags & MEM_LOG_DIRTY_PAGES:
        _set_logging(kvm, slot, on=True)
    activate_memslots(kvm, [*kvm.memslots, slot])
    kvm_mmu_zap_mmio_sptes(kvm)
    if flags & MEM_LOG_DIRTY_PAGES:
        kvm_mmu_update_cpu_dirty_logging(kvm, enable=True)
    _recompute_mmu_pages(kvm)


def _invalidate(kvm: Kvm, old: MemSlot) -> None:
    """Mark a slot invalid and zap what maps it, before it is deleted or moved (kvm_invalidate_memslot)."""
    old.flags |= MEMSLOT_INVALID
    activate_memslots(kvm, kvm.memslots)
    kvm_arch_flush_shadow_memslot(kvm, old)


def _replace(kvm: Kvm, old: MemSlot, new: MemSlot | None) -> None:
    """Activate `new` (None: nothing) in place of the invalidated slot."""
    others = [slot for slot in kvm.memslots if slot is not old]
    activate_memslots(kvm, others if new is None else [*others, new])
    if new is None and old.flags & MEM_LOG_DIRTY_PAGES:
        kvm_mmu_update_cpu_dirty_logging(kvm, enable=False)


def _move(kvm: Kvm, old: MemSlot, base_gfn: int) -> None:
    """Move a slot to another gfn. Raises RegionError, then it is back at the old one, but zapped."""
    _check_overlap(kvm, old.id, base_gfn, old.npages)
    new = _new_slot(kvm, old.id, base_gfn, old.npages, old.flags, old.mapping, old.first_page)
    new.adopt_log(old)
    _invalidate(kvm, old)
    try:
        _check_max_gfn(kvm, old.id, base_gfn, old.npages)
    except RegionError:
        old.flags &= ~MEMSLOT_INVALID
        activate_memslots(kvm, kvm.memslots)
        raise
    _replace(kvm, old, new)
    kvm_mmu_zap_mmio_sptes(kvm)


def _change_flags(kvm: Kvm, slot: MemSlot, flags: int) -> None:
    """Change a slot's flags, and start or stop dirty logging."""
    log = bool(flags & MEM_LOG_DIRTY_PAGES)
    _set_logging(kvm, slot, on=log)
    activate_memslots(kvm, kvm.memslots)
    kvm_mmu_update_cpu_dirty_logging(kvm, enable=log)
    if flags & MEM_READONLY:
        return
    if log:
        kvm_mmu_slot_enable_log(kvm, slot)
    else:
        kvm_mmu_zap_collapsible_sptes(kvm, slot)


def kvm_set_memory_region(
    kvm: Kvm, id: int, gpa: int, size: int, flags: int, mapping: Mapping, first_page: int = 0
) -> None:
    """Create, move or delete (size 0) slot `id`, or change its flags.

    gpa and size are in bytes. Raises RegionError; a move beyond what KVM can map is refused after everything
    of the slot was zapped.
    """
    if gpa % 4096 or size % 4096 or flags & ~(MEM_LOG_DIRTY_PAGES | MEM_READONLY) or gpa + size >= 1 << 64:
        raise RegionError(
            errno.EINVAL,
            f"slot {id}: address and size must be multiples of 4096 and end below 2^64, "
            "flags only KVM_MEM_LOG_DIRTY_PAGES and KVM_MEM_READONLY",
        )
    if size >> 12 > MAX_SLOT_PAGES:
        raise RegionError(errno.EINVAL, f"slot {id} must have at most 2^31 - 1 pages")
    old = id_to_memslot(kvm, id)
    base_gfn, npages = gpa >> 12, size >> 12
    if not size:
        if old is None:
            raise RegionError(errno.EINVAL, f"slot {id} must exist to be deleted")
        _invalidate(kvm, old)
        _replace(kvm, old, None)
        _recompute_mmu_pages(kvm)
    elif old is None:
        _create(kvm, id, base_gfn, npages, flags, mapping, first_page)
    elif old.npages != npages or old.mapping is not mapping or (old.flags ^ flags) & MEM_READONLY:
        raise RegionError(errno.EINVAL, f"slot {id}: size, memory and KVM_MEM_READONLY must not change")
    elif old.base_gfn != base_gfn:
        _move(kvm, old, base_gfn)
    elif old.flags != flags:
        _change_flags(kvm, old, flags)


def kvm_set_nr_mmu_pages(kvm: Kvm, count: int) -> None:
    """Set the limit of shadow pages (KVM_SET_NR_MMU_PAGES). Raises RegionError below 64."""
    if count < MIN_ALLOC_MMU_PAGES:
        raise RegionError(errno.EINVAL, f"the limit must be at least {MIN_ALLOC_MMU_PAGES} shadow pages")
    kvm_mmu_change_mmu_pages(kvm, count)
    kvm.n_requested_mmu_pages = kvm.n_max_mmu_pages
