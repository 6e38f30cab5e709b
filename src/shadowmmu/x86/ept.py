"""The walker of Intel's nested tables: extended page tables, EPT (Intel SDM vol. 3C, 29.3).

An entry grants R, W and X; one that grants nothing is not present, and some that do are misconfigured. Where
Accessed and Dirty are used, a page whose Dirty is set may be logged (29.3.6), and accesses to the guest's
tables count as writes.
"""

from __future__ import annotations

from cython import uint as u32, ulonglong as u64

from .arrays import filled
from .bits import (
    ADDR,
    EPT_A,
    EPT_D,
    EPT_R,
    EPT_RWX,
    EPT_TYPE,
    EPT_VIOLATION_GVA_TRANSLATED,
    EPT_VIOLATION_GVA_VALID,
    EPT_VIOLATION_PROT_XU,
    EPT_VIOLATION_RWX_SHIFT,
    EPT_W,
    EPT_X,
    EPT_XU,
    FETCH,
    MAX_LEVELS,
    NX,
    PML_ENTRIES,
    PS,
    WRITE,
    A,
    D,
    P,
    W,
)
from .machine_check import MachineCheck
from .paging import ept_reserved_bits
from .tlb import TranslationCache
from .vmx import EXIT_REASON_EPT_MISCONFIG, EXIT_REASON_EPT_VIOLATION, EXIT_REASON_PML_FULL

__all__ = ["EptWalker"]


class EptWalker:
    """Walks EPT tables; not in use while `levels` is 0.

    Attributes:
        words: Host physical memory as u64 words.
        limit: Bytes of physical memory.
        caches_enabled: The paging-structure caches are used.
        levels: Levels of the tables: 4 or 5; 0: not in use.
        ad: Accessed and Dirty are used (EPTP bit 6).
        execute_only: Entries that grant X alone are valid.
        rights: Bits of an entry that grant something: R, W, X, with mode-based execute control also X of user
            addresses, which is only reported: KVM gives it together with X.
        reserved: Masks of bits that must be 0, indexed by level, + 6 for entries that map a page.
        level: Level of the page that the last walk found: 1 (4 KiB), 2 (2 MiB), 3 (1 GiB).
        exit: Basic exit reason of the last access that failed, EXIT_*.
        qualification: Its exit qualification; 0 except for an EPT violation.
        loads: Number of table entries read.
        ad_sets: Number of stores that set A or D.
        pml_enabled: Pages that become dirty are logged.
        pml_address: Physical address of the log, 512 guest-physical addresses, written from entry 511 down.
        pml_index: Entry of the log to be written next, 16 bits; above 511 the log is full.
        shortened: The last walk began in a paging-structure cache.
        pde: Cache of level 2: entries that point to the table of level 1 for a 2 MiB region, see `cached`.
        pdpte: Cache of level 3.
        pml4e: Cache of level 4.
        pml5e: Cache of level 5.
    """

    def __init__(self, words: memoryview) -> None:
        self.words = words
        self.limit = words.nbytes
        self.caches_enabled = True
        self.levels = 0
        self.ad = True
        self.execute_only = True
        self.rights = EPT_RWX
        self.reserved = filled(2 * (MAX_LEVELS + 1))
        self.level = 0
        self.exit = 0
        self.qualification = 0
        self.loads = 0
        self.ad_sets = 0
        self.pml_enabled = False
        self.pml_address = 0
        self.pml_index = PML_ENTRIES - 1
        self.shortened = False
        self.pde = TranslationCache(21, 8, 4)
        self.pdpte = TranslationCache(30, 2, 4)
        self.pml4e = TranslationCache(39, 1, 4)
        self.pml5e = TranslationCache(48, 1, 4)

    def set_mode(
        self, *, levels: int, maxphyaddr: int, ad: bool, execute_only: bool, mbec: bool = False
    ) -> None:
        """Walk tables of 4 or 5 levels, or none (0); the caches keep what they hold."""
        self.rights = EPT_RWX | (EPT_XU if mbec else 0)
        self.levels = levels
        self.ad = ad
        self.execute_only = execute_only
        if levels:
            rows = ept_reserved_bits(levels, maxphyaddr)
            for level in range(1, levels + 1):
                self.reserved[level] = rows[0][level - 1]
                self.reserved[MAX_LEVELS + 1 + level] = rows[1][level - 1]

    def access(self, mode: u32) -> u64:
        """Return the rights that an access of `mode` needs (see Walker).

        With bit 3 set it is an access to an entry of the guest's tables.
        """
        if mode & 8:
            return EPT_R | EPT_W if self.ad else EPT_R
        if mode & 3 == WRITE:
            return EPT_W
        return EPT_X if mode & 3 == FETCH else EPT_R

    def translate(self, root: u64, gpa: u64, access: u64, is_table: u64) -> u64:
        """Return the translation of `gpa` for an access that needs the rights `access`, with its `level`; 0
        is an exit.

        It has the TLB's format: P if it can be read, W, NX, D if a write need not walk again; and A, so that
        it is not 0. `is_table`: the access is to an entry of the guest's tables. Raises MachineCheck if a
        table is outside memory.
        """
        self.shortened = False
        entry: u64 = self.walk(root, gpa, access, is_table, self.caches_enabled)
        if entry == 0 and self.shortened:
            entry = self.walk(root, gpa, access, is_table, 0)
            if entry:
                self.flush_address(gpa)
        return entry

    def walk(self, root: u64, gpa: u64, access: u64, is_table: u64, use_caches: u32) -> u64:
        """Walk down the tables, from the root or from where the paging-structure caches lead. Return as
        translate.
        """
        level: u64 = self.levels
        table: u64 = root & ADDR
        rights: u64 = self.rights
        if gpa >> 12 + 9 * self.levels:
            return self.violation(access, 0, is_table)
        if use_caches:
            skip: u64
            for skip in range(2, self.levels + 1):
                upper: u64 = self.cached(skip, gpa)
                if upper:
                    level = skip - 1
                    table = upper & ADDR
                    rights = upper >> 1 & self.rights
                    self.shortened = True
                    break
        while True:
            shift: u64 = 12 + 9 * (level - 1)
            hpa: u64 = table + (gpa >> shift & 511) * 8
            if hpa >= self.limit:
                self.no_memory(hpa)
            entry: u64 = self.words[hpa >> 3]
            self.loads += 1
            if not entry & EPT_RWX:
                return self.violation(access, 0, is_table)
            leaf: u64 = level == 1 or (entry & PS != 0 and level <= 3)
            if self.is_misconfigured(entry, level, leaf):
                self.exit = EXIT_REASON_EPT_MISCONFIG
                self.qualification = 0
                return 0
            rights &= entry
            if leaf:
                break
            if self.ad and not entry & EPT_A:
                self.words[hpa >> 3] = entry | EPT_A
                self.ad_sets += 1
            table = entry & ADDR
            if use_caches:
                self.remember(level, gpa, table | rights << 1 | P)
            level -= 1
        if access & ~rights:
            return self.violation(access, rights, is_table)
        new: u64 = entry
        if self.ad:
            new |= EPT_A
            if access & EPT_W:
                new |= EPT_D
            if new & ~entry & EPT_D and not self.log_dirty(gpa):
                return 0
        if new != entry:
            self.words[hpa >> 3] = new
            self.ad_sets += 1
        self.level = level
        translation: u64 = A | rights & W | (P if rights & EPT_R else 0) | (0 if rights & EPT_X else NX)
        if not self.ad or new & EPT_D:
            translation |= D
        return (entry & ADDR) >> shift << shift | translation

    def is_misconfigured(self, entry: u64, level: u64, leaf: u64) -> bool:
        """Return whether an entry has W without R, X alone where that is not valid, or reserved bits or
        memory types.
        """
        rights: u64 = entry & EPT_RWX
        if rights & (EPT_R | EPT_W) == EPT_W or (rights == EPT_X and not self.execute_only):
            return True
        if not leaf:
            return entry & self.reserved[level] != 0
        if entry & self.reserved[MAX_LEVELS + 1 + level]:
            return True
        kind: u64 = (entry & EPT_TYPE) >> 3
        return kind == 2 or kind == 3 or kind == 7

    def violation(self, access: u64, rights: u64, is_table: u64) -> u64:
        """Record an EPT violation of an access where the tables grant `rights`. Return 0."""
        self.exit = EXIT_REASON_EPT_VIOLATION
        granted: u64 = (rights & EPT_RWX) << EPT_VIOLATION_RWX_SHIFT
        if rights & EPT_XU:
            granted |= EPT_VIOLATION_PROT_XU
        self.qualification = access | granted | EPT_VIOLATION_GVA_VALID
        if not is_table:
            self.qualification |= EPT_VIOLATION_GVA_TRANSLATED
        return 0

    def log_dirty(self, gpa: u64) -> bool:
        """Log that the page of `gpa` becomes dirty. Return False if the log is full: an exit before anything
        changes.
        """
        if not self.pml_enabled:
            return True
        if self.pml_index >= PML_ENTRIES:
            self.exit = EXIT_REASON_PML_FULL
            self.qualification = 0
            return False
        self.words[(self.pml_address >> 3) + self.pml_index] = gpa & ADDR
        self.pml_index = self.pml_index - 1 & 0xFFFF
        return True

    def no_memory(self, hpa: u64) -> int:
        """Raise MachineCheck for a table at `hpa`, which is outside memory."""
        raise MachineCheck(f"no memory at physical address {hpa:#x}")

    def cached(self, level: u64, gpa: u64) -> u64:
        """Return the cached entry of `level` on the way to `gpa`: its table, P, the rights so far from bit 1
        on; else 0.
        """
        if level == 2:
            return self.pde.lookup(gpa, 0, P, 0)
        if level == 3:
            return self.pdpte.lookup(gpa, 0, P, 0)
        if level == 4:
            return self.pml4e.lookup(gpa, 0, P, 0)
        return self.pml5e.lookup(gpa, 0, P, 0)

    def remember(self, level: u64, gpa: u64, entry: u64) -> int:
        """Keep an upper-level entry in the format of `cached`. Return 0."""
        if level == 2:
            return self.pde.insert(gpa, 0, entry)
        if level == 3:
            return self.pdpte.insert(gpa, 0, entry)
        if level == 4:
            return self.pml4e.insert(gpa, 0, entry)
        return self.pml5e.insert(gpa, 0, entry)

    def flush_all(self) -> int:
        """Empty the paging-structure caches (INVEPT). Return 0."""
        self.pde.flush_all()
        self.pdpte.flush_all()
        self.pml4e.flush_all()
        self.pml5e.flush_all()
        return 0

    def flush_address(self, gpa: u64) -> int:
        """Drop the upper-level entries on the way to `gpa`, as an EPT violation does. Return 0."""
        self.pde.flush_page(gpa, 0)
        self.pdpte.flush_page(gpa, 0)
        self.pml4e.flush_page(gpa, 0)
        self.pml5e.flush_page(gpa, 0)
        return 0
