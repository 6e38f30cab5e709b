"""The switches in which 7.3 differs from all kernels before it: its MMU was rebuilt."""

from .switch import NO_YES, Switch

KERNEL_7_SWITCHES: tuple[Switch, ...] = (
    Switch(
        "access_has_read",
        NO_YES,
        "no",
        "7.3: yes (ACC_READ_MASK); 6.12: no, R is understood",
        "access rights have four bits, R, W, U, X: role words, shadowed translations and the letters in "
        "events are laid out otherwise (kvm/tracepoints/role_layout.py)",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "role_has_smep",
        NO_YES,
        "no",
        "7.3: yes (cr4_smep, kvm_calc_cpu_role); 6.12: only without CR0.WP (smep_andnot_wp)",
        "CR4.SMEP is part of a page's role: guests that change it get new shadow pages of every level",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "nested_role_ignores_l1_cr4",
        NO_YES,
        "no",
        "7.3: yes (kvm_init_shadow_npt_mmu); 6.12: L1's SMEP and SMAP count, CR0.WP as 0",
        "the shadow of L1's nested tables has one role whatever L1's CR4 says of SMEP and SMAP",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "gva_walk_shared",
        NO_YES,
        "no",
        "7.3: yes (kvm_pagewalk gva_walk); 6.12: root_mmu and nested_mmu have one each",
        "the walker of root_mmu is that of whatever runs: while that is L2, its CPU role is L2's",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "spte_bit_10_is_xu",
        NO_YES,
        "no",
        "7.3: yes (shadow_xu_mask, FROZEN_SPTE, MMIO_SPTE_GEN_LOW_END); 6.12: no",
        "bit 10 of an SPTE is EPT's right to execute for user addresses, which executable ones have too: "
        "frozen SPTEs have it clear, and MMIO SPTEs keep seven bits of the generation at 9:3, not eight, so "
        "that it wraps at 18 bits",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "ept_mbec",
        NO_YES,
        "no",
        "7.3: yes (cr4_smep, kvm_calc_tdp_mmu_root_page_role); 6.12: it is not used",
        "the processor's mode-based execute control is used (kvm_intel.mbec), and part of the roles of EPT",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "ept_software_bits",
        {"6": 0, "7": 1},
        "6",
        "7.3: 7 (EPT_SPTE_HOST_WRITABLE, EPT_SPTE_MMU_WRITABLE, SPTE_TDP_AD_SHIFT); 6.12: 6",
        "where SPTEs of EPT have what only KVM reads: 6: A/D type 53:52, saved R and X 54 and 56, "
        "host-writable 57, MMU-writable 58; 7: saved R, X and XU 52, 54 and 62, host-writable 53, "
        "MMU-writable 55, A/D type 61:60",
        kernels={"7.3": "7"},
    ),
    Switch(
        "ept_software_ad",
        NO_YES,
        "no",
        "7.3: yes (kvm_mmu_set_ept_masks, kvm_ad_enabled); 6.12: no, both masks are 0",
        "where the processor sets no Accessed and Dirty in EPT entries, KVM sets both itself, as software "
        "bits",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "ept_read_is_user",
        NO_YES,
        "yes",
        "7.3: no (__vmx_handle_ept_violation); 6.12: yes",
        "the error code that stands for an EPT violation has U for a read; or for an access of user code, "
        "if the processor says whose it is",
        kernels={"7.3": "no"},
    ),
    Switch(
        "stat_mmu_shadow_pages",
        NO_YES,
        "no",
        "7.3: yes (mmu_shadow_pages, kvm_account_mmu_page)",
        "the number of shadow pages in use is a statistic",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "spte_requested_has_access",
        NO_YES,
        "no",
        "7.3: yes (mmutrace.h)",
        "the event kvm_mmu_spte_requested shows the access that the guest's tables grant",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "writable_spte_is_dirty",
        NO_YES,
        "no",
        "7.3: yes (make_spte); 6.12: not where a writable SPTE is replaced",
        "an SPTE that is made writable is Dirty: a fault on one that is complete changes nothing and is "
        "spurious",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "sync_sets_accessed",
        NO_YES,
        "no",
        "7.3: yes (make_spte, synchronizing); 6.12: no, as for a prefetch",
        "sync leaves Accessed set in an SPTE whose access changed",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "flush_on_ad_cleared",
        NO_YES,
        "yes",
        "7.3: no (leaf_spte_change_needs_tlb_flush); 6.12: yes (mmu_spte_update)",
        "a leaf SPTE that loses W, Accessed or Dirty is a reason to flush; or only one that loses "
        "MMU-writable",
        kernels={"7.3": "no"},
    ),
    Switch(
        "prefetch_keeps_leaf",
        NO_YES,
        "no",
        "7.3: yes (mmu_set_spte)",
        "a prefault of a page that is mapped leaves its SPTE alone, instead of making it anew",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "tdp_keeps_allowed_leaf",
        NO_YES,
        "no",
        "7.3: yes (tdp_mmu_map_handle_target_level)",
        "a fault of the TDP MMU on an SPTE that allows the access, or a prefault of one, leaves it alone",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "reload_frees_obsolete_roots",
        NO_YES,
        "no",
        "7.3: yes (kvm_mmu_reload); 6.12: KVM_REQ_MMU_FREE_OBSOLETE_ROOTS waits for the next entry",
        "a prefault after a zap-all frees the obsolete root and makes a new one; else it is retried for ever",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "mmio_gva_serves_reads",
        NO_YES,
        "yes",
        "7.3: no (vcpu_mmio_gva_to_gpa: the record's access lacks R); 6.12: yes",
        "a vCPU's record of its last MMIO access serves reads by their virtual address; if not, only writes, "
        "and reads walk the guest's tables",
        kernels={"7.3": "no"},
    ),
    Switch(
        "mmio_read_traced_by_page",
        NO_YES,
        "no",
        "7.3: yes (emulator_read_write_onepage); 6.12: no (read_exit_mmio), with the length of the last part",
        "a read of MMIO across pages is traced as unsatisfied for each page, when its part is found; or "
        "once, when all are",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "pte_write_zaps_nested_children",
        NO_YES,
        "no",
        "7.3: yes (kvm_mmu_track_write); 6.12: no",
        "when L1 writes an upper entry of its nested tables, the page below that nothing else points to is "
        "zapped; or it stays, unlinked, until it is recycled",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "log_off_recovers",
        NO_YES,
        "no",
        "7.3: yes (recover_huge_pages_range); 6.12: no (zap_collapsible_spte_range)",
        "when logging ends the TDP MMU puts huge SPTEs in place of tables at once, one flush in all; or it "
        "zaps the tables, a flush each, and faults make the huge SPTEs",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "tdp_zap_traces_after",
        NO_YES,
        "no",
        "7.3: yes (handle_changed_spte); 6.12: before",
        "kvm_tdp_mmu_spte_changed of an entry that led to a table comes after the events of what was below "
        "it",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "invalid_l1_pdptes_shut_down",
        NO_YES,
        "no",
        "7.3: yes (nested_svm_vmexit); 6.12: traced, L1 continues",
        "a #VMEXIT to an L1 whose PDPTEs cannot be loaded ends in a triple fault",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "nx_lists",
        {"1": 1, "2": 2},
        "1",
        "7.3: 2 (possible_nx_huge_pages[]); 6.12: 1",
        "pages that NX recovery may zap are on one list, or on one for each MMU, with a share of each in a "
        "pass",
        kernels={"7.3": "2"},
    ),
    Switch(
        "nx_recovery_miscounts",
        NO_YES,
        "no",
        "7.3.4: yes (unaccount_nx_huge_page in kvm_recover_nx_huge_pages)",
        "a page of the TDP MMU that NX recovery takes off its list is subtracted from the shadow MMU's "
        "count: that wraps below 0, and a pass recovers too many pages of the TDP MMU and none, or all, of "
        "the other",
        kernels={"7.3": "yes"},
    ),
    Switch(
        "age_flushes",
        NO_YES,
        "yes",
        "7.3: no (CONFIG_KVM_ELIDE_TLB_FLUSH_IF_YOUNG); 6.12: yes",
        "clear_flush_young flushes if the page was young",
        kernels={"7.3": "no"},
    ),
)
