"""One MMU of a vCPU (struct kvm_mmu): its roots, its roles and the rules they imply."""

from cython import uint as u32, ulonglong as u64

from .bits import INVALID_PAGE, ROLE_CR0_WP, ROLE_DIRECT, ROLE_EFER_NX, ROLE_LEVEL


class KvmMmu:
    """root_mmu of a vCPU.

    root_hpa        the active root: a shadow page's table, pae_root, or 0 (the zero page) as dummy root
    prev_roots      up to three former roots, most recently used first, as parallel lists of hpa and pgd
    cpu_role        what the guest's registers ask for: base word and extended word
    root_role       the role of the root shadow page
    pae_root        hpa of the four-entry table used as root while the shadow has 3 levels
    permissions     16 bytes, see x86.paging.permission_bitmask
    rsvd_bits       10 masks: [bit 7 of the entry * 5 + level - 1]
    pdptrs          the guest's four PDPTEs as last loaded
    """

    def __init__(self, pae_root: u64) -> None:
        self.root_hpa = INVALID_PAGE
        self.root_pgd = 0
        self.prev_hpa = [INVALID_PAGE, INVALID_PAGE, INVALID_PAGE]
        self.prev_pgd = [INVALID_PAGE, INVALID_PAGE, INVALID_PAGE]
        self.cpu_role = 0
        self.cpu_ext = 0
        self.root_role = 0
        self.initialised = False
        self.pae_root = pae_root
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

    def root_is_pae(self) -> bool:
        return self.root_hpa == self.pae_root

    def prev_root(self, i: int) -> tuple[int, int]:
        """(pgd, hpa) of previous root i."""
        return self.prev_pgd[i], self.prev_hpa[i]

    def pdptr(self, i: int) -> int:
        return self.pdptrs[i]

    def set_pdptrs(self, values: list[int]) -> None:
        for i in range(4):
            self.pdptrs[i] = values[i]

    def combined_cpu_role(self) -> u64:
        """Both words of the CPU role as KVM stores them: extended word in the high half."""
        extended: u64 = self.cpu_ext
        return extended << 32 | self.cpu_role
