"""Defects of which shadow page is found, linked, zapped and kept as a root."""

from .exhibit import Exhibit, defect, exhibit

__all__ = ["SHADOW_PAGES"]

SHADOW_PAGES: tuple[Exhibit, ...] = (
    # -- which shadow page ----------------------------------------------------------------------------------
    defect(
        "child_by_presence",
        "a linked table is kept whatever it shadows",
        """On a fault KVM walks down its own tables and makes those that are missing. An SPTE that
        pointed to a table was taken as it was. But the guest can change a directory entry without KVM
        seeing it: by a write that straddles two entries, or by a device. Then the walk continues in the
        shadow of another guest table, and what is mapped there is entered into the rmap under a gfn
        that the shadow page will not find again when it is zapped: a use after free.""",
        "about 2026, stable 6.1 and 6.12: compare the gfn of a linked child (kvm_mmu_get_child_sp)",
        "2.6.x to 6.12",
    ),
    exhibit(
        "child_by_gfn",
        "a linked table is kept if only its gfn is right",
        "The half of the fix that 6.1.176 has: of a table that is linked already only the gfn is "
        "compared, not the role. When the guest changes the rights of a directory entry, or turns a "
        "table into a huge page of the same gfn, unseen by KVM, the walk continues in a page of other "
        "rights, or in a direct page where an indirect one is due.",
        "KVM: x86: Fix shadow paging use-after-free due to unexpected role",
        "2.6.x to 7.1 (2026), CVE-2026-53359, called Januscape; 6.1.176",
        {"child_lookup_compares_role": "no"},
    ),
    defect(
        "rights_of_last_table",
        "all tables of a walk get the rights of the last table",
        """The role of a shadow page holds the rights that all entries above it leave. KVM computed them
        once, at the last table, and used them for every table of the walk. Two directories that share a
        table but differ in rights then shared a shadow page as well, and what the first had mapped was
        usable through the second: a user page of one path became a kernel's or a writable one of the
        other.""",
        "KVM: X86: MMU: Use the correct inherited permissions to get shadow page",
        "2.6.20 to 5.13 (2021)",
    ),
    defect(
        "rights_of_upper_tables",
        "tables for a split huge page do not have the rights of its entry",
        """Where the guest has a huge page and the host has small ones, KVM makes a direct table. Its
        role took the rights of the tables above the guest's entry, not those of the entry. Two entries
        for the same huge page, one writable and one not, then shared a direct table, and the read-only
        one could be written through: copy-on-write of a guest's huge pages breaks.""",
        "KVM: MMU: fix conflict access permissions in direct sp",
        "up to 2.6.35 (2010)",
    ),
    defect(
        "quadrant_ignored",
        "all quarters of a 32-bit table share one shadow page",
        """A table of 1024 four-byte entries needs two shadow pages of 512, a directory four; which one
        a page is, its quadrant, is part of the role. Without it the halves of a guest's table share a
        shadow page, and an address may reach what belongs 2 MiB further on.""",
        "about 2007: KVM: MMU: Respect nonpae pagetable quadrant when zapping ptes; the role's quadrant "
        "itself came with the hash of shadow pages in 2.6.20",
        "before 2.6.20; in 2022 a patch for eager splitting was sent back for it",
    ),
    defect(
        "nonpae_pde",
        "of the two SPTEs for a 32-bit directory entry one is left",
        """A directory entry of a 32-bit guest without PAE maps 4 MiB, and two SPTEs of 2 MiB stand for
        it. A write to the entry must drop both. KVM dropped one; the guest kept using the old table
        for half of what it had remapped.""",
        "KVM: MMU: Fix guest writes to nonpae pde",
        "2.6.20, 2.6.21 (2007)",
    ),
    defect(
        "cr0_wp_shared",
        "shadow pages do not depend on CR0.WP",
        """With CR0.WP=0 a kernel may write read-only user pages. KVM maps such a page writable and for
        the kernel only. If the role does not hold CR0.WP, these SPTEs stay after the guest sets CR0.WP
        again, or another vCPU has it set, and the kernel writes where it should get a page fault.""",
        "KVM: MMU: Segregate shadow pages with different cr0.wp",
        "up to 2.6.34 (2010)",
    ),
    defect(
        "smep_shared",
        "shadow pages do not depend on SMEP with CR0.WP=0",
        """The pages that KVM turns from user to kernel pages for CR0.WP=0 are then executable for the
        kernel, which SMEP forbids for user pages. So they lose X if SMEP is on, and the role must say
        under which of both they were made. It did not: after switching SMEP on a kernel could execute
        user pages.""",
        "KVM: MMU: Adjust shadow paging to work when SMEP=1 and CR0.WP=0",
        "while SMEP was being added, 3.0 (2011); the same for SMAP until 4.2",
    ),
    # -- SPTEs, rmaps, links --------------------------------------------------------------------------------
    defect(
        "replaced_unflushed",
        "a table replaces a huge SPTE without a flush",
        """A fault below a huge page, or shadowing a table in it, puts a table where a huge SPTE was.
        The TLBs may still hold the huge page, for which there is no rmap entry any more. Whatever is
        protected or unmapped in that range later is not flushed, and the guest keeps using it.""",
        "about 2010, drop_large_spte; KVM flushes whatever a table replaces since 2026",
        "2.6.26 on, at single places",
    ),
    exhibit(
        "flush_from_table",
        "the flush for a replaced huge SPTE begins at the wrong gfn",
        "On Hyper-V KVM can flush a range of guest frames. For a huge SPTE that a table replaces it took "
        "the gfn of the table that holds the SPTE, not the SPTE's own: unless it is the first of its "
        "table, other memory is flushed than is needed.",
        "KVM: x86/mmu: Fix wrong start gfn of tlb flushing with range",
        "5.1 to 6.1 (2022)",
        {"ranged_flush_start": "table", "ranged_flush": "yes", "split_flush": "always"},
    ),
    defect(
        "rmap_left",
        "an SPTE gets another page and its old rmap entry stays",
        """When a gpte of an unsync table leads elsewhere, the next fault finds an SPTE for another
        page. It must be dropped, with its entry in the rmap of the old frame, before the new one is
        entered. An entry that is left points at an SPTE which maps something else, and later
        into a page that was freed.""",
        "about 2008: rmap entries of replaced SPTEs (mmu_set_spte, rmap_remove)",
        "2.6.2x",
    ),
    defect(
        "parent_left",
        "a link is emptied and the child keeps it as its parent",
        """A shadow page knows the SPTEs that point to it, so that zapping it can empty them. A link
        that is emptied from above must be taken off that list. If it stays, zapping the child empties
        an SPTE that points somewhere else by then.""",
        "about 2008 to 2010: KVM: MMU: fix kvm_mmu_zap_page() and its calling path and the like",
        "2.6.2x",
    ),
    defect(
        "unaccounted_twice",
        "a root that is zapped twice is unaccounted twice",
        """A root that is zapped while it is in use is emptied, and freed when its last user drops
        it, which zaps it again. The counters of shadowed tables go down at the first time only. Taking
        them down twice ends write tracking of a table that another page still shadows.""",
        "about 2008 to 2013: unaccount_shadowed only if the page was not invalid before",
        "2.6.2x",
    ),
    defect(
        "freed_unflushed",
        "shadow pages are freed before the TLBs are flushed",
        """A zapped page may be in use by another vCPU's TLB, and its frame is free for anything once it
        is dropped. The flush comes before that.""",
        "KVM: Flush remote tlbs when reducing shadow pte permissions",
        "up to 2.6.22 (2007)",
    ),
    exhibit(
        "zapscape",
        "the root may go stale while a fault makes room for pages",
        """A fault looked whether its root is still valid, then made room for new shadow pages. To make room
        is to zap old ones, and with a page of nested tables its children, also one that serves as a root: on
        AMD a directory of a hypervisor's vCPU in long mode is one of the four roots of a vCPU in PAE mode
        with the same nested tables. The fault continued under the root it had just lost. Pages made there
        took over that they are invalid, but were on the list of active pages; zapped again they were on two
        lists, and freed. A guest could make that its way to the host.""",
        "KVM: x86: Check for invalid/obsolete root *after* making MMU pages available",
        "5.9 to 7.1 (2026), CVE-2026-64561, called Zapscape; before 5.9 without harm; 6.1.176",
        {"stale_check_before_recycling": "yes", "child_inherits_invalid": "yes"},
    ),
)
