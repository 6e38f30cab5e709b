"""The shadow page (struct kvm_mmu_page) and the list of active ones.

A shadow page is identified by its gfn and its role. `spt` is the frame of its 512 SPTEs; indirect pages up to
level 3 have a second frame, `translations`, with the gfn and access behind each SPTE as
(gfn << 12) | TRANSLATION_VALID | ACC, or 0.
"""

from cython import uint as u32, ulonglong as u64

from ..bits import ROLE_DIRECT, ROLE_LEVEL, ROLE_PASSTHROUGH


class ShadowPage:
    """struct kvm_mmu_page, 6.12.111.

    A page of the TDP MMU (`tdp_mmu_page`) is linked at one place only, `ptep` (0 for a root), and is on no
    PageList. root_count of such a root is its reference count. `multimapped` and `clear_spte_count` are used
    by designs of older kernels and 32-bit hosts only (parent_pte.py, split_spte.py).

    A `special` page is above the directories of one vCPU's root, on no PageList and not in the hash
    (special_root).
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
        self.unsync_child_bitmap = [0] * 8
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
        """Address of the 512 SPTEs."""
        return self.spt

    def level(self) -> u32:
        return self.role & ROLE_LEVEL

    def direct(self) -> bool:
        return self.role & ROLE_DIRECT != 0

    def has_gptes(self) -> bool:
        """Whether the page shadows a guest table (sp_has_gptes)."""
        return self.role & (ROLE_DIRECT | ROLE_PASSTHROUGH) == 0

    def parents(self) -> u64:
        """Head of the reverse map of the SPTEs that point here, as rmap.py has them."""
        return self.parent_ptes | self.multimapped

    def marked_children(self) -> list[int]:
        """Numbers of the SPTEs that are marked to lead to an unsync page (unsync_child_bitmap)."""
        return [i for i in range(512) if self.unsync_child_bitmap[i >> 6] >> (i & 63) & 1]

    def __repr__(self) -> str:
        return f"<ShadowPage gfn={self.gfn:#x} level={self.role & ROLE_LEVEL} role={self.role:#x}>"


class PageList:
    """A list of shadow pages, newest first; intrusive, as KVM's active_mmu_pages.

    corrupted   how many pages were put on another list while they were on this one: in the kernel both lists
                are broken from then on
    """

    def __init__(self) -> None:
        self.corrupted = 0
        self.newest: ShadowPage | None = None
        self.oldest: ShadowPage | None = None

    def add(self, sp: ShadowPage) -> None:
        """Put a page at the newest end."""
        sp.older = self.newest
        sp.newer = None
        if self.newest is not None:
            self.newest.newer = sp
        else:
            self.oldest = sp
        self.newest = sp
        sp.on_list = True

    def add_oldest(self, sp: ShadowPage) -> None:
        """Put a page at the oldest end."""
        sp.older = None
        sp.newer = self.oldest
        if self.oldest is not None:
            self.oldest.older = sp
        else:
            self.newest = sp
        self.oldest = sp
        sp.on_list = True

    def remove(self, sp: ShadowPage) -> None:
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
        """All pages, newest first."""
        found = []
        sp = self.newest
        while sp is not None:
            found.append(sp)
            sp = sp.older
        return found
