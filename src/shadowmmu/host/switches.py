"""How the memory management of kernels differs: what profiles of kernels say (kvm/design)."""

from dataclasses import dataclass


@dataclass(slots=True)
class HostSwitches:
    """How the memory management of kernels differs, by default as in Linux 6.12.

    Attributes:
        hugetlb_unmap_notifies_again: hugetlbfs pages are announced once for a call and once for each VMA.
        remap_joins_next_first: A new VMA whose neighbours are not compatible with each other joins the next
            one.
        remap_hides_error: remap fails with ENOMEM where the old memory cannot be unmapped.
        mprotect_announces_tables: mprotect is announced from the first region on that has a page table.
        mprotect_unaccounts: Memory that was never touched is not accounted once it is read-only.
        split_maps_zero_page: Zeros of a huge page that is split become the shared zero page.
        reclaim_asks_age: MADV_PAGEOUT keeps what was accessed.
        lru_asks_notifiers: The multi-generational LRU asks the notifiers whether a mapped page was accessed.
        lru_asks_by_folio: It asks once about neighbouring pages that are parts of one compound page.
        split_announces_twice: Where a huge page is split, each VMA announces all of it for the page table and
            then its own part; else only its part.
        collapse_needs_writable: MADV_COLLAPSE fails where no page is writable.
        collapse_refuses_parts: MADV_COLLAPSE fails for a range inside one 2 MiB that does not begin there.
        dofork_refuses_hugetlb: MADV_DOFORK fails for pages of hugetlbfs.
        vma_hands_anon_vma_on: A VMA with an anon_vma merges into a neighbour that has none.
        dontneed_frees_tables: MADV_DONTNEED of whole 2 MiB frees their page table: they may be huge again.
        huge_zeros_become_huge: A write to the huge page of zeros maps a huge page instead, not small ones.
    """

    hugetlb_unmap_notifies_again: bool = False
    remap_joins_next_first: bool = False
    remap_hides_error: bool = False
    mprotect_announces_tables: bool = False
    mprotect_unaccounts: bool = True
    split_maps_zero_page: bool = True
    reclaim_asks_age: bool = False
    lru_asks_notifiers: bool = True
    lru_asks_by_folio: bool = False
    split_announces_twice: bool = True
    collapse_needs_writable: bool = True
    collapse_refuses_parts: bool = True
    dofork_refuses_hugetlb: bool = False
    vma_hands_anon_vma_on: bool = False
    dontneed_frees_tables: bool = False
    huge_zeros_become_huge: bool = False
