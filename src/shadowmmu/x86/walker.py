"""The hardware walker: from a linear address to a frame by the tables in memory (AMD APM vol. 2, 5.3 to 5.6).

At each level the walker checks present, then reserved bits; it sets A in each entry it passes and, once the
rights at the leaf suffice, A and for a write D there. Setting is a read of the entry and a later write: two
steps, which an observer between processor and memory must see. Upper levels are skipped by the
paging-structure caches.

With nested paging (15.25) the addresses in the guest's tables are guest-physical: each table entry is reached
by a walk of the nested tables as a user write, and at last the page by a walk of the access's own kind.
Intel's nested tables are in ept.py.
"""

from __future__ import annotations

from cython import uint as u32, ulonglong as u64

from .arrays import filled
from .bits import (
    ACC_ALL,
    ACC_U,
    ACC_W,
    ACC_X,
    ACCESSES,
    ADDR,
    EPT_R,
    EPT_VIOLATION_GVA_NX,
    EPT_VIOLATION_GVA_TRANSLATED,
    EPT_VIOLATION_GVA_USER,
    EPT_VIOLATION_GVA_VALID,
    EPT_VIOLATION_GVA_WRITABLE,
    EPT_W,
    FAULT,
    FETCH,
    GP_VECTOR,
    MAX_LEVELS,
    NESTED_FAULT,
    NESTED_W,
    NESTED_X,
    NX,
    PAE_PDPTES,
    PFERR_F,
    PFERR_GUEST_FINAL,
    PFERR_GUEST_PAGE,
    PFERR_P,
    PFERR_RSVD,
    PFERR_U,
    PFERR_W,
    PS,
    WRITE,
    A,
    D,
    G,
    P,
    U,
    W,
)
from .ept import EptWalker
from .implementation import MANUAL, Implementation
from .machine_check import MachineCheck
from .paging import paging_format, permission_bitmask, reserved_bits
from .tlb import TranslationCache
from .vmx import EXIT_REASON_EPT_VIOLATION

__all__ = ["MachineCheck", "Walker"]


class Walker:
    """Walks tables in the mode of the last `set_mode`.

    The mode of an access is a number: bits 1:0 its kind, bit 2 user, bit 3 EFLAGS.AC (clear for an implicit
    supervisor access).

    Attributes:
        words: Host physical memory as u64 words.
        nested: The walker of the nested tables; itself if there are none.
        nested_root: Physical address of the top nested table.
        two_dimensional: Nested paging is on: addresses in the tables are guest-physical.
        pdptes: The four PDPTE registers of VMX, which PAE paging uses with EPT instead of memory.
        nested_fault_gpa: Guest-physical address of the nested page fault that the last walk ended in; else
            `FAULT`.
        limit: Bytes of physical memory.
        caches_enabled: The paging-structure caches are used.
        walks: Number of translations asked for.
        loads: Number of table entries read.
        ad_sets: Number of stores that set A or D.
        implementation: The kind of processor.
        pdpte_accessed: A if the processor sets Accessed in PAE PDPTEs, else 0.
        nonleaf_bit8: Bit 8 may be set in entries of levels 4 and 5.
        accessed_at_end: Accessed is set in upper tables only once the walk allows the access.
        ept_advanced_info: EPT violations report the rights of the linear address.
        reserved_error: PFERR_* of a fault for reserved bits.
        shortened: The last walk began in a paging-structure cache.
        level: Level of the page that the last walk found: 1 (4 KiB), 2 (2 or 4 MiB), 3 (1 GiB).
        error_code: PFERR_* of the fault that the last walk ended in; with EPT its low half is the exit
            qualification.
        pde: Cache of level 2: entries that point to the table of level 1 for a 2 MiB region, see `cached`.
        pdpte: Cache of level 3.
        pml4e: Cache of level 4.
        pml5e: Cache of level 5.
        reserved: Masks of bits that must be 0, indexed by level, + 6 for entries with bit 7 set.
        need: Bits that a translation must have to serve an access, indexed by its mode.
        deny: Bits that a translation must not have to serve an access, indexed by its mode.
        levels: Levels of the paging mode: 0 (off), 2, 3 (PAE), 4 or 5.
        ept: The walker of EPT tables; it walks instead of this one while its `levels` is not 0.
        root_mask: Bits of the root that are its address.
        entry_bytes: Bytes of an entry: 4 or 8.
        entry_mask: u64 mask of an entry's bits.
        index_bits: Address bits that index a table: 10 or 9.
        leaf_bit: PS if large pages exist, else 0.
        global_bit: G if CR4.PGE is set, else 0.
        fetch_error: PFERR_F if the error codes of fetches have it, else 0.
    """

    def __init__(
        self,
        words: memoryview,
        implementation: Implementation = MANUAL,
        nested: Walker | None = None,
        ept: EptWalker | None = None,
    ) -> None:
        self.words = words
        self.nested: Walker = nested or self
        self.nested_root = 0
        self.two_dimensional = False
        self.pdptes = filled(PAE_PDPTES)
        self.nested_fault_gpa = FAULT
        self.limit = words.nbytes
        self.caches_enabled = True
        self.walks = 0
        self.loads = 0
        self.ad_sets = 0
        self.implementation = implementation
        self.pdpte_accessed = A if implementation.pdpte_accessed else 0
        self.nonleaf_bit8 = implementation.nonleaf_bit8
        self.accessed_at_end = implementation.accessed_at_end
        self.ept_advanced_info = implementation.ept_advanced_info
        self.reserved_error = PFERR_RSVD if implementation.rsvd_without_p else PFERR_P | PFERR_RSVD
        self.shortened = False
        self.level = 0
        self.error_code = 0
        self.pde = TranslationCache(21, 8, 4)
        self.pdpte = TranslationCache(30, 2, 4)
        self.pml4e = TranslationCache(39, 1, 4)
        self.pml5e = TranslationCache(48, 1, 4)
        self.reserved = filled(2 * (MAX_LEVELS + 1))
        self.need = filled(ACCESSES)
        self.deny = filled(ACCESSES)
        self.levels = 0
        self.ept: EptWalker = ept or EptWalker(words)

    def set_mode(
        self,
        *,
        levels: int,
        cr0_wp: bool,
        efer_nx: bool,
        cr4_smep: bool,
        cr4_smap: bool,
        cr4_pse: bool,
        cr4_pge: bool,
        maxphyaddr: int,
        gbpages: bool,
        amd: bool,
    ) -> None:
        """Compute the masks of a paging mode; the caches keep what they hold."""
        form = paging_format(levels)
        self.levels = levels
        self.root_mask = ADDR | 0xFE0 if levels == 3 else ADDR
        self.entry_bytes = form.entry_bytes
        self.entry_mask = (1 << 8 * form.entry_bytes) - 1
        self.index_bits = form.index_bits
        self.leaf_bit = PS if levels != 2 or cr4_pse else 0
        self.global_bit = G if cr4_pge else 0
        self.fetch_error = PFERR_F if cr4_smep or (efer_nx and levels != 2) else 0
        bit8 = amd and not self.nonleaf_bit8
        rows = reserved_bits(levels, maxphyaddr, nx=efer_nx, pse=cr4_pse, gbpages=gbpages, amd=bit8)
        for level in range(1, levels + 1):
            self.reserved[level] = rows[0][level - 1]
            self.reserved[MAX_LEVELS + 1 + level] = rows[1][level - 1]
        if levels == 3:
            self.reserved[3] &= ~self.pdpte_accessed
            self.reserved[MAX_LEVELS + 1 + 3] = self.reserved[3]
        faulting = permission_bitmask(wp=cr0_wp, nx=efer_nx, smep=cr4_smep, smap=cr4_smap)
        for mode in range(16):
            self._set_rights(mode, faulting)

    def _set_rights(self, mode: int, faulting: bytes) -> None:
        """Compute need and deny of one mode from the rights that fault."""
        kind = mode & 3
        row = faulting[(kind == WRITE) | mode >> 1 & 2 | mode >> 1 & 4 | (kind == FETCH) << 3]
        denies_user = row >> ACC_ALL & 1
        full = ACC_ALL & ~ACC_U if denies_user else ACC_ALL
        need = P
        deny = U if denies_user else 0
        if row >> (full & ~ACC_W) & 1:
            need |= W
        if not denies_user and row >> (full & ~ACC_U) & 1:
            need |= U
        if row >> (full & ~ACC_X) & 1:
            deny |= NX
        if kind == WRITE:
            need |= D | NESTED_W
        elif kind == FETCH:
            need |= NESTED_X
        self.need[mode] = need
        self.deny[mode] = deny

    def translate(self, root: u64, gva: u64, pcid: u64, mode: u32) -> u64:
        """Return the translation of `gva` in the TLB's format, with its page level in `level`; 0 is a page
        fault.

        The error code of a fault is in `error_code`. A fault found through the paging-structure caches is
        confirmed by a walk from the root; if that does not fault, the cached entries on the way were stale
        and are dropped. Raises MachineCheck if a table is outside memory.
        """
        self.walks += 1
        entry: u64 = self.walk(root, gva, pcid, mode, self.caches_enabled)
        if entry == 0 and self.shortened:
            entry = self.walk(root, gva, pcid, mode, 0)
            if entry:
                self.flush_address(gva, pcid)
        return entry

    def walk(self, root: u64, gva: u64, pcid: u64, mode: u32, use_caches: u32) -> u64:
        """Walk down the tables, from the root or from where the paging-structure caches lead. Return as
        translate.
        """
        self.shortened = False
        self.nested_fault_gpa = FAULT
        if self.levels == 0:
            if self.ept.levels:
                return self.walk_ept(root, gva, mode)
            self.level = 1
            if self.two_dimensional:
                return self.nested_page(gva, P | W | U | D, mode)
            return gva & ADDR | P | W | U | D | NESTED_W | NESTED_X
        level: u64 = self.levels
        table: u64 = root & self.root_mask
        rights: u64 = W | U
        nx: u64 = 0
        if use_caches:
            skip: u64
            for skip in range(2, self.levels + 1):
                upper: u64 = self.cached(skip, gva, pcid)
                if upper:
                    level = skip - 1
                    table = upper & ADDR
                    rights = upper
                    nx = upper & NX
                    self.shortened = True
                    break
        if level == 3 and self.levels == 3 and self.nested.ept.levels and self.two_dimensional:
            pdpte: u64 = self.pdptes[gva >> 30 & 3]
            if not pdpte & P:
                return self.fault(0, mode)
            table = pdpte & ADDR
            level = 2
        unmarked: u64 = 0  # table | level from which on Accessed is still to be set
        while True:
            shift: u64 = 12 + self.index_bits * (level - 1)
            hpa: u64 = table + (gva >> shift & (1 << self.index_bits) - 1) * self.entry_bytes
            if self.two_dimensional:
                hpa = self.nested_entry(hpa)
                if hpa == FAULT:
                    return 0
            if hpa >= self.limit:
                self.machine_check(hpa)
            word: u64 = self.words[hpa >> 3]
            lane: u64 = (hpa & 4) << 3
            entry: u64 = word >> lane & self.entry_mask
            self.loads += 1
            if not entry & P:
                return self.fault(0, mode)
            if entry & self.reserved[level + MAX_LEVELS + 1 if entry & PS else level]:
                return self.fault(self.reserved_error, mode)
            if level == 3 and self.levels == 3:
                rights = W | U
                if (
                    self.pdpte_accessed
                    and not entry & A
                    and not self.update(hpa, word | A, table, gva, level)
                ):
                    return 0
            else:
                rights &= entry
                nx |= entry & NX
                if level == 1 or entry & self.leaf_bit:
                    break
                if not entry & A:
                    if self.accessed_at_end:
                        unmarked = unmarked or table | level
                        use_caches = 0
                    elif not self.update(hpa, word | A << lane, table, gva, level):
                        return 0
            table = entry & ADDR
            if use_caches:
                self.remember(level, gva, pcid, table | rights & (W | U) | nx | P)
            level -= 1
        translation: u64 = entry & self.global_bit | rights & (W | U) | nx | P | D | NESTED_W | NESTED_X
        if translation & self.need[mode] != self.need[mode] or translation & self.deny[mode]:
            return self.fault(PFERR_P, mode)
        if unmarked:
            if not self.mark_tables(unmarked & ADDR, unmarked & 7, gva, level):
                return 0
            word = self.words[hpa >> 3]
        new: u64 = entry | A
        if mode & 3 == WRITE:
            new |= D
        if new != entry and not self.update(hpa, word | new << lane, table, gva, level):
            return 0
        self.level = level
        frame: u64 = (entry & ADDR) >> shift << shift
        if shift == 22:
            frame |= (entry >> 13 & 0xF) << 32 | gva & 0x20_0000
        if not new & D:
            translation ^= D
        if self.two_dimensional:
            offset: u64 = gva & (1 << 3 + 9 * level) - 1
            return self.nested_page(frame | offset, translation, mode)
        return translation | frame

    def mark_tables(self, table: u64, level: u64, gva: u64, last: u64) -> bool:
        """Set Accessed in the entries on the way from `table` of `level` to the page that level `last` maps.
        Return False for a nested page fault.
        """
        while level > last:
            shift: u64 = 12 + self.index_bits * (level - 1)
            hpa: u64 = table + (gva >> shift & (1 << self.index_bits) - 1) * self.entry_bytes
            if self.two_dimensional:
                hpa = self.nested_entry(hpa)
                if hpa == FAULT:
                    return False
            lane: u64 = (hpa & 4) << 3
            word: u64 = self.words[hpa >> 3]
            entry: u64 = word >> lane & self.entry_mask
            marked: u64 = entry | (0 if level == 3 and self.levels == 3 else A)
            if marked != entry and not self.update(hpa, word | marked << lane, table, gva, level):
                return False
            table = entry & ADDR
            level -= 1
        return True

    def set_pdptes(self, values: list[int]) -> None:
        """Load the PDPTE registers, as VM entry does from the VMCS."""
        for i in range(4):
            self.pdptes[i] = values[i]

    def load_pdptes(self, root: u64, maxphyaddr: u64) -> u64:
        """Load the PDPTE registers from the table at `root` (MOV to CR3 or CR4 with PAE paging). Return 0, or
        NESTED_FAULT for an EPT violation, or GP_VECTOR for a reserved bit in a present entry; then they are
        as they were.
        """
        gpa: u64 = root & 0xFFFFFFE0
        entry: u64 = self.nested.ept.translate(self.nested_root, gpa, EPT_R, 0)
        if entry == 0:
            self.nested_fault_gpa = gpa
            self.error_code = self.nested.ept.qualification
            if self.nested.ept.exit == EXIT_REASON_EPT_VIOLATION:
                self.error_code &= ~(EPT_VIOLATION_GVA_VALID | EPT_VIOLATION_GVA_TRANSLATED)
            return NESTED_FAULT
        offset: u64 = gpa & (1 << 3 + 9 * self.nested.ept.level) - 1
        first: u64 = (entry & ADDR | offset) >> 3
        if first + 4 > self.limit >> 3:
            self.machine_check(first << 3)
        one: u64 = 1
        reserved: u64 = 0xFFF << 52 | 0x1E6 | ADDR & ~((one << maxphyaddr) - 1)
        i: u64
        for i in range(4):
            if self.words[first + i] & P and self.words[first + i] & reserved:
                return GP_VECTOR
        for i in range(4):
            self.pdptes[i] = self.words[first + i]
        return 0

    def nested_entry(self, gpa: u64) -> u64:
        """Return the physical address of the guest table entry at `gpa`, or `FAULT` for a nested
        page fault.
        """
        entry: u64 = self.nested.translate(self.nested_root, gpa, 0, WRITE | 12)
        if entry == 0:
            self.nested_fault_gpa = gpa
            self.error_code = self.nested.error_code | PFERR_GUEST_PAGE
            return FAULT
        offset: u64 = gpa & (1 << 3 + 9 * self.nested.level) - 1
        return entry & ADDR | offset

    def nested_page(self, gpa: u64, translation: u64, mode: u32) -> u64:
        """Return the translation to the page at `gpa`; 0 is a nested page fault.

        The rights of the two dimensions are kept apart: the guest may waive its own (CR0.WP), not the others.
        """
        entry: u64 = self.nested.translate(self.nested_root, gpa, 0, mode & 3 | 4)
        if entry == 0:
            self.nested_fault_gpa = gpa
            self.error_code = self.nested.error_code | PFERR_GUEST_FINAL | self.advanced_info(translation)
            return 0
        offset: u64 = gpa & (1 << 3 + 9 * self.nested.level) - 1
        if self.levels == 0 or self.nested.level < self.level:
            self.level = self.nested.level
        frame: u64 = (entry & ADDR | offset) >> 3 + 9 * self.level << 3 + 9 * self.level
        translation &= ~(NESTED_W | NESTED_X | (~entry & (P | D)))
        if entry & W:
            translation |= NESTED_W
        if not entry & NX:
            translation |= NESTED_X
        return translation | entry & A | frame

    def advanced_info(self, translation: u64) -> u64:
        """Return bits 9 to 11 of the exit qualification of an EPT violation at the page of a linear address:
        what the guest's tables allow there (Intel SDM vol. 3C, table 28-7).
        """
        if not self.ept_advanced_info or not self.nested.ept.levels:
            return 0
        if self.nested.ept.exit != EXIT_REASON_EPT_VIOLATION:
            return 0
        info: u64 = EPT_VIOLATION_GVA_USER if translation & U else 0
        if translation & W:
            info |= EPT_VIOLATION_GVA_WRITABLE
        return info | EPT_VIOLATION_GVA_NX if translation & NX else info

    def update(self, hpa: u64, word: u64, table: u64, gva: u64, level: u64) -> bool:
        """Set A or D: store the word at `hpa`, which holds the entry. Return False for a nested
        page fault.
        """
        if self.two_dimensional and not self.may_update(table, gva, level):
            return False
        self.words[hpa >> 3] = word
        self.ad_sets += 1
        return True

    def may_update(self, table: u64, gva: u64, level: u64) -> bool:
        """Return whether the nested tables let the processor set A or D in the guest's entry; False is a
        nested page fault.

        They do if the entry could be read. Only with EPT without Accessed and Dirty was the read not a write
        already.
        """
        if not self.nested.ept.levels or self.nested.ept.ad:
            return True
        shift: u64 = 12 + self.index_bits * (level - 1)
        gpa: u64 = table + (gva >> shift & (1 << self.index_bits) - 1) * self.entry_bytes
        if self.nested.ept.translate(self.nested_root, gpa, EPT_R | EPT_W, 1):
            return True
        self.nested_fault_gpa = gpa
        self.error_code = self.nested.ept.qualification | PFERR_GUEST_PAGE
        return False

    def walk_ept(self, root: u64, gpa: u64, mode: u32) -> u64:
        """Return the translation that EPT tables give; an access to an entry of the guest's tables has bit 3
        of its mode set.
        """
        entry: u64 = self.ept.translate(root, gpa, self.ept.access(mode), mode & 8)
        self.level = self.ept.level
        self.error_code = self.ept.qualification
        return entry

    def fault(self, cause: u64, mode: u32) -> u64:
        """Record the error code of a page fault in an access of that mode. Return 0."""
        if mode & 3 == WRITE:
            cause |= PFERR_W
        elif mode & 3 == FETCH:
            cause |= self.fetch_error
        if mode & 4:
            cause |= PFERR_U
        self.error_code = cause
        return 0

    def machine_check(self, hpa: u64) -> int:
        """Raise MachineCheck for an access to `hpa`, which is outside memory."""
        raise MachineCheck(f"no memory at physical address {hpa:#x}")

    def cached(self, level: u64, gva: u64, pcid: u64) -> u64:
        """Return the cached entry of `level` on the way to `gva`: its table and the rights so far; else 0."""
        if level == 2:
            return self.pde.lookup(gva, pcid, P, 0)
        if level == 3:
            return self.pdpte.lookup(gva, pcid, P, 0)
        if level == 4:
            return self.pml4e.lookup(gva, pcid, P, 0)
        return self.pml5e.lookup(gva, pcid, P, 0)

    def remember(self, level: u64, gva: u64, pcid: u64, entry: u64) -> int:
        """Keep an upper-level entry in the format of `cached`. Return 0."""
        if level == 2:
            return self.pde.insert(gva, pcid, entry)
        if level == 3:
            return self.pdpte.insert(gva, pcid, entry)
        if level == 4:
            return self.pml4e.insert(gva, pcid, entry)
        return self.pml5e.insert(gva, pcid, entry)

    def flush_all(self) -> int:
        """Empty the paging-structure caches. Return 0."""
        self.pde.flush_all()
        self.pdpte.flush_all()
        self.pml4e.flush_all()
        self.pml5e.flush_all()
        return 0

    def flush_pcid(self, pcid: u64) -> int:
        """Empty the paging-structure caches of a PCID, whatever the address, as INVLPG also does.
        Return 0.
        """
        self.pde.flush_nonglobal(pcid)
        self.pdpte.flush_nonglobal(pcid)
        self.pml4e.flush_nonglobal(pcid)
        self.pml5e.flush_nonglobal(pcid)
        return 0

    def flush_address(self, gva: u64, pcid: u64) -> int:
        """Drop the upper-level entries on the way to `gva`, as a page fault does. Return 0."""
        self.pde.flush_page(gva, pcid)
        self.pdpte.flush_page(gva, pcid)
        self.pml4e.flush_page(gva, pcid)
        self.pml5e.flush_page(gva, pcid)
        return 0
