"""Records of a page fault while KVM handles it: the fault, the walk of the guest's tables, the SPTE made."""

from ...x86.arrays import filled
from ..bits import PT32_ENT_PER_PAGE, PT64_ROOT_MAX_LEVEL
from .memslots import MemSlot


class GuestWalker:
    """Result of a walk of the guest's tables (struct guest_walker, 6.12.111).

    Arrays are indexed by level - 1; only the elements from `level` to `max_level` belong to the last walk.

    Attributes:
        level: Level of the last gpte read: of the one that maps the page, or at which the walk failed.
        max_level: Level of the first gpte read from memory (a PAE walk begins at 2, after the PDPTE).
        gfn: Guest frame of the address; valid only after a walk that succeeded.
        pte_access: ACC_* that all gptes on the way grant to the page; without ACC_W while a read left Dirty
            clear.
        table_gfn: Guest frame of the table of each level.
        ptes: Value of each gpte, with Accessed and Dirty as set by the walk.
        pte_gpa: Guest-physical address of each gpte.
        pte_hpa: Host physical address of each gpte.
        pt_access: ACC_* inherited from the levels above into the table of each level.
        prefetch_ptes: Gptes around the faulting one, read with it for prefetching; room for all of a table.
        error_code: PFERR_* for the guest's page fault if the walk failed, else 0 (fault.error_code).
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
    """A page fault that KVM handles (struct kvm_page_fault, 6.12.111).

    Attributes:
        addr: Faulting address: guest-virtual, or guest-physical if the MMU is direct.
        error_code: PFERR_* of the fault.
        exec: The access was an instruction fetch.
        write: The access was a write.
        present: The fault was a violation of rights, not a missing entry (PFERR_P).
        rsvd: The SPTE had a reserved bit set: an MMIO SPTE.
        user: The access was at CPL 3.
        nx_huge_page_workaround_enabled: The NX huge page mitigation is on for this VM.
        huge_page_disallowed: The mitigation forbids a huge page here: a fetch while it is on.
        is_tdp: Two-dimensional paging maps the address (not for L2).
        write_fault_to_shadow_pgtable: The page written holds a guest table of the very walk that reached it.
        map_writable: The host page may be mapped writable.
        prefetch: KVM maps the page ahead of an access (KVM_PRE_FAULT_MEMORY).
        max_level: Level of the largest page allowed by the guest's tables or the kind of MMU, 1 to 3.
        req_level: Level of the largest page that slot and host memory allow, 1 to 3.
        goal_level: Level that the fault maps at, 1 to 3; at most req_level.
        gfn: Guest frame of the address, in 4 KiB frames.
        pfn: Host frame, rounded down to goal_level; NO_PFN where no memslot is.
        mmu_seq: kvm.mmu_invalidate_seq before the host page was looked up.
        slot: The memslot of gfn, or None.
    """

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
    """Result of make_spte.

    Attributes:
        spte: The SPTE.
        wrprot: W was withheld because a page shadows gfn (make_spte's return value).
    """

    def __init__(self) -> None:
        self.spte = 0
        self.wrprot = False
