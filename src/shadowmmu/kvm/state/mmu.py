"""One MMU of a vCPU (struct kvm_mmu): its roots, its roles and the rules they imply."""

from __future__ import annotations

from cython import uint as u32, ulonglong as u64

from ..bits import INVALID_PAGE, ROLE_CR0_WP, ROLE_DIRECT, ROLE_EFER_NX, ROLE_LEVEL


class KvmMmu:
    """One of a vCPU's MMUs.

    root_mmu shadows L1's tables, or maps guest-physical memory under nested paging; guest_mmu shadows L1's
    nested tables; nested_mmu has only the rules of L2's own tables.

    root_hpa        the active root: a shadow page's table, the topmost special table, or 0 (the zero page) as
                    dummy root
    prev_roots      up to three former roots, most recently used first, as parallel lists of hpa and pgd
    cpu_role        what the guest's registers ask for: base word and extended word
    root_role       the role of the root shadow page
    pae_root        hpa of the four-entry table used as root while the guest has less than 4 levels; 0: none,
                    or the root is a special page (special_root)
    pml4_root, pml5_root
                    tables above pae_root where the shadow has more levels than the guest; 0: none
    permissions     16 bytes, see x86.paging.permission_bitmask
    rsvd_bits       10 masks: [bit 7 of the entry * 5 + level - 1]
    pdptrs          the guest's four PDPTEs as last loaded
    """

    def __init__(self, unused_role: u32, pae_root: u64 = 0) -> None:
        self.root_hpa = INVALID_PAGE
        self.root_pgd = 0
        self.prev_hpa = [INVALID_PAGE, INVALID_PAGE, INVALID_PAGE]
        self.prev_pgd = [INVALID_PAGE, INVALID_PAGE, INVALID_PAGE]
        self.cpu_role = 0
        self.cpu_ext = 0
        self.root_role = unused_role
        self.initialised = False
        self.pae_root = pae_root
        self.pml4_root = 0
        self.pml5_root = 0
        self.permissions = [0] * 16
        self.rsvd_bits = [0] * 10
        self.pdptrs = [0] * 4

    def set_rules(self, permissions: bytes, low: tuple[int, ...], high: tuple[int, ...]) -> None:
        """Install the permission table and the reserved-bit masks (bit 7 clear, bit 7 set)."""
        for i in range(16):
            self.permissions[i] = permissions[i]
        for i in range(5):
            self.rsvd_bits[i] = low[i] if i < len(low) else 0
            self.rsvd_bits[5 + i] = high[i] if i < len(high) else 0

    def copy_walk(self, other: KvmMmu) -> None:
        """Walk the guest's tables by the rules of another MMU, until the roles are computed anew."""
        self.cpu_role, self.cpu_ext = other.cpu_role, other.cpu_ext
        for i in range(16):
            self.permissions[i] = other.permissions[i]
        for i in range(10):
            self.rsvd_bits[i] = other.rsvd_bits[i]

    def direct(self) -> bool:
        return self.root_role & ROLE_DIRECT != 0

    def guest_level(self) -> u32:
        """Levels of the guest's own tables: 0 (no paging), 2, 3, 4 or 5."""
        return self.cpu_role & ROLE_LEVEL

    def shadow_level(self) -> u32:
        return self.root_role & ROLE_LEVEL

    def cr0_wp(self) -> bool:
        return self.cpu_role & ROLE_CR0_WP != 0

    def efer_nx(self) -> bool:
        return self.cpu_role & ROLE_EFER_NX != 0

    def special_root(self) -> u64:
        """The topmost of the special tables; 0 if there are none."""
        if self.pml5_root:
            return self.pml5_root
        return self.pml4_root if self.pml4_root else self.pae_root

    def root_is_special(self) -> bool:
        """Whether the root is no shadow page but the way to the four directories in pae_root."""
        return self.root_hpa != 0 and self.root_hpa == self.special_root()

    def prev_root(self, i: int) -> tuple[int, int]:
        """(pgd, hpa) of previous root i."""
        return self.prev_pgd[i], self.prev_hpa[i]

    def pdptr(self, i: int) -> int:
        return self.pdptrs[i]

    def set_pdptrs(self, values: list[int]) -> None:
        for i in range(4):
            self.pdptrs[i] = values[i]
