"""The table of switches between designs that mails about KVM's MMU discuss."""

from ..bits import (
    BY_GENERATION,
    BY_WALK,
    GET_PAGE_MERGED,
    GET_PAGE_SINGLE,
    GET_PAGE_SKETCH,
    GET_PAGE_V3,
    PREFETCH_FROM_FAULT,
    PTE_PREFETCH_NUM,
    SPLIT_FLUSH_ALWAYS,
    SPLIT_FLUSH_IF_NOT_IDENTICAL,
    SPLIT_FLUSH_NEVER,
    SPLIT_FLUSH_STABLE,
    UNSYNC_LEAF,
    UNSYNC_NEVER,
    UNSYNC_NOT_NESTED,
)
from .switch import NO_YES, Switch

KVMS_WINDOW = f"{PTE_PREFETCH_NUM}_aligned"
"""KVM's own prefetch window."""

MAIL_SWITCHES: tuple[Switch, ...] = (
    Switch(
        "get_page_flow",
        {
            "merged": GET_PAGE_MERGED,
            "sketch": GET_PAGE_SKETCH,
            "v3": GET_PAGE_V3,
            "single": GET_PAGE_SINGLE,
        },
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
        "the order in which pages are zapped for room or by generation; with lifo a zap-all that drops "
        "the lock stops at the first new page and leaves old ones, which the next zap-all revives",
        mail="000_5e315c3f49194dbe",
        unsafe=("lifo",),
    ),
    Switch(
        "split_flush",
        {
            "stable": SPLIT_FLUSH_STABLE,
            "always": SPLIT_FLUSH_ALWAYS,
            "if_not_identical": SPLIT_FLUSH_IF_NOT_IDENTICAL,
            "never": SPLIT_FLUSH_NEVER,
        },
        "stable",
        "6.1.176, 6.12.111: stable (__link_shadow_page ignores its flush); before the mail's patch: always; "
        "with it, and in 7.3.4: if_not_identical (shadow_mmu_split_huge_page)",
        "whether an eager split flushes when its table replaces the huge SPTE: the whole TLB; the range; the "
        "range if the table was there before and leads on to tables, which may map less; or not at all. "
        "if_not_identical is unsafe for nested guests: it overlooks SPTEs from before that allow less "
        "(scenarios/mails/001-nested-hole.txt)",
        mail="001_59f67f44841b1267",
        unsafe=("if_not_identical", "never"),
        kernels={"7.3": "if_not_identical"},
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
        {
            "off": 0,
            KVMS_WINDOW: PTE_PREFETCH_NUM,
            "16_aligned": 16,
            "16_from_fault": 16 | PREFETCH_FROM_FAULT,
        },
        KVMS_WINDOW,
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
        "only if an SPTE was removed; with invlpg_zaps INVLPG does the same",
        mail="003_03ed09b02ff8a576",
    ),
    Switch(
        "multimapped",
        NO_YES,
        "no",
        "2.6 to 3.0: yes; since: no, bit 0 of parent_ptes says it (mail patch 1)",
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
        "unsync",
        {"leaf": UNSYNC_LEAF, "not_nested": UNSYNC_NOT_NESTED, "never": UNSYNC_NEVER},
        "leaf",
        "2.6.28 on: leaf (mail patch 3 says why only leaves); before: never; not_nested is what mail 000 "
        "proposes for nested guests",
        "a leaf table that the guest writes becomes writable, and out of sync until the guest flushes; or "
        "shadowed tables stay write-protected, and every write to one is emulated: all, or only the nested "
        "tables of a guest that is a hypervisor",
        mail="002_61aa16377bf62e9f",
    ),
)
