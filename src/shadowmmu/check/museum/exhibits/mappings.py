"""Defects of what is mapped and logged: MMIO, write protection, prefetching, slots, huge pages, roots."""

from .exhibit import Exhibit, defect, exhibit

__all__ = ["MAPPINGS"]

MAPPINGS: tuple[Exhibit, ...] = (
    # -- MMIO -----------------------------------------------------------------------------------------------
    defect(
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
    defect(
        "mmio_wrap",
        "the generation of MMIO SPTEs comes round and nobody looks",
        """An MMIO SPTE holds some bits of the generation of the memory slots, and is stale if that has
        moved on. When these bits come round to where they were, an SPTE from then is taken for fresh:
        KVM emulates MMIO where there is memory by now. Here the generation has 3 bits; KVM has 19.""",
        "KVM: x86/mmu: Detect MMIO generation wrap in any address space",
        "4.x to 5.0, of the second address space only (2019)",
        mmio_generation_bits="3",
    ),
    defect(
        "mmio_cache_stale",
        "a vCPU's last MMIO access outlives a change of slots",
        """A vCPU remembers the address and the frame of its last MMIO access and emulates the next one
        there without looking. When user space then puts memory there, reads go to the device that is
        gone, for as long as the vCPU uses no other.""",
        "kvm: x86: fix stale mmio cache bug",
        "3.1 to 3.16 (2014)",
    ),
    # -- write protection and the dirty log -----------------------------------------------------------------
    defect(
        "lockless_unflushed",
        "protecting an SPTE that only logging had protected does not flush",
        """Dirty logging clears W in an SPTE, and flushes after it dropped mmu_lock. Meanwhile a
        table may be shadowed at that page: it finds W clear and sees no need to flush, though a TLB
        still has it writable. Hence the rule: flush if the SPTE was MMU-writable, whatever its W said.""",
        "KVM: MMU: flush tlb if the spte can be locklessly modified",
        "3.6 to 3.13 (2012, 2013)",
    ),
    defect(
        "tdp_protection",
        "the TDP MMU protects guest tables only against W",
        """To shadow a table of L1's, what maps its page in the TDP MMU loses W and MMU-writable. The
        TDP MMU left SPTEs alone that were read-only already, for logging. The next write by L1 made the
        SPTE writable without mmu_lock: L1 changed nested tables which KVM took for protected.""",
        "KVM: x86/mmu: Fix write-protection of PTs mapped by the TDP MMU",
        "5.10 to 5.16 (2022)",
    ),
    defect(
        "tdp_unmap_unflushed",
        "the TDP MMU unmaps for the host without a flush",
        """Before the host takes a page away the TDP MMU empties what maps it and tells its caller to
        flush. Where that word is lost on the way a guest keeps reading and writing a page of somebody
        else.""",
        "KVM: x86/mmu: Ensure TLBs are flushed when yielding during GFN range zap",
        "5.10, 5.11 (2021)",
    ),
    defect(
        "nx_recovery_unflushed",
        "huge page recovery frees tables of the TDP MMU without a flush",
        """The worker that gets huge pages back zaps tables of small executable pages. For those of the
        TDP MMU it did not pass on that a flush is due, so that vCPUs kept using pages of a table
        that had been freed.""",
        "KVM: x86/mmu: Ensure TLBs are flushed for TDP MMU during NX zapping",
        "5.10, 5.11 (2021)",
    ),
    defect(
        "huge_logged",
        "logging leaves huge pages writable",
        """When logging of a slot begins all its pages must become read-only, so that every write is
        seen. A huge SPTE left writable lets the guest write 512 pages of which a migration learns
        nothing.""",
        "about 2008, 2.6.26, when huge pages came to KVM's MMU (kvm_mmu_slot_remove_write_access)",
        "2.6.26, while huge pages were being added",
    ),
    defect(
        "fast_huge_logged",
        "a fast fault makes a logged huge page writable",
        """Under logging a huge SPTE is read-only. A write to it may not be let through without
        mmu_lock: it would make 512 pages writable and mark one of them as dirty. The first version of
        read-only huge SPTEs did that and was reverted.""",
        "KVM: MMU: lazily drop large spte",
        "3.8-rc, before its second version (2013)",
    ),
    defect(
        "log_unflushed",
        "KVM_GET_DIRTY_LOG protects pages and does not flush",
        """Pages that the log reports are made read-only again, so that the next write is seen. A vCPU
        whose TLB still has one writable writes it without a fault, after user space copied it: the
        migrated guest lacks that write.""",
        "KVM: Fix write protection race during dirty logging",
        "3.3, in a race (2012)",
    ),
    defect(
        "log_start_unflushed",
        "logging starts without a flush if all pages look unused",
        """Without Accessed and Dirty in EPT KVM learns of accesses by taking all rights from SPTEs, and
        flushes nobody. When logging starts it clears W where that is set, and flushed only if it was set
        somewhere. Where all SPTEs had lost their rights before, TLBs could still have them writable, and a
        guest wrote pages that no log mentions.""",
        "kvm: x86: mmu: Always flush TLBs when enabling dirty logging",
        "4.10 to 6.0 (2022)",
    ),
    exhibit(
        "clear_log_flushes_late",
        "KVM_CLEAR_DIRTY_LOG protects huge pages and flushes after mmu_lock is released",
        """With initially-all-set logging begins without any protection; clearing bits protects. A huge SPTE
        is protected as if a page table were in it: it loses W and MMU-writable. Who clears MMU-writable must
        flush before mmu_lock is released, for the next one finds nothing to protect and does not flush. Here
        the flush comes after it. A table that is shadowed in between is written through a TLB, unseen: its
        shadow stays wrong until that entry is written again.""",
        "about 2026: not fixed yet, it stands in 7.3.4",
        "5.8 (2020) to 7.3.4: shadow paging, and where huge pages are not split eagerly",
        {"clear_log_flushes_under_lock": "no"},
    ),
    exhibit(
        "lpage_info_below_slot",
        "what may be a huge page is asked in front of the slot",
        """When logging ends KVM looks for small pages that could be huge, by the gfn of the shadow page
        that maps them. The guest may have a huge page that begins below the slot, and the direct page for
        it begins there too. KVM read the entry of that gfn in the slot's lpage_info, in front of the array,
        which is a fault of the host.""",
        "KVM: x86/mmu: Ensure hugepage is in by slot before checking max mapping level",
        "4.1 to 7.1 (2026); 6.1.176",
        {"lpage_info_below_slot": "unchecked"},
    ),
    defect(
        "atomic_unlogged",
        "what an emulated atomic instruction writes is in no log",
        """KVM emulates a locked instruction by an exchange on its own mapping of the page, and did not mark
        the page as dirty. A migrated guest lacked what it had written so to its page tables, or to any page
        that KVM must emulate writes to.""",
        "KVM: x86: Mark target gfn of emulated atomic instruction as dirty",
        "5.18 to 6.8 (2024), CVE-2024-35804",
    ),
    defect(
        "table_write_unlogged",
        "Accessed and Dirty are set in a guest table that no log mentions",
        """KVM's walker sets Accessed and Dirty in the guest's entries, which is a write to guest
        memory. If the page is not marked as dirty the bits are lost in a migration.""",
        "about 2007 to 2012: mark_page_dirty where the walker sets Accessed and Dirty",
        "2.6.2x",
    ),
    defect(
        "clean_writable",
        "a read maps a page writable whose Dirty is not set",
        """A page whose gpte is not Dirty is mapped read-only for a read, so that the first write sets
        Dirty. Mapped writable at once, the guest's write leaves Dirty clear, and its system drops a
        page that it takes for clean: lost data.""",
        "about 2007 to 2013; of huge pages: KVM: MMU: fix Dirty bit missed if CR0.WP = 0",
        "2.6.2x; in one case up to 3.8",
    ),
    # -- prefetching, slots, huge pages, roots --------------------------------------------------------------
    defect(
        "readonly_prefetched",
        "a page of a read-only slot is prefetched as writable",
        """Prefetching maps neighbours of a page that faulted, and takes only pages that the host lets
        it write. The slot has a say too: in a read-only slot nothing may be mapped like that, or the
        guest writes to its ROM.""",
        "about 2012, 3.7, when read-only slots came (gfn_to_pfn_memslot_atomic)",
        "while read-only slots were being added",
    ),
    defect(
        "reserved_prefetched",
        "a gpte with reserved bits is prefetched",
        """An access through an entry with a reserved bit set is a page fault with RSVD. Prefetching and
        syncing skipped the test that the walker makes, and mapped such entries: guests that use
        reserved bits to catch accesses caught none.""",
        "KVM: MMU: fix forgot reserved bits check in speculative path",
        "up to 2.6.37 (2010)",
    ),
    defect(
        "huge_left_mapped",
        "when the host takes a page away huge SPTEs are not looked for",
        """The host tells KVM which of its addresses go, one page or many. What maps them may be a huge
        SPTE that begins long before. One that is overlooked lets the guest use memory that the host has
        given to somebody else.""",
        "about 2008 to 2009, 2.6.27 to 2.6.32: kvm_handle_hva looks at every level",
        "while mmu notifiers and huge pages came together",
    ),
    defect(
        "slot_misaligned",
        "huge pages in a slot whose addresses do not fit together",
        """A huge page can be mapped if gfn and host address have the same offset in it, and if all of
        it is in the slot. For a slot placed otherwise a huge SPTE maps the wrong frames, or memory of
        the host next to the guest's.""",
        "KVM: Disable large pages on misaligned memory slots",
        "2.6.26 to 2.6.30 (2009)",
    ),
    defect(
        "huge_executable",
        "huge pages are executable in spite of the mitigation",
        """Some processors can be brought to a halt by a change of page size under executed code. With
        nx_huge_pages no huge page is executable; a fetch splits it.""",
        "kvm: mmu: ITLB_MULTIHIT mitigation",
        "up to 5.3 (2019)",
    ),
    defect(
        "obsolete_root_kept",
        "all pages are zapped and the vCPUs keep their roots",
        """Deleting a slot makes all shadow pages obsolete, and every vCPU must load a new root before
        it runs again. Without that request a vCPU runs on in an emptied root, or one that is about to
        be freed, and every fault is retried for ever because it finds its root obsolete.""",
        "about 2013, 3.11 (KVM: MMU: fast invalidate all pages), again in 5.x (KVM: x86/mmu: Treat "
        "invalid shadow pages as obsolete)",
        "around 3.11 and 5.5",
    ),
    defect(
        "obsolete_prev_root",
        "of the previous roots none is looked at, but the current one each time",
        """A vCPU that is asked to free obsolete roots checks the current one and the previous ones. The
        loop over the previous ones tested the current one: zapped pages stayed as previous roots while the
        current one was fine, and good ones were freed with a bad current one.""",
        "KVM: x86/mmu: Check every prev_root in __kvm_mmu_free_obsolete_roots()",
        "5.18, 5.19-rc (2022)",
    ),
    defect(
        "mmu_seq_signed",
        "every fault is stale once the host has taken memory away often enough",
        """A fault remembers how often the host has taken memory away, and starts again if that has changed
        before its SPTE is written. The copy was a signed 32-bit number of an unsigned 64-bit one: after 2^31
        times the two never agreed again, and every fault was retried for ever. A host that balances its NUMA
        nodes gets there within weeks. Here bit 3 is the sign.""",
        "KVM: x86/mmu: Fix an sign-extension bug with mmu_seq that hangs vCPUs",
        "5.16 to 6.5 (2023)",
    ),
)
