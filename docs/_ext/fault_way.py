"""The way of a read fault of a paging guest, in the order in which the functions are called.

tests/docs/test_figures.py has the calls of a real fault to compare this with.
"""

from __future__ import annotations

STEPS: tuple[tuple[str, str, str], ...] = (
    ("x86/processor.py", "translate", "TLB, then the walk of the shadow tables: a fault"),
    ("kvm/exits/page_fault_exit.py", "page_fault_exit", "the exit: trace it, and KVM has control"),
    ("kvm/fault/page_fault.py", "kvm_mmu_page_fault", "MMIO? count, handle, decide about emulation"),
    ("kvm/guest_access/guest_walk.py", "walk_addr", "walk the guest's tables: rights, A/D, or #PF"),
    ("kvm/fault/page_fault.py", "kvm_faultin_pfn", "the host's page for the gfn, without mmu_lock"),
    ("kvm/pages/zap.py", "make_mmu_pages_available", "under mmu_lock: room for shadow pages"),
    ("kvm/fault/page_fault.py", "is_page_fault_stale", "retry if the root or the host's page changed"),
    ("kvm/map/fetch.py", "fetch", "down the shadow tables, level by level"),
    ("kvm/pages/get_page.py", "kvm_mmu_child_role", "the role of the table below"),
    ("kvm/pages/get_page.py", "kvm_mmu_get_shadow_page", "find it in the hash, sync it, or make it"),
    ("kvm/pages/account.py", "account_shadowed", "write-protect the guest table it shadows"),
    ("kvm/pages/get_page.py", "link_shadow_page", "write the SPTE that points to it"),
    ("kvm/spte/huge_page.py", "kvm_mmu_hugepage_adjust", "may the page be mapped as a huge one?"),
    ("kvm/map/set_spte.py", "mmu_set_spte", "the leaf: replace what was there"),
    ("kvm/spte/make_spte.py", "make_spte", "its bits; a guest table becomes unsync here"),
    ("kvm/spte/rmap.py", "rmap_add", "enter it in the rmap of its frame"),
    ("kvm/map/prefetch.py", "pte_prefetch", "neighbours, from the guest entries read before"),
    ("x86/tlb.py", "insert", "back in the guest: walk again, fill the TLB"),
)
"""File below src/shadowmmu, function, what it does."""
