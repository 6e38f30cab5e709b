"""KVM's mmu_notifier: the host takes memory away or replaces it (virt/kvm/kvm_main.c, 6.12.111)."""

from collections.abc import Iterator

from ..bits import DEFECT_HUGE_LEFT_MAPPED
from ..spte.flush import kvm_flush_remote_tlbs
from ..spte.huge_page import gfn_round_for_level, pages_per_hpage
from ..spte.rmap import kvm_age_rmap, kvm_zap_all_rmap_sptes, pte_list
from ..spte.spte import changed_pte_spte, mmu_spte_clear_track_bits, mmu_spte_update
from ..state.memslots import MemSlot
from ..state.vm import Kvm
from ..tdp.age import kvm_tdp_mmu_age_gfn_range, kvm_tdp_mmu_test_age_gfn
from ..tdp.zap import kvm_tdp_mmu_unmap_gfn_range


class MmuNotifier:
    """Zaps what maps a range before the host changes it; a fault that overlaps in time is retried.

    Attributes:
        kvm: The VM.
    """

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm

    def _slots(self, start: int, end: int) -> list[tuple[MemSlot, int, int]]:
        """Return (slot, first gfn, gfn after the last) of every slot backed by host addresses
        [start, end).
        """
        found = []
        for slot in self.kvm.memslots:
            hva = slot.mapping.hva + (slot.first_page << 12)
            low, high = max(start, hva), min(end, hva + (slot.npages << 12))
            if low < high:
                first = slot.base_gfn + ((low - hva) >> 12)
                found.append((slot, first, slot.base_gfn + ((high - hva + 4095) >> 12)))
        return sorted(found, key=lambda item: item[0].mapping.hva + (item[0].first_page << 12))

    def invalidate_range_start(self, start: int, end: int) -> None:
        """Zap what maps host addresses [start, end), and begin the invalidation."""
        kvm = self.kvm
        if kvm.tracing:
            kvm.tracer.kvm_unmap_hva_range(start, end)
        slots = self._slots(start, end)
        if not slots:
            return
        kvm.mmu_invalidate_in_progress += 1
        flush = False
        for slot, first, last in slots:
            self._extend_range(first, last)
            flush |= kvm_unmap_gfn_range(kvm, slot, first, last)
        if flush:
            kvm_flush_remote_tlbs(kvm)

    def change_pte(self, address: int, pfn: int, *, writable: bool) -> None:
        """Map the page that replaces another in place, between the two calls for its range (kernels with
        `change_pte`).

        SPTEs of the old page map the new one read-only, or are zapped if it is writable. The start of the
        invalidation has emptied them already, so this never finds one.
        """
        kvm = self.kvm
        if not kvm.design.change_pte:
            return
        if kvm.tracing:
            kvm.tracer.kvm_set_spte_hva(address)
        if not kvm.mmu_invalidate_in_progress:
            return
        flush = False
        for slot, first, _ in self._slots(address, address + 1):
            flush |= _set_gfn_pfn(kvm, slot, first, pfn, writable=writable)
        if flush:
            kvm_flush_remote_tlbs(kvm)

    def clear_flush_young(self, start: int, end: int) -> bool:
        """Return whether [start, end) was accessed; mark it as not accessed and flush, so that the next
        access is seen. Since 7.3 without a flush.
        """
        young = self._age(start, end, clear=True)
        if young and self.kvm.design.age_flushes:
            kvm_flush_remote_tlbs(self.kvm)
        return young

    def clear_young(self, start: int, end: int) -> bool:
        """Return the same without a flush: a page in a TLB may look unused."""
        return self._age(start, end, clear=True)

    def test_young(self, hva: int) -> bool:
        """Return whether the page at hva was accessed."""
        if self.kvm.tracing:
            self.kvm.tracer.kvm_test_age_hva(hva)
        slots = self._slots(hva, hva + 1)
        return sum(_age_gfn_range(self.kvm, *found, clear=False) for found in slots) != 0

    def _age(self, start: int, end: int, *, clear: bool) -> bool:
        """Return whether [start, end) was accessed; `clear`: mark it as not accessed."""
        if self.kvm.tracing:
            self.kvm.tracer.kvm_age_hva(start, end)
        slots = self._slots(start, end)
        return sum(_age_gfn_range(self.kvm, *found, clear=clear) for found in slots) != 0

    def _extend_range(self, first: int, last: int) -> None:
        """Extend the range of invalidations in progress by gfns [first, last)."""
        kvm = self.kvm
        if kvm.mmu_invalidate_in_progress == 1 and not kvm.mmu_invalidate_end:
            kvm.mmu_invalidate_start, kvm.mmu_invalidate_end = first, last
        else:
            kvm.mmu_invalidate_start = min(kvm.mmu_invalidate_start, first)
            kvm.mmu_invalidate_end = max(kvm.mmu_invalidate_end, last)

    def invalidate_range_end(self, start: int, end: int) -> None:
        """End the invalidation: faults that began before it retry."""
        kvm = self.kvm
        if not self._slots(start, end):
            return
        kvm.mmu_invalidate_seq += 1
        kvm.mmu_invalidate_in_progress -= 1
        if not kvm.mmu_invalidate_in_progress:
            kvm.mmu_invalidate_start = kvm.mmu_invalidate_end = 0


def _set_gfn_pfn(kvm: Kvm, slot: MemSlot, gfn: int, pfn: int, *, writable: bool) -> bool:
    """Let every SPTE that maps gfn map pfn. Return whether there was one (kvm_set_pte_rmap).

    As in KVM, page statistics are decremented for an SPTE that stays.
    """
    found = False
    for level in (1, 2, 3):
        head = slot.rmap_head(gfn, level)
        found |= head != 0
        if writable:
            kvm_zap_all_rmap_sptes(kvm, slot, gfn, level)
            continue
        for sptep in pte_list(kvm, head):
            spte = kvm.read_spte(sptep)
            mmu_spte_clear_track_bits(kvm, sptep)
            mmu_spte_update(kvm, sptep, changed_pte_spte(kvm, spte, pfn))
    return found


def kvm_unmap_gfn_range(kvm: Kvm, slot: MemSlot, first: int, last: int) -> bool:
    """Empty every SPTE that maps a part of [first, last), at all levels. Return whether there was one."""
    flush = False
    if kvm.have_rmaps():
        for level, gfn in _rmap_gfns(slot, first, last):
            if level > 1 and kvm.design.defect == DEFECT_HUGE_LEFT_MAPPED:
                continue
            flush |= kvm_zap_all_rmap_sptes(kvm, slot, gfn, level)
    if kvm.tdp_mmu_enabled():
        flush = kvm_tdp_mmu_unmap_gfn_range(kvm, first, last, flush, True)
    return flush


def _rmap_gfns(slot: MemSlot, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield (level, gfn) of every rmap of the slot that may map a part of [first, last)."""
    for level in (1, 2, 3):
        gfn = gfn_round_for_level(first, level)
        while gfn < last:
            yield level, max(gfn, slot.base_gfn)
            gfn += pages_per_hpage(level)


def _age_gfn_range(kvm: Kvm, slot: MemSlot, first: int, last: int, *, clear: bool) -> bool:
    """Return whether a part of [first, last) was accessed through any SPTE; `clear`: mark it as
    not accessed.
    """
    young = False
    if kvm.have_rmaps():
        for level, gfn in _rmap_gfns(slot, first, last):
            young |= kvm_age_rmap(kvm, slot, gfn, level, clear)
    if kvm.tdp_mmu_enabled():
        age = kvm_tdp_mmu_age_gfn_range if clear else kvm_tdp_mmu_test_age_gfn
        young |= age(kvm, first, last)
    return young
