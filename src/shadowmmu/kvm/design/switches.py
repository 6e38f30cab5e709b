"""The table of switches: everything in which kernels and designs differ, and the values that kernels have.

To add a switch: a `Switch` here, a field of `design.Design` with a line in its docstring, and the field's
type in design.pxd. No code asks for a version: a profile is a set of values and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from .. import bits
from ..bits import BY_GENERATION, BY_WALK


class DesignError(ValueError):
    """No such switch, value or kernel; the text names those there are."""


NO_YES = {"no": 0, "yes": 1}
"""The values of most switches."""


DEFECTS = {
    "none": 0,
    **{
        name.removeprefix("DEFECT_").lower(): number
        for name, number in vars(bits).items()
        if name.startswith("DEFECT_")
    },
}
"""Historic defects of KVM by name; check.museum tells their stories."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A named choice.

    Attributes:
        name: Name of the switch, the field of Design, and the KEY of --design.
        values: Each value's name, and the number that the field of Design holds for it.
        default: Name of 6.12.111's value.
        origin: Which kernels have which value, and where that is described.
        effect: What the switch changes.
        mail: The mail that argues about it, or "".
        unsafe: Names of the values that let a guest see wrong translations, there for the checks to find.
        numbers: Numbers that are values too, besides the named ones.
    """

    name: str
    values: Mapping[str, int]
    default: str
    origin: str
    effect: str
    mail: str = ""
    unsafe: tuple[str, ...] = ()
    numbers: range = range(0)


@dataclass(frozen=True, slots=True)
class Profile:
    """A kernel as values of the switches.

    Attributes:
        kernel: Release, for example 6.1.176.
        series: Start of the release texts that mean this kernel.
        values: Names of the values, by switch, that are not the defaults.
    """

    kernel: str
    series: str
    values: Mapping[str, str]


SWITCHES: tuple[Switch, ...] = (
    Switch(
        "set_sregs_flushes",
        NO_YES,
        "yes",
        "6.12: yes (__set_sregs); 6.1: no",
        "registers set by user space request a flush of the guest's TLB",
    ),
    Switch(
        "cr0_wp_resets_without_paging",
        NO_YES,
        "no",
        "6.1: yes (kvm_post_set_cr0); 6.12: no",
        "a change of CR0.WP unloads the roots of a guest without paging",
    ),
    Switch(
        "empty_spte",
        {"0": 0, "1<<63": 1 << 63},
        "1<<63",
        "6.12: bit 63 (SHADOW_NONPRESENT_VALUE); 6.1: 0",
        "what an SPTE holds that maps nothing",
    ),
    Switch(
        "rmap_grows_at_tail",
        NO_YES,
        "no",
        "6.1: yes (pte_list_add)",
        "a full descriptor gets a new one behind the last instead of before the first; holes are filled from "
        "the same descriptor",
    ),
    Switch(
        "sync_always_rebuilds",
        NO_YES,
        "no",
        "6.1: yes (FNAME(sync_page)); 6.12: no (FNAME(sync_spte))",
        "sync rebuilds an SPTE also if the guest's access is the same: Accessed goes, and a flush follows",
    ),
    Switch(
        "invlpg_zaps",
        NO_YES,
        "no",
        "6.1: yes (FNAME(invlpg)); 6.12: no (__kvm_mmu_invalidate_addr)",
        "INVLPG zaps the SPTE of an unsync page and prefetches the gpte anew, instead of syncing it in place",
    ),
    Switch(
        "child_lookup_compares_role",
        NO_YES,
        "yes",
        "6.1.176: no, the gfn only; 6.12.111: yes (kvm_mmu_get_child_sp)",
        "a page already linked is kept only if its role is the one that is due",
    ),
    Switch(
        "child_inherits_invalid",
        NO_YES,
        "no",
        "6.1.176: yes; 6.12.111: no (kvm_mmu_child_role)",
        "a page made below a zapped root is invalid from the start",
    ),
    Switch(
        "stale_check_before_recycling",
        NO_YES,
        "no",
        "6.1.176: yes; 6.12.111: no (FNAME(page_fault), direct_page_fault)",
        "a fault looks whether its root or page went away before it makes room for new pages, not after "
        "(CVE-2026-64561, harmful with child_inherits_invalid, see `shadowmmu museum zapscape`)",
        unsafe=("yes",),
    ),
    Switch(
        "early_invalidation_check",
        NO_YES,
        "yes",
        "6.12: yes (kvm_faultin_pfn); 6.1: only under the lock",
        "a fault that met an invalidation by the host is retried before it takes the lock",
    ),
    Switch(
        "write_protected_is_emulate",
        NO_YES,
        "no",
        "6.1: yes; 6.12 has RET_PF_WRITE_PROTECTED",
        "a write to a shadowed table has no result of its own: it counts in pf_emulate even if it is then "
        "retried, and any emulation but MMIO's may be retried",
    ),
    Switch(
        "reinjection_unprotects_first",
        NO_YES,
        "no",
        "6.1: yes (kvm_handle_page_fault); 6.12: only for a write-protected page, after its fault",
        "a fault while an event awaits re-injection unprotects the address, whatever is there, before it is "
        "handled",
    ),
    Switch(
        "retry_without_zapping",
        NO_YES,
        "no",
        "6.1: yes (retry_instruction, reexecute_instruction)",
        "an instruction that does not look like one for page tables is retried once even if nothing shadowed "
        "the page",
    ),
    Switch(
        "self_map_test_before_fetch",
        NO_YES,
        "no",
        "6.1: yes (FNAME(is_self_change_mapping)); 6.12: in FNAME(fetch)",
        "a writable translation through a table inside its own page is found before the page is looked up, "
        "and for reads too",
    ),
    Switch(
        "invisible_root_is_triple_fault",
        NO_YES,
        "no",
        "6.1: yes (mmu_check_root); 6.12: dummy root",
        "a root outside memory shuts the guest down",
    ),
    Switch(
        "translations_at_all_levels",
        NO_YES,
        "no",
        "6.1: yes; 6.12: up to level 3 (kvm_mmu_alloc_shadow_page)",
        "indirect pages of levels 4 and 5 have an array of translations too",
    ),
    Switch(
        "nx_marks_only_possible_huge_pages",
        NO_YES,
        "no",
        "6.1: yes (lpage_disallowed); 6.12: no (nx_huge_page_disallowed)",
        "a page is marked as made for NX only if a huge page would be possible there; and a huge page never "
        "replaces a table, marked or not",
    ),
    Switch(
        "nx_marks_without_paging",
        NO_YES,
        "yes",
        "6.12: yes; 6.1: only with two-dimensional paging (direct_map)",
        "pages of a guest without paging are marked as made for NX too",
    ),
    Switch(
        "valid_quirks",
        {"0x5ff": 0x5FF, "0x7f": 0x7F},
        "0x5ff",
        "6.12.111: 0x5ff; 6.1: 0x7f (KVM_X86_VALID_QUIRKS)",
        "which quirks user space may switch off; with bit 7 (KVM_X86_QUIRK_SLOT_ZAP_ALL) that deleting or "
        "moving a slot zaps every page, instead of what belongs to the slot",
    ),
    Switch(
        "nested_zap_spares_roots",
        NO_YES,
        "no",
        "7.2 on, 6.12.117: yes (mmu_page_zap_pte, commit 7a2c70e777a0); 6.1.176, 6.12.111: no",
        "a page for L2 that loses its last parent stays if a vCPU uses it as a root",
    ),
    Switch(
        "lpage_info_below_slot",
        {"checked": 0, "unchecked": 1},
        "checked",
        "6.12.95 on: checked (commit ef057cbf825e); 6.1.176: unchecked (kvm_mmu_zap_collapsible_spte)",
        "when logging is switched off, a direct page whose gfn lies below the slot is left alone; or KVM "
        "reads in front of the slot's lpage_info to learn its largest mapping, which ends the run here: what "
        "it finds there is undefined, a fault of the kernel included",
        unsafe=("unchecked",),
    ),
    Switch(
        "nx_recovery_skips_logged_slots",
        NO_YES,
        "yes",
        "6.12: yes (kvm_recover_nx_huge_pages); 6.1: no",
        "the recovery worker leaves pages of slots that log alone",
    ),
    Switch(
        "change_pte",
        NO_YES,
        "no",
        "6.1: yes (kvm_mmu_notifier_change_pte); removed before 6.12",
        "the host tells KVM of a page that it replaces in place (kvm_set_spte_hva)",
    ),
    Switch(
        "hugetlb_unmap_notifies_again",
        NO_YES,
        "no",
        "6.1: yes (__unmap_hugepage_range); 6.12: no",
        "the host tells of hugetlbfs pages that it unmaps once for the call and once for each VMA",
    ),
    Switch(
        "remap_joins_next_first",
        NO_YES,
        "no",
        "6.1: yes (mmap_region); 6.12: no (vma_merge_new_range)",
        "new host memory between two VMAs that do not go together is merged with the one after it",
    ),
    Switch(
        "remap_hides_error",
        NO_YES,
        "no",
        "6.1: yes (mmap_region); 6.12: no",
        "mmap over host memory that cannot be unmapped fails with ENOMEM, not with munmap's error",
    ),
    Switch(
        "mprotect_announces_tables",
        NO_YES,
        "no",
        "6.1: yes (change_pmd_range); 6.12: no (change_pud_range)",
        "the host's mprotect is announced from the first 2 MiB on that have a page table, not from its start",
    ),
    Switch(
        "mprotect_unaccounts",
        NO_YES,
        "yes",
        "6.12: yes (mprotect_fixup); 6.1: no",
        "untouched host memory is not accounted once it is read-only, and merges with its like only",
    ),
    Switch(
        "split_maps_zero_page",
        NO_YES,
        "yes",
        "6.12: yes (try_to_map_unused_to_zeropage); 6.1: no",
        "where the host splits a huge page, pages of zeros become the shared zero page",
    ),
    Switch(
        "reclaim_asks_age",
        NO_YES,
        "no",
        "6.1: yes (reclaim_pages); 6.12: no",
        "MADV_PAGEOUT keeps pages that were accessed; not modelled: scenarios with it are refused",
    ),
    Switch(
        "new_module_parameters",
        NO_YES,
        "yes",
        "6.12: yes; 6.1: no",
        "the modules have enable_virt_at_load, lapic_timer_advance, debug_swap, sev_snp, vnmi; "
        "tdp_mmu is read-only",
    ),
    Switch(
        "pre_fault_memory",
        NO_YES,
        "yes",
        "6.12: yes; 6.1 does not know the ioctl",
        "KVM_PRE_FAULT_MEMORY exists",
    ),
    Switch(
        "unused_role_is_invalid",
        NO_YES,
        "yes",
        "6.12: yes (kvm_mmu_after_set_cpuid); 6.1: the role is 0",
        "the root role of an MMU that was never used is marked invalid",
    ),
    Switch(
        "tdp_zap_starts_at",
        {"4K": 1, "1G": 3},
        "4K",
        "6.12: 4K (tdp_mmu_zap_root); 6.1: 1G",
        "the TDP MMU empties roots in passes, small pages first, or begins with the tables of 1 GiB",
    ),
    Switch(
        "tdp_zap_reports_frozen",
        NO_YES,
        "no",
        "6.1: yes (tdp_mmu_zap_spte_atomic); 6.12: no",
        "an SPTE that is frozen, flushed and emptied is reported as frozen, before the flush",
    ),
    Switch(
        "tdp_fault_splits",
        NO_YES,
        "yes",
        "6.12: yes (kvm_tdp_mmu_map); 6.1: no",
        "a fault that needs a table where a huge page is mapped by the TDP MMU splits it, or zaps it first",
    ),
    Switch(
        "event_strings",
        NO_YES,
        "yes",
        "6.1: no; the lab's recordings of 6.1 have lost them",
        "ftrace prints the strings in events; without them a recording cannot tell a page that was zapped "
        "and made again",
    ),
    Switch(
        "zero_page",
        {"0x3735000": 0x3735000, "0x330d000": 0x330D000},
        "0x3735000",
        "where the kernels of the recordings have it",
        "the address that recordings show for the host's zero page, which is 0 here",
    ),
    Switch(
        "get_page_flow",
        {"merged": 0, "sketch": 1, "v3": 2, "single": 3},
        "merged",
        "6.0 and later: merged; the mail: sketch; the series that it answers: v3; 5.18 and 5.19: single "
        "(kvm_mmu_get_page)",
        "how a shadow page is found or made: what is counted when, whether a page that is synced on the way "
        "is always followed by a flush, and when kvm_mmu_get_page comes (the table: get_page_flows.py)",
        mail="000_5e315c3f49194dbe",
    ),
    Switch(
        "hash_function",
        {"hash_64": 0, "gfn": 1},
        "hash_64",
        "4.11 and later: hash_64; before: the low bits of the gfn (kvm_page_table_hashfn)",
        "the bucket of a shadow page; direct pages have gfns with low bits of 0, see "
        "max_mmu_page_hash_collisions",
        mail="000_5e315c3f49194dbe",
    ),
    Switch(
        "hash_bits",
        {"12": 12, "10": 10},
        "12",
        "4.11 and later: 12 (KVM_MMU_HASH_SHIFT); before: 10",
        "there are 1 << hash_bits buckets of shadow pages",
        mail="000_5e315c3f49194dbe",
        numbers=range(1, 21),
    ),
    Switch(
        "active_pages",
        {"fifo": 0, "lifo": 1},
        "fifo",
        "all kernels: fifo, new pages at the head of active_mmu_pages",
        "the order in which pages are zapped for room or by generation; with lifo a zap-all that lets go of "
        "the lock stops at the first new page and leaves old ones, which the next zap-all revives",
        mail="000_5e315c3f49194dbe",
        unsafe=("lifo",),
    ),
    Switch(
        "split_flush",
        {"stable": 0, "always": 1, "if_not_identical": 2, "never": 3},
        "stable",
        "6.1.176, 6.12.111: stable (__link_shadow_page ignores its flush); before the mail's patch: always; "
        "with it: if_not_identical",
        "whether an eager split flushes when its table replaces the huge SPTE: the whole TLB; the range; the "
        "range if the table was there before and leads on to tables, which may map less; or not at all. "
        "if_not_identical is unsafe for nested guests: it overlooks SPTEs from before that allow less "
        "(scenarios/mails/001-nested-hole.txt)",
        mail="001_59f67f44841b1267",
        unsafe=("if_not_identical", "never"),
    ),
    Switch(
        "eager_split",
        {"nested": 0, "all": 1},
        "nested",
        "6.1.176, 6.12.111: nested, and only with the TDP MMU",
        "which huge SPTEs of shadow pages are split eagerly: those for nested guests, or those of any guest "
        "and also without the TDP MMU",
        mail="001_59f67f44841b1267",
    ),
    Switch(
        "ranged_flush",
        NO_YES,
        "no",
        "no, but on Hyper-V (kvm_flush_remote_tlbs_with_address, later _range)",
        "a flush for a range of gfns drops only what leads to these, at once and uncounted; the stable "
        "kernels' flush for a replaced SPTE has no range (split_flush)",
        mail="001_59f67f44841b1267",
    ),
    Switch(
        "ranged_flush_start",
        {"entry": 0, "table": 1},
        "entry",
        "6.2 and later: entry; before: table (drop_large_spte)",
        "where the range begins that is flushed for a replaced huge SPTE: at its own gfn or at that of the "
        "table it is in. Matters with ranged_flush=yes and split_flush other than stable",
        mail="001_59f67f44841b1267",
        unsafe=("table",),
    ),
    Switch(
        "special_roots",
        {"preallocated": 0, "one_off": 1},
        "preallocated",
        "preallocated: 6.1, 6.12 (mmu_alloc_shadow_roots); one_off: "
        "Lai Jiangshan's patches of May 2022, not merged",
        "one_off: above the directories of a guest with less than four levels, or without paging, are shadow "
        "pages of its vCPU alone; faults make the directories, whose quadrant follows from the parent, "
        "also those whose memory was added after the root was loaded",
        mail="004_186dd804c34dd7d4",
    ),
    Switch(
        "prefetch_window",
        {"off": 0, "8_aligned": 8, "16_aligned": 16, "16_from_fault": 17},
        "8_aligned",
        "8_aligned: since 2.6.37 (PTE_PREFETCH_NUM); 16_from_fault: "
        "Xiao Guangrong's patch of June 2010; 16_aligned: Avi Kivity's answer; off: before",
        "which SPTEs a fault maps besides its own; from_fault gains nothing when memory is scanned backwards",
        mail="003_03ed09b02ff8a576",
    ),
    Switch(
        "prefetch_gpte_reads",
        {"batch": 0, "one_by_one": 1},
        "batch",
        "batch: since 2.6.37 (FNAME(gpte_changed)); one_by_one: the patch of June 2010",
        "gptes for prefetching are read together when the fault's gpte is checked, or each when the one "
        "before has been mapped: then none is read in vain, and what is read is newer",
        mail="003_03ed09b02ff8a576",
    ),
    Switch(
        "prefetch_host_lookups",
        {"batch": 0, "one_by_one": 1},
        "batch",
        "batch: since 2.6.37 (gfn_to_page_many_atomic); one_by_one: "
        "the patch of June 2010 (gfn_to_pfn_atomic)",
        "neighbours in direct pages are looked up in runs within one slot, of which a missing page ends "
        "its run only; or one by one across slots, up to the first missing page",
        mail="003_03ed09b02ff8a576",
    ),
    Switch(
        "prefetch_above_level_1",
        NO_YES,
        "no",
        "no: since 2.6.37; yes: the patch of June 2010, with the test of the host page's size that its "
        "review asked for",
        "huge pages next to one that faulted are mapped too, where guest and host have pages of that size",
        mail="003_03ed09b02ff8a576",
    ),
    Switch(
        "pte_write_prefetches",
        NO_YES,
        "no",
        "yes: up to 5.11 (mmu_pte_write_new_pte, update_pte); no: 6.1, 6.12",
        "an emulated write to a leaf table maps the new gpte with the code of prefetching, and flushes TLBs "
        "only if something is gone; with invlpg_zaps INVLPG does the same",
        mail="003_03ed09b02ff8a576",
    ),
    Switch(
        "multimapped",
        NO_YES,
        "no",
        "2.6 to 3.0: yes; since: no, bit 0 of parent_ptes tells (mail patch 1)",
        "a shadow page has one parent_pte, or with its flag multimapped set blocks of five, instead of the "
        "tagged word parent_ptes that every reverse map has",
        mail="002_61aa16377bf62e9f",
    ),
    Switch(
        "write_flooding",
        {"3": 3, "off": 0},
        "3",
        "3.3 to 6.12: 3 (detect_write_flooding; mail patch 3)",
        "how many emulated writes to an upper-level table without a use between them zap its page",
        mail="002_61aa16377bf62e9f",
        numbers=range(1, 65),
    ),
    Switch(
        "mmio_caching",
        NO_YES,
        "yes",
        "3.1 on: yes (mail patch 4); before, or with kvm.mmio_caching=0: no",
        "addresses without memory get SPTEs with a reserved bit, so that the error code of the next access "
        "says MMIO; without them every access is a not-present fault and walks the guest's tables",
        mail="002_61aa16377bf62e9f",
    ),
    Switch(
        "vcpu_mmio_cache",
        NO_YES,
        "yes",
        "3.1 on: yes (vcpu_cache_mmio_info; mail patch 4)",
        "a vCPU remembers its last MMIO access: the emulator, and the next fault on that page, need no walk",
        mail="002_61aa16377bf62e9f",
    ),
    Switch(
        "mmio_invalidation",
        {"generation": BY_GENERATION, "walk": BY_WALK},
        "generation",
        "3.11 on: generation (mail patch 7); 3.10: walk (kvm_mmu_zap_mmio_sptes)",
        "MMIO SPTEs get stale when memory slots change: each carries the generation it was made in, or all "
        "pages are searched for them and those that hold one are zapped",
        mail="002_61aa16377bf62e9f",
    ),
    Switch(
        "mmio_generation_bits",
        {"19": 19},
        "19",
        "3.11 to 6.12: 19 (mail patch 7; a generation is even, which leaves 18)",
        "how much of the generation an MMIO SPTE keeps: when that comes round to 0 all pages are zapped",
        mail="002_61aa16377bf62e9f",
        numbers=range(3, 20),
    ),
    Switch(
        "fast_page_fault",
        NO_YES,
        "yes",
        "3.6 on: yes (mail patch 5); before: no",
        "a write to an SPTE that only logging or tracking made read-only is let through without mmu_lock",
        mail="002_61aa16377bf62e9f",
    ),
    Switch(
        "zap_all",
        {"generation": BY_GENERATION, "walk": BY_WALK},
        "generation",
        "3.11 on: generation (kvm_mmu_zap_all_fast; mail patch 6); before: walk (kvm_mmu_zap_all)",
        "deleting or moving a slot, and a wrap of the MMIO generation, make all pages obsolete and zap them "
        "in steps between which vCPUs run; or zap them all under one hold of mmu_lock",
        mail="002_61aa16377bf62e9f",
    ),
    Switch(
        "host_word",
        {"64": 64, "32": 32},
        "64",
        "x86_64 hosts: 64; i386 hosts: 32 (mail patch 2; they have empty_spte=0 and no TDP MMU)",
        "the largest store of the host: with 32 bits an SPTE is written in two halves",
        mail="002_61aa16377bf62e9f",
    ),
    Switch(
        "clear_spte_count",
        NO_YES,
        "yes",
        "3.1 on: yes on 32-bit hosts (mail patch 2); elsewhere there is none",
        "with host_word=32 a page counts the SPTEs that it loses, and readers without mmu_lock look whether "
        "it did; without the count they may see half of one SPTE and half of the next",
        mail="002_61aa16377bf62e9f",
        unsafe=("no",),
    ),
    Switch(
        "defect",
        DEFECTS,
        "none",
        "releases from 2.6.20 on that had the defect, see `shadowmmu museum`",
        "one historic defect of KVM's MMU, brought back for the checks to find",
        unsafe=tuple(name for name in DEFECTS if name != "none"),
    ),
    Switch(
        "unsync",
        {"leaf": 1, "never": 0},
        "leaf",
        "2.6.28 on: leaf (mail patch 3 says why only leaves); before: never",
        "a leaf table that the guest writes becomes writable, and out of sync until the guest flushes; or "
        "every shadowed table stays write-protected, and every write to one is emulated",
        mail="002_61aa16377bf62e9f",
    ),
)

PROFILES: tuple[Profile, ...] = (
    Profile("6.12.111", "6.12", {}),
    Profile(
        "6.1.176",
        "6.1",
        {
            "set_sregs_flushes": "no",
            "cr0_wp_resets_without_paging": "yes",
            "empty_spte": "0",
            "rmap_grows_at_tail": "yes",
            "sync_always_rebuilds": "yes",
            "invlpg_zaps": "yes",
            "child_lookup_compares_role": "no",
            "child_inherits_invalid": "yes",
            "stale_check_before_recycling": "yes",
            "early_invalidation_check": "no",
            "write_protected_is_emulate": "yes",
            "reinjection_unprotects_first": "yes",
            "retry_without_zapping": "yes",
            "self_map_test_before_fetch": "yes",
            "invisible_root_is_triple_fault": "yes",
            "translations_at_all_levels": "yes",
            "nx_marks_only_possible_huge_pages": "yes",
            "nx_marks_without_paging": "no",
            "valid_quirks": "0x7f",
            "lpage_info_below_slot": "unchecked",
            "nx_recovery_skips_logged_slots": "no",
            "change_pte": "yes",
            "hugetlb_unmap_notifies_again": "yes",
            "remap_joins_next_first": "yes",
            "remap_hides_error": "yes",
            "mprotect_announces_tables": "yes",
            "mprotect_unaccounts": "no",
            "split_maps_zero_page": "no",
            "reclaim_asks_age": "yes",
            "new_module_parameters": "no",
            "pre_fault_memory": "no",
            "unused_role_is_invalid": "no",
            "tdp_zap_starts_at": "1G",
            "tdp_fault_splits": "no",
            "tdp_zap_reports_frozen": "yes",
            "event_strings": "no",
            "zero_page": "0x330d000",
        },
    ),
)
"""The kernels there are; the first is the default."""

DEFAULT_KERNEL = PROFILES[0].kernel


def switch_named(name: str) -> Switch:
    """Return the switch of that name. Raises DesignError."""
    for switch in SWITCHES:
        if switch.name == name:
            return switch
    raise DesignError(f"no switch {name!r}{_nearest(name, [switch.name for switch in SWITCHES])}")


def value_of(name: str, value: str) -> int:
    """Return the number that the field of a switch holds for the value of that name. Raises DesignError."""
    switch = switch_named(name)
    if value in switch.values:
        return switch.values[value]
    if value.isdecimal() and len(value) <= _LONGEST_WORD and int(value) in switch.numbers:
        return int(value)
    raise DesignError(f"switch {name} has no value {value!r}{_nearest(value, values_named(switch))}")


def values_named(switch: Switch) -> list[str]:
    """Return the names of a switch's values; a range stands for its numbers."""
    numbers = [f"{switch.numbers[0]}-{switch.numbers[-1]}"] if switch.numbers else []
    return [*switch.values, *numbers]


_LONGEST_WORD = 40
"""Longer words are no switch and no value."""


def _nearest(word: str, known: list[str]) -> str:
    """Return the end of an error message about a word: what was probably meant, or else what there is."""
    near = get_close_matches(word, known, 1) if len(word) <= _LONGEST_WORD else []
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


def profile_of(release: str) -> Profile:
    """Return the profile of a kernel by its release text, `6.1.176` or a header's `6.1.0-50-amd64 #1 SMP
    ...`.

    Kernels of the same stable series share a profile. Raises DesignError.
    """
    for profile in PROFILES:
        word = release.split(" ", 1)[0]
        if word == profile.series or word.startswith((f"{profile.series}.", f"{profile.series}-")):
            return profile
    known = ", ".join(profile.kernel for profile in PROFILES)
    raise DesignError(f"kernel {release.split(' ', 1)[0] or 'unknown'!s} has no profile; there are {known}")


def kernel_text(release: str) -> str:
    """Return what the header of a recording made on the model says of its kernel. Raises DesignError."""
    return f"{profile_of(release).kernel} (shadowmmu)"
