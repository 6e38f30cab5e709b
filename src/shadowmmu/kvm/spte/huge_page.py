"""The level at which a fault is mapped (arch/x86/kvm/mmu/mmu.c, 6.12.111)."""

from cython import uint as u32, ulonglong as u64

from ...x86.bits import ADDR, PS
from ..bits import MEM_LOG_DIRTY_PAGES, SPTE_MMU_PRESENT
from ..state.fault import PageFault
from ..state.memslots import MemSlot
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm


def pages_per_hpage(level: u32) -> u64:
    """Return the number of 4 KiB pages in a page of `level` (KVM_PAGES_PER_HPAGE)."""
    one: u64 = 1
    return one << (9 * (level - 1))


def gfn_round_for_level(gfn: u64, level: u32) -> u64:
    """Return the first gfn of the page of `level` that holds gfn."""
    return gfn & ~(pages_per_hpage(level) - 1)


def kvm_mmu_max_mapping_level(kvm: Kvm, slot: MemSlot, gfn: u64, max_level: u32) -> u32:
    """Return the largest level, up to max_level, at which gfn may be mapped: the slot allows it (no shadowed
    table inside, aligned) and the host maps it at that level or a larger one.
    """
    level: u32 = max_level
    if level > kvm.parameters.max_huge_page_level:
        level = kvm.parameters.max_huge_page_level
    while level > 1 and slot.disallow_lpage(gfn, level):
        level -= 1
    if level == 1:
        return 1
    host: u32 = slot.mapping.level(slot.page_index(gfn))
    return host if host < level else level


def kvm_mmu_hugepage_adjust(kvm: Kvm, fault: PageFault) -> None:
    """Choose fault.goal_level and round fault.pfn down to it."""
    fault.huge_page_disallowed = fault.exec and fault.nx_huge_page_workaround_enabled
    slot: MemSlot | None = fault.slot
    if fault.max_level == 1 or slot is None or slot.flags & MEM_LOG_DIRTY_PAGES:
        return
    fault.req_level = kvm_mmu_max_mapping_level(kvm, slot, fault.gfn, fault.max_level)
    if fault.req_level == 1 or fault.huge_page_disallowed:
        return
    fault.goal_level = fault.req_level
    fault.pfn &= ~(pages_per_hpage(fault.goal_level) - 1)


def disallowed_hugepage_adjust(kvm: Kvm, fault: PageFault, spte: u64, level: u32) -> None:
    """Lower fault.goal_level by one where the SPTE points to a table that serves executable small pages: a
    non-executable huge page must not replace it.
    """
    if level == 1 or level != fault.goal_level or not spte & SPTE_MMU_PRESENT or spte & PS:
        return
    child: ShadowPage = kvm.sptep_to_sp(spte & ADDR)
    if child.nx_huge_page_disallowed or kvm.design.nx_marks_only_possible_huge_pages:
        fault.pfn |= fault.gfn & (pages_per_hpage(level) - pages_per_hpage(level - 1))
        fault.goal_level -= 1


def trace_spte_requested(kvm: Kvm, fault: PageFault, access: u32) -> None:
    """Fire kvm_mmu_spte_requested with the 4 KiB frame that faulted, also where a huge page is mapped.

    `access` is what the guest's tables grant (ACC_*).
    """
    low: u64 = fault.gfn & (pages_per_hpage(fault.goal_level) - 1)
    kvm.tracer.kvm_mmu_spte_requested(fault.gfn, fault.pfn | low, fault.goal_level, access)
