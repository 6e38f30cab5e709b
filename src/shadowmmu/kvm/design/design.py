"""How a VM's MMU behaves where kernels and designs differ: one object of switches (the table: switches.py).

A switch at its default costs one load from a typed field.
"""

from collections.abc import Mapping

from ..bits import PREFETCH_NUM
from .switches import SWITCHES, profile_of, switch_named, value_of


class Design:
    """The switches of one VM, a field each, as numbers (0 and 1 for no and yes; SWITCHES has the names).

    set_sregs_flushes                  registers set by user space request a guest flush
    cr0_wp_resets_without_paging       CR0.WP unloads the roots also without paging
    empty_spte                         an SPTE that maps nothing
    rmap_grows_at_tail                 new rmap descriptors go behind the last
    sync_always_rebuilds               sync rebuilds SPTEs of unchanged access
    invlpg_zaps                        INVLPG zaps and prefetches anew
    child_lookup_compares_role         a linked page of another role is replaced
    child_inherits_invalid             children of a zapped root are invalid
    stale_check_before_recycling       staleness is checked before room is made
    early_invalidation_check           invalidations are looked for before the lock is taken too
    write_protected_is_emulate         there is no result of its own for a write to a shadowed table
    reinjection_unprotects_first       a fault during re-injection unprotects before it is handled
    retry_without_zapping              an instruction is retried once even if nothing was zapped
    self_map_test_before_fetch         tables inside their own page are looked for before the fetch
    invisible_root_is_triple_fault     a root outside memory shuts the guest down
    translations_at_all_levels         all indirect pages have translations
    nx_marks_only_possible_huge_pages  only pages that stand for a possible huge page are marked
    nx_marks_without_paging            pages of a guest without paging are marked too
    valid_quirks                       KVM_X86_QUIRK_* that can be switched off
    nested_zap_spares_roots            a page for L2 without parents is not zapped while it is a root
    lpage_info_below_slot              lpage_info is read in front of its beginning
    nx_recovery_skips_logged_slots     the recovery worker leaves slots that log alone
    change_pte                         the host tells of pages replaced in place
    hugetlb_unmap_notifies_again       the host tells of unmapped hugetlbfs pages twice
    remap_joins_next_first             new host memory is merged with the VMA after it, if not with both
    remap_hides_error                  mmap over memory that cannot be unmapped fails with ENOMEM
    mprotect_announces_tables          mprotect is announced from the first 2 MiB on that have a page table
    mprotect_unaccounts                untouched host memory is not accounted once it is read-only
    split_maps_zero_page               zeros of a huge page that the host splits become the zero page
    reclaim_asks_age                   MADV_PAGEOUT keeps what was accessed
    new_module_parameters              the parameters of KVM's modules are those of 6.12
    pre_fault_memory                   KVM_PRE_FAULT_MEMORY exists
    unused_role_is_invalid             the root role of an MMU never used is invalid, not 0
    tdp_zap_starts_at                  level of the first pass over a root of the TDP MMU that is zapped
    tdp_zap_reports_frozen             an SPTE zapped by freezing it is reported as frozen
    tdp_fault_splits                   a fault splits a huge page of the TDP MMU that is in its way
    event_strings                      ftrace prints the strings in events
    zero_page                          address of the host's zero page in recordings
    get_page_flow                      how a shadow page is found or made (GET_PAGE_*)
    hash_function                      the bucket of a page: hash_64 or the low bits of its gfn
    hash_bits                          bits of a bucket's number
    active_pages                       new pages go to the tail of the active list
    split_flush                        flush when an eager split replaces a huge SPTE (SPLIT_FLUSH_*)
    eager_split                        huge SPTEs of any guest are split eagerly
    ranged_flush                       flushes of a range drop no more than that
    ranged_flush_start                 a replaced SPTE's range begins at its table's gfn
    special_roots                      roots above the guest's own tables are shadow pages made for one vCPU
    prefetch_window                    how many SPTEs around a fault are mapped with it, and which
    prefetch_gpte_reads                whether their gptes are read together or each when it is needed
    prefetch_host_lookups              whether host pages of direct SPTEs are looked up in runs
    prefetch_above_level_1             huge pages are prefetched too
    pte_write_prefetches               an emulated write to a leaf table maps the new gpte
    multimapped                        a page's parents are one parent_pte, or blocks of five
    write_flooding                     emulated writes that zap an upper-level page; 0: none do
    mmio_caching                       addresses without memory get MMIO SPTEs
    vcpu_mmio_cache                    a vCPU remembers its last MMIO access
    mmio_invalidation                  how MMIO SPTEs get stale: BY_GENERATION or BY_WALK
    mmio_generation_bits               bits of the generation that MMIO SPTEs keep
    fast_page_fault                    some write faults are fixed without mmu_lock
    zap_all                            how all pages are zapped: BY_GENERATION or BY_WALK
    host_word                          bits of the host's largest store
    clear_spte_count                   pages of a 32-bit host count the SPTEs they lose
    defect                             a historic defect (DEFECT_*), 0 for none
    unsync                             leaf tables may get out of sync

    Where each comes from is in the table. merged_prefetch says that the switches of prefetching at a fault
    are at their defaults.
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        """All defaults but `values`, switch name -> value name. Raises DesignError."""
        held = {switch.name: value_of(switch.name, switch.default) for switch in SWITCHES}
        for name, value in (values or {}).items():
            held[name] = value_of(name, value)
        self.set_sregs_flushes = held["set_sregs_flushes"] != 0
        self.cr0_wp_resets_without_paging = held["cr0_wp_resets_without_paging"] != 0
        self.empty_spte = held["empty_spte"]
        self.rmap_grows_at_tail = held["rmap_grows_at_tail"] != 0
        self.sync_always_rebuilds = held["sync_always_rebuilds"] != 0
        self.invlpg_zaps = held["invlpg_zaps"] != 0
        self.child_lookup_compares_role = held["child_lookup_compares_role"] != 0
        self.child_inherits_invalid = held["child_inherits_invalid"] != 0
        self.stale_check_before_recycling = held["stale_check_before_recycling"] != 0
        self.early_invalidation_check = held["early_invalidation_check"] != 0
        self.write_protected_is_emulate = held["write_protected_is_emulate"] != 0
        self.reinjection_unprotects_first = held["reinjection_unprotects_first"] != 0
        self.retry_without_zapping = held["retry_without_zapping"] != 0
        self.self_map_test_before_fetch = held["self_map_test_before_fetch"] != 0
        self.invisible_root_is_triple_fault = held["invisible_root_is_triple_fault"] != 0
        self.translations_at_all_levels = held["translations_at_all_levels"] != 0
        self.nx_marks_only_possible_huge_pages = held["nx_marks_only_possible_huge_pages"] != 0
        self.nx_marks_without_paging = held["nx_marks_without_paging"] != 0
        self.valid_quirks = held["valid_quirks"]
        self.nested_zap_spares_roots = held["nested_zap_spares_roots"] != 0
        self.lpage_info_below_slot = held["lpage_info_below_slot"] != 0
        self.nx_recovery_skips_logged_slots = held["nx_recovery_skips_logged_slots"] != 0
        self.change_pte = held["change_pte"] != 0
        self.hugetlb_unmap_notifies_again = held["hugetlb_unmap_notifies_again"] != 0
        self.remap_joins_next_first = held["remap_joins_next_first"] != 0
        self.remap_hides_error = held["remap_hides_error"] != 0
        self.mprotect_announces_tables = held["mprotect_announces_tables"] != 0
        self.mprotect_unaccounts = held["mprotect_unaccounts"] != 0
        self.split_maps_zero_page = held["split_maps_zero_page"] != 0
        self.new_module_parameters = held["new_module_parameters"] != 0
        self.reclaim_asks_age = held["reclaim_asks_age"] != 0
        self.pre_fault_memory = held["pre_fault_memory"] != 0
        self.unused_role_is_invalid = held["unused_role_is_invalid"] != 0
        self.tdp_zap_starts_at = held["tdp_zap_starts_at"]
        self.tdp_zap_reports_frozen = held["tdp_zap_reports_frozen"] != 0
        self.tdp_fault_splits = held["tdp_fault_splits"] != 0
        self.event_strings = held["event_strings"] != 0
        self.zero_page = held["zero_page"]
        self.get_page_flow = held["get_page_flow"]
        self.hash_function = held["hash_function"]
        self.hash_bits = held["hash_bits"]
        self.active_pages = held["active_pages"]
        self.split_flush = held["split_flush"]
        self.eager_split = held["eager_split"]
        self.ranged_flush = held["ranged_flush"] != 0
        self.ranged_flush_start = held["ranged_flush_start"]
        self.special_roots = held["special_roots"] != 0
        self.prefetch_window = held["prefetch_window"]
        self.prefetch_gpte_reads = held["prefetch_gpte_reads"] != 0
        self.prefetch_host_lookups = held["prefetch_host_lookups"] != 0
        self.prefetch_above_level_1 = held["prefetch_above_level_1"] != 0
        self.pte_write_prefetches = held["pte_write_prefetches"] != 0
        self.merged_prefetch = self.prefetch_window == PREFETCH_NUM and not (
            self.prefetch_gpte_reads or self.prefetch_host_lookups or self.prefetch_above_level_1
        )
        self.multimapped = held["multimapped"] != 0
        self.write_flooding = held["write_flooding"]
        self.mmio_caching = held["mmio_caching"] != 0
        self.vcpu_mmio_cache = held["vcpu_mmio_cache"] != 0
        self.mmio_invalidation = held["mmio_invalidation"]
        self.mmio_generation_bits = held["mmio_generation_bits"]
        self.fast_page_fault = held["fast_page_fault"] != 0
        self.zap_all = held["zap_all"]
        self.host_word = held["host_word"]
        self.clear_spte_count = held["clear_spte_count"] != 0
        self.defect = held["defect"]
        self.unsync = held["unsync"] != 0

    def value(self, name: str) -> str:
        """Return the name of a switch's value. Raises DesignError."""
        switch = switch_named(name)
        held = int(getattr(self, switch.name))
        return next((word for word, number in switch.values.items() if number == held), str(held))


def design_of(release: str, values: Mapping[str, str] | None = None) -> Design:
    """Return a kernel's switches, except for `values`, switch name -> value name. Raises DesignError."""
    return Design({**profile_of(release).values, **(values or {})})
