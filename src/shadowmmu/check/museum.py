"""The bug museum: historic defects of KVM's MMU that a switch brings back, for the checks to find.

Each is one mechanism left out, at the level of this model. Titles of fixes are those of public commits; where
a story is older than its fix, or was never one commit, `fix` begins with "about".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from ..kvm.switches import switch_named

__all__ = ["EXHIBITS", "Exhibit", "UnknownExhibit", "exhibit_named", "results"]


class UnknownExhibit(LookupError):
    """No such defect; the text names the nearest."""


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One defect.

    story     what was wrong, and what a guest or its host could see
    fix       title of the public commit that mended it, or "about" and what is known
    kernels   which kernels had it, as far as known
    switches  the design that brings it back
    """

    name: str
    title: str
    story: str
    fix: str
    kernels: str
    switches: Mapping[str, str]

    @property
    def scenario(self) -> str:
        """File of the scenario that shows it, from the root of the repository."""
        return f"scenarios/museum/{self.name}.txt"

    @property
    def mended(self) -> Mapping[str, str]:
        """The same design without the defect."""
        return {
            name: value if name in _SURROUNDINGS else switch_named(name).default
            for name, value in self.switches.items()
        }


_SURROUNDINGS = ("mmio_generation_bits", "ranged_flush", "split_flush")
"""Switches that make a defect visible and are harmless by themselves."""


def _defect(name: str, title: str, story: str, fix: str, kernels: str, **surroundings: str) -> Exhibit:
    return Exhibit(name, title, " ".join(story.split()), fix, kernels, {"defect": name, **surroundings})


EXHIBITS: tuple[Exhibit, ...] = (
    # -- which shadow page -------------------------------------------------------------------------------
    _defect(
        "child_by_presence",
        "a linked table is kept whatever it shadows",
        """On a fault KVM walks down its own tables and makes those that are missing. An SPTE that
        pointed to a table was taken as it was. But the guest can change a directory entry without KVM
        seeing it: by a write that straddles two entries, or by a device. Then the walk goes on in the
        shadow of another guest table, and what is mapped there is entered into the rmap under a gfn
        that the shadow page will not find again when it is zapped: a use after free.""",
        "about 2026, stable 6.1 and 6.12: compare the gfn of a linked child (kvm_mmu_get_child_sp)",
        "2.6.x to 6.12",
    ),
    Exhibit(
        "child_by_gfn",
        "a linked table is kept if only its gfn is right",
        "The half of the mending that 6.1.176 has: of a table that is linked already only the gfn is "
        "compared, not the role. When the guest changes the rights of a directory entry, or turns a "
        "table into a huge page of the same gfn, behind KVM's back, the walk goes on in a page of other "
        "rights, or in a direct page where an indirect one is due.",
        "about 2026, stable 6.12: compare the role of a linked child too (kvm_mmu_get_child_sp)",
        "up to 6.12; 6.1.176",
        {"child_lookup_compares_role": "no"},
    ),
    _defect(
        "rights_of_last_table",
        "the rights of the last table go to all tables of a walk",
        """The role of a shadow page holds the rights that all entries above it leave. KVM computed them
        once, at the last table, and used them for every table of the walk. Two directories that share a
        table but differ in rights then shared a shadow page as well, and what the first had mapped was
        usable through the second: a user page of one path became a kernel's or a writable one of the
        other.""",
        "KVM: X86: MMU: Use the correct inherited permissions to get shadow page",
        "2.6.20 to 5.13 (2021)",
    ),
    _defect(
        "rights_of_upper_tables",
        "tables for a split huge page do not have the rights of its entry",
        """Where the guest has a huge page and the host has small ones, KVM makes a direct table. Its
        role took the rights of the tables above the guest's entry, not those of the entry. Two entries
        for the same huge page, one writable and one not, then shared a direct table, and the read-only
        one could be written through: copy-on-write of a guest's huge pages breaks.""",
        "KVM: MMU: fix conflict access permissions in direct sp",
        "up to 2.6.35 (2010)",
    ),
    _defect(
        "quadrant_ignored",
        "all quarters of a 32-bit table share one shadow page",
        """A table of 1024 four-byte entries needs two shadow pages of 512, a directory four; which one
        a page is, its quadrant, is part of the role. Without it the halves of a guest's table share a
        shadow page, and an address may reach what belongs 2 MiB further on.""",
        "about 2007: KVM: MMU: Respect nonpae pagetable quadrant when zapping ptes; the role's quadrant "
        "itself came with the hash of shadow pages in 2.6.20",
        "before 2.6.20; in 2022 a patch for eager splitting was sent back for it",
    ),
    _defect(
        "nonpae_pde",
        "of the two SPTEs for a 32-bit directory entry one is left",
        """A directory entry of a 32-bit guest without PAE maps 4 MiB, and two SPTEs of 2 MiB stand for
        it. A write to the entry must drop both. KVM dropped one; the guest went on to use the old table
        for half of what it had remapped.""",
        "KVM: MMU: Fix guest writes to nonpae pde",
        "2.6.20, 2.6.21 (2007)",
    ),
    _defect(
        "cr0_wp_shared",
        "shadow pages do not depend on CR0.WP",
        """With CR0.WP=0 a kernel may write read-only user pages. KVM maps such a page writable and for
        the kernel only. If the role does not hold CR0.WP, these SPTEs stay after the guest sets CR0.WP
        again, or another vCPU has it set, and the kernel writes where it should get a page fault.""",
        "KVM: MMU: Segregate shadow pages with different cr0.wp",
        "up to 2.6.34 (2010)",
    ),
    _defect(
        "smep_shared",
        "shadow pages do not depend on SMEP with CR0.WP=0",
        """The pages that KVM turns from user to kernel pages for CR0.WP=0 are then executable for the
        kernel, which SMEP forbids for user pages. So they lose X if SMEP is on, and the role must say
        under which of both they were made. It did not: after switching SMEP on a kernel could execute
        user pages.""",
        "KVM: MMU: Adjust shadow paging to work when SMEP=1 and CR0.WP=0",
        "while SMEP was being added, 3.0 (2011); the same for SMAP until 4.2",
    ),
    # -- flushes of the guest ----------------------------------------------------------------------------
    _defect(
        "pdptrs_stale",
        "a PAE guest's new PDPTEs do not replace the roots",
        """A PAE guest has four directories, which the processor reads at MOV to CR3. If CR3 is the same
        but the four entries are not, KVM must let go of the roots made from the old ones. It kept them,
        and the guest ran on the directories that it had just replaced.""",
        "KVM: x86/mmu: Reconstruct shadow page root if the guest PDPTEs is changed",
        "5.x to 5.16 (2021)",
    ),
    _defect(
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
    _defect(
        "pcid_roots_kept",
        "a flush of a PCID leaves its other roots alone",
        """MOV to CR3 without bit 63 flushes a PCID: all that is cached for it, also below other CR3s
        that the guest used with it. KVM synced the root that became current only. A later MOV to CR3
        with bit 63 brought a previous root back, with tables that had not been synced.""",
        "KVM: x86: Invalidate all PGDs for the current PCID on MOV CR3 w/ flush",
        "4.19 to 5.13 (2021)",
    ),
    _defect(
        "invlpg_current_root",
        "INVLPG forgets the previous roots",
        """INVLPG drops an address for the current PCID, global translations for all. Roots that KVM
        keeps from former CR3s may hold the same address in other unsync tables. They must be synced as
        well, or a switch back without a flush finds the old translation.""",
        "about 2018, 4.19: previous roots are synced by kvm_mmu_invlpg and INVPCID",
        "while previous roots were being added",
    ),
    _defect(
        "invlpg_flushes_locally",
        "INVLPG drops an SPTE and flushes only its own vCPU",
        """INVLPG syncs the SPTE for its address, which may drop it, and its rmap entry with it. The
        guest asked for a flush of one vCPU only, but from then on KVM does not know that another vCPU's
        TLB still has the page: whoever protects or unmaps that page later finds no SPTE and does not
        flush.""",
        "KVM: MMU: fix forgot to flush all vcpu's tlb",
        "up to 2.6.35 (2010)",
    ),
    _defect(
        "nested_unsynced",
        "entering and leaving a nested guest syncs nothing",
        """While L2 runs KVM shadows L1's nested tables. L1 may change them while it runs itself, which
        makes their shadow unsync; VMRUN with a flush makes the changes count. A transition that keeps a
        cached root and syncs nothing lets L2 go on with nested tables that L1 has changed: it reaches
        memory that L1 took away from it.""",
        "about 2020: KVM syncs and flushes on every transition of nested SVM; for VMX: KVM: nVMX: Sync "
        "all PGDs on nested transition with shadow paging",
        "around 5.7 to 5.13",
    ),
    # -- unsync ------------------------------------------------------------------------------------------
    _defect(
        "sync_unflushed",
        "syncing drops SPTEs and flushes nobody",
        """When an unsync page is synced, SPTEs that no longer agree are dropped, with their rmap
        entries. KVM only noted that TLBs were dirty. Whoever write-protected that page later found no
        SPTE and did not flush; with a stale TLB entry another vCPU could go on writing to what KVM took
        for a protected page table.""",
        "KVM: X86: Fix missed remote tlb flush in rmap_write_protect()",
        "2.6.38 to 5.14 (2021)",
    ),
    _defect(
        "link_unsynced",
        "a table is linked before what is below it is synced",
        """A guest may change a leaf table and then link its parent at a new place, where nothing was
        before: no flush is due, as nothing can be cached for that place. KVM linked the shadow of the
        parent with its unsync child as it was, and the guest got the translations of before its change.""",
        "KVM: X86: Synchronize the shadow pagetable before link it",
        "2.6.28 to 5.14 (2021)",
    ),
    _defect(
        "link_unmarked",
        "linking an unsync table does not mark the way to it",
        """Every way from a root to an unsync page is marked, so that a sync of the root finds the page.
        A link made later, from a new parent, must be marked as well. Without the mark a flush under
        that root syncs nothing, and what the guest flushed stays in use.""",
        "about 2008, 2.6.28: out of sync shadow; kvm_mmu_get_page marks the parent of an unsync page",
        "while unsync pages were being added",
    ),
    _defect(
        "sync_writable",
        "syncing one table makes another one writable",
        """Sync protects all unsync tables below a root first, then goes through them. If one maps
        another, and syncing it makes that mapping writable again, because its target still counts as
        unsync, then that table is synced while the guest can write it: KVM believes in a table that
        changes unseen.""",
        "KVM: MMU: fix writable sync sp mapping",
        "2.6.35 (2010)",
    ),
    _defect(
        "unsync_kept",
        "a table becomes a directory while it is unsync as a leaf table",
        """A page of guest memory may be used as leaf table and as directory. Once it is shadowed as a
        directory, every write to it is emulated, so no unsync page of it may be left: it would never be
        synced again as the guest's writes no longer make it so, and a sync with the wrong role does
        harm.""",
        "KVM: x86/mmu: Unconditionally zap unsync SPs when creating >4k SP at GFN",
        "up to 5.13 they were synced (2021)",
    ),
    # -- MMIO --------------------------------------------------------------------------------------------
    _defect(
        "mmio_over_present",
        "an MMIO SPTE is written over one that maps a page",
        """The guest points a gpte from memory to a device without KVM seeing it. The next fault finds
        no slot and writes an MMIO SPTE, over an SPTE that still maps the old page. The rmap keeps the
        address of that SPTE: whoever follows it later takes an MMIO SPTE for a mapping, or an SPTE in a
        page that has been freed.""",
        "about 2026, stable 6.1 and 6.12: what is present is dropped before an MMIO SPTE is written "
        "(mmu_set_spte)",
        "up to 6.12",
    ),
    _defect(
        "mmio_wrap",
        "the generation of MMIO SPTEs comes round and nobody looks",
        """An MMIO SPTE holds some bits of the generation of the memory slots, and is stale if that has
        moved on. When these bits come round to where they were, an SPTE from then is taken for fresh:
        KVM emulates MMIO where there is memory by now. Here the generation has 3 bits; KVM has 19.""",
        "KVM: x86/mmu: Detect MMIO generation wrap in any address space",
        "4.x to 5.0, of the second address space only (2019)",
        mmio_generation_bits="3",
    ),
    _defect(
        "mmio_cache_stale",
        "a vCPU's last MMIO access outlives a change of slots",
        """A vCPU remembers the address and the frame of its last MMIO access and emulates the next one
        there without looking. When user space then puts memory there, reads go to the device that is
        gone, for as long as the vCPU uses no other.""",
        "kvm: x86: fix stale mmio cache bug",
        "3.1 to 3.16 (2014)",
    ),
    # -- SPTEs, rmaps, links -----------------------------------------------------------------------------
    _defect(
        "replaced_unflushed",
        "a huge SPTE gives way to a table without a flush",
        """A fault below a huge page, or shadowing a table in it, puts a table where a huge SPTE was.
        The TLBs may still hold the huge page, for which there is no rmap entry any more. Whatever is
        protected or unmapped in that range later is not flushed, and the guest goes on to use it.""",
        "about 2010, drop_large_spte; KVM flushes whatever a table replaces since 2026",
        "2.6.26 on, at single places",
    ),
    Exhibit(
        "flush_from_table",
        "the flush for a replaced huge SPTE begins at the wrong gfn",
        "On Hyper-V KVM can flush a range of guest frames. For a huge SPTE that a table replaces it took "
        "the gfn of the table that holds the SPTE, not the SPTE's own: unless it is the first of its "
        "table, other memory is flushed than is needed.",
        "KVM: x86/mmu: Fix wrong start gfn of tlb flushing with range",
        "5.1 to 6.1 (2022)",
        {"ranged_flush_start": "table", "ranged_flush": "yes", "split_flush": "always"},
    ),
    _defect(
        "rmap_left",
        "an SPTE gets another page and its old rmap entry stays",
        """When a gpte of an unsync table leads elsewhere, the next fault finds an SPTE for another
        page. It must be dropped, with its entry in the rmap of the old frame, before the new one is
        entered. An entry that is left behind points at an SPTE which maps something else, and later
        into a page that was freed.""",
        "about 2008: rmap entries of replaced SPTEs (mmu_set_spte, rmap_remove)",
        "2.6.2x",
    ),
    _defect(
        "parent_left",
        "a link is emptied and the child keeps it as its parent",
        """A shadow page knows the SPTEs that point to it, so that zapping it can empty them. A link
        that is emptied from above must be taken off that list. If it stays, zapping the child empties
        an SPTE that points somewhere else by then.""",
        "about 2008 to 2010: KVM: MMU: fix kvm_mmu_zap_page() and its calling path and the like",
        "2.6.2x",
    ),
    _defect(
        "unaccounted_twice",
        "a root that is zapped twice is taken off the books twice",
        """A root that is zapped while it is in use is emptied, and freed when its last user lets go of
        it, which zaps it again. The counters of shadowed tables go down at the first time only. Taking
        them down twice ends write tracking of a table that another page still shadows.""",
        "about 2008 to 2013: unaccount_shadowed only if the page was not invalid before",
        "2.6.2x",
    ),
    _defect(
        "freed_unflushed",
        "shadow pages are freed before the TLBs are flushed",
        """A zapped page may be in use by another vCPU's TLB, and its frame is free for anything once it
        is let go of. The flush comes before that.""",
        "KVM: Flush remote tlbs when reducing shadow pte permissions",
        "up to 2.6.22 (2007)",
    ),
    # -- write protection and the dirty log --------------------------------------------------------------
    _defect(
        "lockless_unflushed",
        "protecting an SPTE that only logging had protected does not flush",
        """Dirty logging takes W from an SPTE, and flushes after it let go of mmu_lock. Meanwhile a
        table may be shadowed at that page: it finds W gone and sees no need to flush, though a TLB
        still has it writable. Hence the rule: flush if the SPTE was MMU-writable, whatever its W said.""",
        "KVM: MMU: flush tlb if the spte can be locklessly modified",
        "3.6 to 3.13 (2012, 2013)",
    ),
    _defect(
        "tdp_protection",
        "the TDP MMU protects guest tables only against W",
        """To shadow a table of L1's, what maps its page in the TDP MMU loses W and MMU-writable. The
        TDP MMU left SPTEs alone that were read-only already, for logging. The next write by L1 made the
        SPTE writable without mmu_lock: L1 changed nested tables which KVM took for protected.""",
        "KVM: x86/mmu: Fix write-protection of PTs mapped by the TDP MMU",
        "5.10 to 5.16 (2022)",
    ),
    _defect(
        "tdp_unmap_unflushed",
        "the TDP MMU unmaps for the host without a flush",
        """Before the host takes a page away the TDP MMU empties what maps it and tells its caller to
        flush. Where that word is lost on the way a guest goes on to read and write a page of somebody
        else.""",
        "KVM: x86/mmu: Ensure TLBs are flushed when yielding during GFN range zap",
        "5.10, 5.11 (2021)",
    ),
    _defect(
        "nx_recovery_unflushed",
        "huge page recovery frees tables of the TDP MMU without a flush",
        """The worker that gets huge pages back zaps tables of small executable pages. For those of the
        TDP MMU it did not pass on that a flush is due, so that vCPUs went on to use pages of a table
        that had been freed.""",
        "KVM: x86/mmu: Ensure TLBs are flushed for TDP MMU during NX zapping",
        "5.10, 5.11 (2021)",
    ),
    _defect(
        "huge_logged",
        "logging leaves huge pages writable",
        """When logging of a slot begins all its pages must become read-only, so that every write is
        seen. A huge SPTE left writable lets the guest write 512 pages of which a migration learns
        nothing.""",
        "about 2008, 2.6.26, when huge pages came to KVM's MMU (kvm_mmu_slot_remove_write_access)",
        "2.6.26, while huge pages were being added",
    ),
    _defect(
        "fast_huge_logged",
        "a fast fault makes a logged huge page writable",
        """Under logging a huge SPTE is read-only. A write to it may not be let through without
        mmu_lock: it would make 512 pages writable and mark one of them as dirty. The first version of
        read-only huge SPTEs did that and was reverted.""",
        "KVM: MMU: lazily drop large spte",
        "3.8-rc, before its second version (2013)",
    ),
    _defect(
        "log_unflushed",
        "KVM_GET_DIRTY_LOG protects pages and does not flush",
        """Pages that the log reports are made read-only again, so that the next write is seen. A vCPU
        whose TLB still has one writable writes it without a fault, after user space copied it: the
        migrated guest lacks that write.""",
        "KVM: Fix write protection race during dirty logging",
        "3.3, in a race (2012)",
    ),
    _defect(
        "table_write_unlogged",
        "Accessed and Dirty are set in a guest table that no log mentions",
        """KVM's walker sets Accessed and Dirty in the guest's entries, which is a write to guest
        memory. If the page is not marked as dirty the bits are lost in a migration.""",
        "about 2007 to 2012: mark_page_dirty where the walker sets Accessed and Dirty",
        "2.6.2x",
    ),
    _defect(
        "clean_writable",
        "a read maps a page writable whose Dirty is not set",
        """A page whose gpte is not Dirty is mapped read-only for a read, so that the first write sets
        Dirty. Mapped writable at once, the guest's write leaves Dirty clear, and its system drops a
        page that it takes for clean: lost data.""",
        "about 2007 to 2013; of huge pages: KVM: MMU: fix Dirty bit missed if CR0.WP = 0",
        "2.6.2x; in one case up to 3.8",
    ),
    # -- prefetching, slots, huge pages, roots -----------------------------------------------------------
    _defect(
        "readonly_prefetched",
        "a page of a read-only slot is prefetched as writable",
        """Prefetching maps neighbours of a page that faulted, and takes only pages that the host lets
        it write. The slot has a say too: in a read-only slot nothing may be mapped like that, or the
        guest writes to its ROM.""",
        "about 2012, 3.7, when read-only slots came (gfn_to_pfn_memslot_atomic)",
        "while read-only slots were being added",
    ),
    _defect(
        "reserved_prefetched",
        "a gpte with reserved bits is prefetched",
        """An access through an entry with a reserved bit set is a page fault with RSVD. Prefetching and
        syncing skipped the test that the walker makes, and mapped such entries: guests that use
        reserved bits to catch accesses caught none.""",
        "KVM: MMU: fix forgot reserved bits check in speculative path",
        "up to 2.6.37 (2010)",
    ),
    _defect(
        "huge_left_mapped",
        "when the host takes a page away huge SPTEs are not looked for",
        """The host tells KVM which of its addresses go, one page or many. What maps them may be a huge
        SPTE that begins long before. One that is overlooked lets the guest use memory that the host has
        given to somebody else.""",
        "about 2008 to 2009, 2.6.27 to 2.6.32: kvm_handle_hva looks at every level",
        "while mmu notifiers and huge pages came together",
    ),
    _defect(
        "slot_misaligned",
        "huge pages in a slot whose addresses do not fit together",
        """A huge page can be mapped if gfn and host address have the same offset in it, and if all of
        it is in the slot. For a slot placed otherwise a huge SPTE maps the wrong frames, or memory of
        the host next to the guest's.""",
        "KVM: Disable large pages on misaligned memory slots",
        "2.6.26 to 2.6.30 (2009)",
    ),
    _defect(
        "huge_executable",
        "huge pages are executable in spite of the mitigation",
        """Some processors can be brought to a halt by a change of page size under executed code. With
        nx_huge_pages no huge page is executable; a fetch splits it.""",
        "kvm: mmu: ITLB_MULTIHIT mitigation",
        "up to 5.3 (2019)",
    ),
    _defect(
        "obsolete_root_kept",
        "all pages are zapped and the vCPUs keep their roots",
        """Deleting a slot makes all shadow pages obsolete, and every vCPU must load a new root before
        it runs again. Without that request a vCPU runs on in an emptied root, or one that is about to
        be freed, and every fault is retried for ever because it finds its root obsolete.""",
        "about 2013, 3.11 (KVM: MMU: fast invalidate all pages), again in 5.x (KVM: x86/mmu: Treat "
        "invalid shadow pages as obsolete)",
        "around 3.11 and 5.5",
    ),
)
"""What the museum shows, in the order of a walk through it."""


def exhibit_named(name: str) -> Exhibit:
    """The exhibit of that name. Raises UnknownExhibit."""
    for exhibit in EXHIBITS:
        if exhibit.name == name:
            return exhibit
    near = get_close_matches(name, [exhibit.name for exhibit in EXHIBITS], 1)
    hint = f"; did you mean {near[0]!r}?" if near else "; see `shadowmmu museum`"
    raise UnknownExhibit(f"no defect {name!r}{hint}")


@cache
def results() -> Mapping[str, Mapping[str, Any]]:
    """What the last search found, by name: the output of `shadowmmu museum --run --json` as it is
    kept.
    """
    text = files(__package__).joinpath("museum_results.json").read_text(encoding="utf-8")
    return {entry["name"]: entry for entry in json.loads(text)}
