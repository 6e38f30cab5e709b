"""What is known about a page fault on its way through the MMU."""

from ...x86.arrays import filled
from ..bits import PT32_ENT_PER_PAGE, PT64_ROOT_MAX_LEVEL
from .memslots import MemSlot


class GuestWalker:
    """What a walk of the guest's tables found (struct guest_walker, 6.12.111).

    Arrays are indexed by level - 1. `pt_access` is the access inherited into the table of that level,
    `pte_access` the access of the page itself; `pte_hpa` is where the gpte is in host memory.

    `prefetch_ptes` has room for all gptes of a table: no window of prefetching is larger.
    """

    def __init__(self) -> None:
        self.level = 0
        self.max_level = 0
        self.gfn = 0
        self.pte_access = 0
        self.table_gfn = filled(PT64_ROOT_MAX_LEVEL)
        self.ptes = filled(PT64_ROOT_MAX_LEVEL)
        self.pte_gpa = filled(PT64_ROOT_MAX_LEVEL)
        self.pte_hpa = filled(PT64_ROOT_MAX_LEVEL)
        self.pt_access = filled(PT64_ROOT_MAX_LEVEL)
        self.prefetch_ptes = filled(PT32_ENT_PER_PAGE)
        self.error_code = 0


class PageFault:
    """One page fault (struct kvm_page_fault, 6.12.111). Levels are 1..3; gfn and pfn in 4 KiB frames."""

    def __init__(self) -> None:
        self.addr = 0
        self.error_code = 0
        self.exec = False
        self.write = False
        self.present = False
        self.rsvd = False
        self.user = False
        self.nx_huge_page_workaround_enabled = False
        self.huge_page_disallowed = False
        self.is_tdp = False
        self.write_fault_to_shadow_pgtable = False
        self.map_writable = False
        self.prefetch = False
        self.max_level = 0
        self.req_level = 0
        self.goal_level = 0
        self.gfn = 0
        self.pfn = 0
        self.mmu_seq = 0
        self.slot: MemSlot | None = None


class LeafSpte:
    """What make_spte built: the SPTE, and whether W was withheld because gfn is shadowed."""

    def __init__(self) -> None:
        self.spte = 0
        self.wrprot = False
