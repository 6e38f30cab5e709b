"""One MMU of a vCPU (struct kvm_mmu): its roots, its roles, and the paging rules that follow from them."""

from __future__ import annotations

from cython import uint as u32, ulonglong as u64

from ...x86.arrays import filled
from ...x86.bits import ACCESSES, PAE_PDPTES
from ..bits import (
    INVALID_PAGE,
    NUM_PREV_ROOTS,
    PT64_ROOT_MAX_LEVEL,
    ROLE_CR0_WP,
    ROLE_DIRECT,
    ROLE_EFER_NX,
    ROLE_LEVEL,
)


class KvmMmu:
    """One of a vCPU's MMUs: struct kvm_mmu, 6.12.111. Vcpu says which of them does what.

    Attributes:
        root_hpa: Physical address of the current root: a shadow page's table, the topmost special table, or 0
            (the zero page) as dummy root; INVALID_PAGE while there is none (root.hpa).
        root_pgd: Guest CR3 or nested CR3 that the root was made for; 0 for a direct root. Meaningful only
            while there is a root (root.pgd).
        prev_hpa: Addresses of up to three former roots, most recently used first; INVALID_PAGE: unused
            (prev_roots[].hpa).
        prev_pgd: The CR3 of each, parallel to prev_hpa (prev_roots[].pgd).
        cpu_role: Base word (ROLE_*) of the role that the guest's registers ask for (cpu_role.base).
        cpu_ext: Extended word (EXT_*) of that role (cpu_role.ext).
        root_role: ROLE_* of the root shadow page (root_role).
        initialised: The roles were computed once. While False, the rules below are not valid.
        pae_root: Physical address of the 32-byte table of PDPTEs that is the root while the guest has fewer
            than 4 levels; 0: none, or the root is a special page (special_root.py).
        pml4_root: Physical address of the table above pae_root where the shadow has 4 levels or more and the
            guest fewer; 0: none.
        pml5_root: Physical address of the table above pml4_root where the shadow has 5 levels; 0: none.
        permissions: 16 bytes: bit ACC of byte i says that access i to a page with rights ACC faults, see
            x86.paging.permission_bitmask.
        rsvd_bits: 10 u64 masks of reserved gpte bits, indexed by 5 * (bit 7 of the gpte) + level - 1
            (guest_rsvd_check.rsvd_bits_mask).
        pdptrs: The guest's four PDPTEs as last loaded; meaningful for a PAE guest only.
    """

    def __init__(self, unused_role: u32, pae_root: u64 = 0) -> None:
        self.root_hpa = INVALID_PAGE
        self.root_pgd = 0
        self.prev_hpa = filled(NUM_PREV_ROOTS, INVALID_PAGE)
        self.prev_pgd = filled(NUM_PREV_ROOTS, INVALID_PAGE)
        self.cpu_role = 0
        self.cpu_ext = 0
        self.root_role = unused_role
        self.initialised = False
        self.pae_root = pae_root
        self.pml4_root = 0
        self.pml5_root = 0
        self.permissions = filled(ACCESSES)
        self.rsvd_bits = filled(2 * PT64_ROOT_MAX_LEVEL)
        self.pdptrs = filled(PAE_PDPTES)

    def set_rules(self, permissions: bytes, low: tuple[int, ...], high: tuple[int, ...]) -> None:
        """Install the permission table and the masks of reserved bits for gptes with bit 7 clear and set."""
        self.set_permissions(permissions)
        for i in range(PT64_ROOT_MAX_LEVEL):
            self.rsvd_bits[i] = low[i] if i < len(low) else 0
            self.rsvd_bits[PT64_ROOT_MAX_LEVEL + i] = high[i] if i < len(high) else 0

    def set_permissions(self, permissions: bytes) -> None:
        """Install the permission table alone."""
        for i in range(ACCESSES):
            self.permissions[i] = permissions[i]

    def copy_walk(self, other: KvmMmu) -> None:
        """Walk the guest's tables by the rules of another MMU, until the roles are computed anew."""
        self.cpu_role, self.cpu_ext = other.cpu_role, other.cpu_ext
        for i in range(16):
            self.permissions[i] = other.permissions[i]
        for i in range(10):
            self.rsvd_bits[i] = other.rsvd_bits[i]

    def direct(self) -> bool:
        """Return whether the root maps guest-physical addresses, so that no guest table is shadowed
        (root_role.direct).
        """
        return self.root_role & ROLE_DIRECT != 0

    def guest_level(self) -> u32:
        """Return the number of levels of the guest's own tables: 0 (no paging), 2, 3, 4 or 5."""
        return self.cpu_role & ROLE_LEVEL

    def shadow_level(self) -> u32:
        """Return the number of levels of the shadow tables (root_role.level)."""
        return self.root_role & ROLE_LEVEL

    def cr0_wp(self) -> bool:
        """Return whether CR0.WP counts as set."""
        return self.cpu_role & ROLE_CR0_WP != 0

    def efer_nx(self) -> bool:
        """Return whether EFER.NX counts as set."""
        return self.cpu_role & ROLE_EFER_NX != 0

    def special_root(self) -> u64:
        """Return the address of the topmost special table; 0 if there is none."""
        if self.pml5_root:
            return self.pml5_root
        return self.pml4_root if self.pml4_root else self.pae_root

    def root_is_special(self) -> bool:
        """Return whether the root is not a shadow page but a special table that leads to the PDPTEs in
        pae_root.
        """
        return self.root_hpa != 0 and self.root_hpa == self.special_root()

    def prev_root(self, i: int) -> tuple[int, int]:
        """Return (pgd, hpa) of previous root i, 0 to 2."""
        return self.prev_pgd[i], self.prev_hpa[i]

    def pdptr(self, i: int) -> int:
        """Return PDPTE i, 0 to 3, as last loaded."""
        return self.pdptrs[i]

    def set_pdptrs(self, values: list[int]) -> None:
        """Load the four PDPTEs."""
        for i in range(4):
            self.pdptrs[i] = values[i]
