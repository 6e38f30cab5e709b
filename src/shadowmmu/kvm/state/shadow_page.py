"""The shadow page (struct kvm_mmu_page) and the list of active ones.

Gfn and role identify a shadow page.
"""

from cython import uint as u32, ulonglong as u64

from ...x86.arrays import filled
from ..bits import ROLE_DIRECT, ROLE_LEVEL, ROLE_PASSTHROUGH, SPTE_ENT_PER_PAGE, UNSYNC_BITMAP_WORDS


class ShadowPage:
    """A shadow page, or a page of the TDP MMU: struct kvm_mmu_page, 6.12.111.

    A page of the TDP MMU is linked at one place only, so it has `ptep` instead of parents, and is on no
    PageList. A special page is above the directories of one vCPU's root, on no PageList and not in the hash
    (special_root.py).

    Attributes:
        gfn: First guest frame that the page maps if it is direct; else the frame of the guest table that it
            shadows.
        role: ROLE_* word: what else makes the page the one that is needed. Changes only when ROLE_INVALID is
            set.
        spt: Physical address of the frame with the 512 SPTEs.
        translations: Physical address of a frame with the gfn and the guest's access of each SPTE as gfn <<
            12 | ACC_*; 0: none, both follow from gfn and role (shadowed_translation).
        mmu_valid_gen: kvm.mmu_valid_gen when the page was made.
        root_count: Number of roots, current and previous, that are this page; of a TDP MMU root its reference
            count (tdp_mmu_root_count).
        unsync: The guest may have written the shadowed table without KVM seeing it. Level 1 only.
        unsync_children: Number of bits set in unsync_child_bitmap.
        unsync_child_bitmap: 512 bits in 8 words: bit i says that SPTE i leads to a page that is unsync or has
            unsync children. There may be bits too many, never too few.
        parent_ptes: Head of the rmap of SPTEs that point here, see kvm/spte/rmap.py; 0: none.
        write_flooding_count: Emulated writes to the shadowed table since the guest last used it; 3 zap the
            page.
        clear_spte_count: Number of SPTEs that were emptied, for lockless readers on 32-bit hosts
            (split_spte.py); unused otherwise.
        multimapped: parent_ptes is a chain of blocks of five (parent_pte.py); only with that design.
        nx_huge_page_disallowed: The page exists because an executable page must not be huge.
        tracked_nx_huge_page: The page is in kvm.possible_nx_huge_pages; implies nx_huge_page_disallowed
            (possible_nx_huge_page_link not empty).
        on_list: The page is in kvm.active_mmu_pages; False once it was zapped.
        tdp_mmu_page: The TDP MMU owns the page.
        special: The page is a special one.
        scheduled_root_to_zap: An invalid TDP MMU root that a zap-all still has to zap.
        ptep: Physical address of the SPTE that points to this page of the TDP MMU; 0 for a root.
        newer: The next newer page on the PageList, or None (link.prev).
        older: The next older page on the PageList, or None (link.next).
        hash_next: The next older page in the same hash bucket, or None (hash_link).
    """

    def __init__(self, gfn: u64, role: u32, spt: u64, translations: u64) -> None:
        self.gfn = gfn
        self.role = role
        self.spt = spt
        self.translations = translations
        self.mmu_valid_gen = 0
        self.root_count = 0
        self.unsync = False
        self.unsync_children = 0
        self.unsync_child_bitmap = filled(UNSYNC_BITMAP_WORDS)
        self.parent_ptes = 0
        self.write_flooding_count = 0
        self.clear_spte_count = 0
        self.multimapped = False
        self.nx_huge_page_disallowed = False
        self.tracked_nx_huge_page = False
        self.on_list = False
        self.tdp_mmu_page = False
        self.special = False
        self.scheduled_root_to_zap = False
        self.ptep = 0
        self.newer: ShadowPage | None = None
        self.older: ShadowPage | None = None
        self.hash_next: ShadowPage | None = None

    @property
    def hpa(self) -> int:
        """Return the physical address of the 512 SPTEs."""
        return self.spt

    def level(self) -> u32:
        """Return the level of the page's SPTEs, 1 to 5."""
        return self.role & ROLE_LEVEL

    def direct(self) -> bool:
        """Return whether the page maps consecutive guest frames instead of shadowing a guest table."""
        return self.role & ROLE_DIRECT != 0

    def has_gptes(self) -> bool:
        """Return whether the page shadows a guest table (sp_has_gptes)."""
        return self.role & (ROLE_DIRECT | ROLE_PASSTHROUGH) == 0

    def parents(self) -> u64:
        """Return the head of the list of SPTEs that point here; a chain of blocks has bit 0 set, as an rmap
        of several.
        """
        return self.parent_ptes | self.multimapped

    def marked_children(self) -> list[int]:
        """Return the indices of the SPTEs whose bit in unsync_child_bitmap is set."""
        return [i for i in range(SPTE_ENT_PER_PAGE) if self.unsync_child_bitmap[i >> 6] >> (i & 63) & 1]

    def __repr__(self) -> str:
        return f"<ShadowPage gfn={self.gfn:#x} level={self.role & ROLE_LEVEL} role={self.role:#x}>"


class PageList:
    """A list of shadow pages, newest first, linked through the pages (struct list_head, e.g.
    active_mmu_pages).

    Attributes:
        corrupted: Number of pages that were added to another list while they were on this one; in the kernel
            both lists are broken from then on. 0 unless a defect is switched on.
        newest: First page, or None if the list is empty.
        oldest: Last page, or None if the list is empty.
    """

    def __init__(self) -> None:
        self.corrupted = 0
        self.newest: ShadowPage | None = None
        self.oldest: ShadowPage | None = None

    def add(self, sp: ShadowPage) -> None:
        """Add a page at the newest end (list_add)."""
        sp.older = self.newest
        sp.newer = None
        if self.newest is not None:
            self.newest.newer = sp
        else:
            self.oldest = sp
        self.newest = sp
        sp.on_list = True

    def add_oldest(self, sp: ShadowPage) -> None:
        """Add a page at the oldest end (list_add_tail)."""
        sp.older = None
        sp.newer = self.oldest
        if self.oldest is not None:
            self.oldest.older = sp
        else:
            self.newest = sp
        self.oldest = sp
        sp.on_list = True

    def remove(self, sp: ShadowPage) -> None:
        """Remove a page that is on the list (list_del)."""
        if sp.newer is not None:
            sp.newer.older = sp.older
        else:
            self.newest = sp.older
        if sp.older is not None:
            sp.older.newer = sp.newer
        else:
            self.oldest = sp.newer
        sp.newer = None
        sp.older = None
        sp.on_list = False

    def pages(self) -> list[ShadowPage]:
        """Return all pages, newest first."""
        found = []
        sp = self.newest
        while sp is not None:
            found.append(sp)
            sp = sp.older
        return found
