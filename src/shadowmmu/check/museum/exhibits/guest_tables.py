"""Defects of following the guest's tables: its flushes, and tables out of sync."""

from .exhibit import Exhibit, defect

__all__ = ["GUEST_TABLES"]

GUEST_TABLES: tuple[Exhibit, ...] = (
    # -- flushes of the guest -------------------------------------------------------------------------------
    defect(
        "pdptrs_stale",
        "a PAE guest's new PDPTEs do not replace the roots",
        """A PAE guest has four directories, which the processor reads at MOV to CR3. If CR3 is the same
        but the four entries are not, KVM must free the roots made from the old ones. It kept them,
        and the guest ran on the directories that it had just replaced.""",
        "KVM: x86/mmu: Reconstruct shadow page root if the guest PDPTEs is changed",
        "5.x to 5.16 (2021)",
    ),
    defect(
        "cr3_unsynced",
        "MOV to CR3 takes a cached root without syncing it",
        """A root that the guest used before is kept, with unsync tables below it that the guest may
        have changed since. MOV to CR3 is a flush, unless bit 63 says that it is none, so these tables
        must be synced before the root is used. Without that the guest sees translations that it has
        flushed.""",
        "about 2018 to 2021, when cached roots and PCIDs came: KVM: x86: Invalidate all PGDs for the "
        "current PCID on MOV CR3 w/ flush",
        "4.19 to 5.13, in parts",
    ),
    defect(
        "pcid_roots_kept",
        "a flush of a PCID leaves its other roots alone",
        """MOV to CR3 without bit 63 flushes a PCID: all that is cached for it, also below other CR3s
        that the guest used with it. KVM synced the root that became current only. A later MOV to CR3
        with bit 63 brought a previous root back, with tables that had not been synced.""",
        "KVM: x86: Invalidate all PGDs for the current PCID on MOV CR3 w/ flush",
        "4.19 to 5.13 (2021)",
    ),
    defect(
        "invlpg_current_root",
        "INVLPG forgets the previous roots",
        """INVLPG drops an address for the current PCID, global translations for all. Roots that KVM
        keeps from former CR3s may hold the same address in other unsync tables. They must be synced as
        well, or a switch back without a flush finds the old translation.""",
        "about 2018, 4.19: previous roots are synced by kvm_mmu_invlpg and INVPCID",
        "while previous roots were being added",
    ),
    defect(
        "invlpg_flushes_locally",
        "INVLPG drops an SPTE and flushes only its own vCPU",
        """INVLPG syncs the SPTE for its address, which may drop it, and its rmap entry with it. The
        guest asked for a flush of one vCPU only, but from then on KVM does not know that another vCPU's
        TLB still has the page: whoever protects or unmaps that page later finds no SPTE and does not
        flush.""",
        "KVM: MMU: fix forgot to flush all vcpu's tlb",
        "up to 2.6.35 (2010)",
    ),
    defect(
        "nested_unsynced",
        "entering and leaving a nested guest syncs nothing",
        """While L2 runs KVM shadows L1's nested tables. L1 may change them while it runs itself, which
        makes their shadow unsync; VMRUN with a flush makes the changes count. A transition that keeps a
        cached root and syncs nothing lets L2 continue with nested tables that L1 has changed: it reaches
        memory that L1 took away from it.""",
        "about 2020: KVM syncs and flushes on every transition of nested SVM; for VMX: KVM: nVMX: Sync "
        "all PGDs on nested transition with shadow paging",
        "around 5.7 to 5.13",
    ),
    defect(
        "ncr3_low_bits",
        "the low bits of a nested CR3 move the PDPTEs",
        """A hypervisor in PAE mode has its nested PDPTEs at bits 31:5 of the nested CR3; the five low bits
        are ignored. KVM added them to the address of each PDPTE. With one of them set L2 got nested page
        faults that L1's tables do not ask for, or the memory of other PDPTEs, and at the end of a page KVM
        read beyond it.""",
        "KVM: nSVM: Ignore nCR3[4:0] when loading PDPTEs from memory",
        "2.6.38 to 6.12-rc (2024), CVE-2024-50115",
    ),
    # -- unsync ---------------------------------------------------------------------------------------------
    defect(
        "sync_unflushed",
        "syncing drops SPTEs and flushes nobody",
        """When an unsync page is synced, SPTEs that no longer agree are dropped, with their rmap
        entries. KVM only noted that TLBs were dirty. Whoever write-protected that page later found no
        SPTE and did not flush; with a stale TLB entry another vCPU could keep writing to what KVM took
        for a protected page table.""",
        "KVM: X86: Fix missed remote tlb flush in rmap_write_protect()",
        "2.6.38 to 5.14 (2021)",
    ),
    defect(
        "link_unsynced",
        "a table is linked before what is below it is synced",
        """A guest may change a leaf table and then link its parent at a new place, where nothing was
        before: no flush is due, as nothing can be cached for that place. KVM linked the shadow of the
        parent with its unsync child as it was, and the guest got the translations of before its change.""",
        "KVM: X86: Synchronize the shadow pagetable before link it",
        "2.6.28 to 5.14 (2021)",
    ),
    defect(
        "link_unmarked",
        "linking an unsync table does not mark the way to it",
        """Every way from a root to an unsync page is marked, so that a sync of the root finds the page.
        A link made later, from a new parent, must be marked as well. Without the mark a flush under
        that root syncs nothing, and what the guest flushed stays in use.""",
        "about 2008, 2.6.28: out of sync shadow; kvm_mmu_get_page marks the parent of an unsync page",
        "while unsync pages were being added",
    ),
    defect(
        "sync_writable",
        "syncing one table makes another one writable",
        """Sync protects all unsync tables below a root first, then syncs each. If one maps
        another, and syncing it makes that mapping writable again, because its target still counts as
        unsync, then that table is synced while the guest can write it: KVM believes in a table that
        changes unseen.""",
        "KVM: MMU: fix writable sync sp mapping",
        "2.6.35 (2010)",
    ),
    defect(
        "unsync_kept",
        "a table becomes a directory while it is unsync as a leaf table",
        """A page of guest memory may be used as leaf table and as directory. Once it is shadowed as a
        directory, every write to it is emulated, so no unsync page of it may be left: it would never be
        synced again as the guest's writes no longer make it so, and a sync with the wrong role does
        harm.""",
        "KVM: x86/mmu: Unconditionally zap unsync SPs when creating >4k SP at GFN",
        "up to 5.13 they were synced (2021)",
    ),
)
