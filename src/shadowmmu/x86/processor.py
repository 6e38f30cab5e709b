"""One processor's view of memory: paging registers, TLB and walker, used through one `access`."""

from __future__ import annotations

from collections.abc import Sequence

from cython import uint as u32, ulonglong as u64

from .bits import ADDR, FAULT, GP_VECTOR, MASK64, NESTED_FAULT, PF_VECTOR
from .ept import EptWalker
from .implementation import MANUAL, Implementation
from .paging import paging_format
from .tlb import ZEN, Tlb, TlbGeometry
from .walker import Walker

__all__ = ["Processor"]


class Processor:
    """A processor on physical memory; a physical address is a byte address.

    `root`, `pcid`, `user` and `eflags_ac` may be set at any time, all other registers by `set_paging`. The
    processor starts with paging off. Setting a register flushes nothing: whoever plays MOV to CR, VMRUN or an
    exit asks for the flush, and a missing one shows.

    With nested paging (`set_nested`, `set_ept`) `root` and the tables below it are guest-physical. The TLB
    then translates from linear to host physical addresses.

    Attributes:
        limit: Bytes of physical memory.
        tlb: The TLB; with `tlb=False` it is off, as are the paging-structure caches, and every access walks.
        ept: The walker of EPT tables; after a nested page fault its `exit` says why.
        nested: The walker of nested tables.
        walker: The walker of the tables at `root`.
        root: Physical address of the top table: CR3 without its low control bits.
        pcid: Current process-context identifier, 0 to 4095.
        user: The accesses are made at CPL 3.
        eflags_ac: EFLAGS.AC, which lifts SMAP.
        fault_gva: Linear address of the last fault.
        fault_error_code: Its error code, PFERR_*; for EPT its exit qualification in the low half.
        fault_vector: PF_VECTOR, GP_VECTOR, or NESTED_FAULT for a nested page fault.
        flushes: Number of flushes of more than one address, for another processor that follows this one.
        page_flushes: Number of flushes of one address.
        flushed_page: Address of the last of them.
        levels: Levels of the paging mode: 0 (off), 2, 3 (PAE), 4 or 5.
        virtual_bits: Bits of a linear address in this mode.
        virtual_half: Half of the linear addresses, for the test that one is canonical; 0 in 32-bit modes.
        cr0_wp: CR0.WP.
        efer_nx: EFER.NX.
        cr4_smep: CR4.SMEP.
        cr4_smap: CR4.SMAP.
        cr4_pse: CR4.PSE.
        cr4_pge: CR4.PGE.
        maxphyaddr: Bits of a physical address; entries with others set fault.
        gbpages: 1 GiB pages exist.
        amd: Bit 8 of entries of levels 4 and 5 is reserved.
    """

    def __init__(
        self,
        words: memoryview,
        *,
        tlb: bool = True,
        geometry: TlbGeometry = ZEN,
        implementation: Implementation = MANUAL,
    ) -> None:
        self.limit = words.nbytes
        self.tlb = Tlb(geometry)
        self.tlb.enabled = tlb
        self.ept = EptWalker(words)
        self.ept.caches_enabled = tlb
        self.nested = Walker(words, implementation, ept=self.ept)
        self.nested.caches_enabled = tlb
        self.walker = Walker(words, implementation, self.nested)
        self.walker.caches_enabled = tlb
        self.root = 0
        self.pcid = 0
        self.user = False
        self.eflags_ac = False
        self.fault_gva = 0
        self.fault_error_code = 0
        self.fault_vector = 0
        self.flushes = 0
        self.page_flushes = 0
        self.flushed_page = 0
        self.set_paging(levels=0)

    def set_paging(
        self,
        *,
        levels: int,
        cr0_wp: bool = True,
        efer_nx: bool = True,
        cr4_smep: bool = False,
        cr4_smap: bool = False,
        cr4_pse: bool = True,
        cr4_pge: bool = True,
        maxphyaddr: int = 48,
        gbpages: bool = True,
        amd: bool = True,
    ) -> None:
        """Enter a paging mode: `levels` 0 (off: addresses are physical), 2, 3 (PAE), 4 or 5.

        `efer_nx` has no effect on 2-level tables. Raises ValueError for another number of levels.
        """
        self.walker.set_mode(
            levels=levels,
            cr0_wp=cr0_wp,
            efer_nx=efer_nx,
            cr4_smep=cr4_smep,
            cr4_smap=cr4_smap,
            cr4_pse=cr4_pse,
            cr4_pge=cr4_pge,
            maxphyaddr=maxphyaddr,
            gbpages=gbpages,
            amd=amd,
        )
        form = paging_format(levels)
        self.virtual_bits = form.virtual_bits
        self.virtual_half = 0 if form.virtual_bits == 32 else 1 << form.virtual_bits - 1
        self.levels = levels
        self.cr0_wp = cr0_wp
        self.efer_nx = efer_nx
        self.cr4_smep = cr4_smep
        self.cr4_smap = cr4_smap
        self.cr4_pse = cr4_pse
        self.cr4_pge = cr4_pge
        self.maxphyaddr = maxphyaddr
        self.gbpages = gbpages
        self.amd = amd

    def set_ept(
        self,
        *,
        levels: int,
        maxphyaddr: int = 48,
        ad: bool = True,
        execute_only: bool = True,
        mbec: bool = False,
    ) -> None:
        """Switch nested paging on with EPT tables of 4 or 5 levels.

        ad: their Accessed and Dirty are used (EPTP bit 6); execute_only: entries with X alone are valid;
        mbec: bit 10 of an entry is X of user addresses, which always stands with X here.
        """
        self.walker.two_dimensional = True
        self._set_nested_mode(0, maxphyaddr)
        self.ept.set_mode(levels=levels, maxphyaddr=maxphyaddr, ad=ad, execute_only=execute_only, mbec=mbec)

    def set_nested(self, *, levels: int, maxphyaddr: int = 48) -> None:
        """Switch nested paging on, with nested tables of 4 or 5 levels in AMD's format, or off (0)."""
        self.walker.two_dimensional = levels != 0
        self.ept.set_mode(levels=0, maxphyaddr=maxphyaddr, ad=True, execute_only=True)
        if levels:
            self._set_nested_mode(levels, maxphyaddr)

    def _set_nested_mode(self, levels: int, maxphyaddr: int) -> None:
        """Set the mode of the nested walker: WP and NX on, SMEP and SMAP off."""
        self.nested.set_mode(
            levels=levels,
            cr0_wp=True,
            efer_nx=True,
            cr4_smep=False,
            cr4_smap=False,
            cr4_pse=True,
            cr4_pge=False,
            maxphyaddr=maxphyaddr,
            gbpages=True,
            amd=True,
        )

    @property
    def nested_root(self) -> int:
        """Return the physical address of the top nested table (nCR3)."""
        return self.walker.nested_root

    @nested_root.setter
    def nested_root(self, root: int) -> None:
        self.walker.nested_root = root

    @property
    def fault_gpa(self) -> int:
        """Return the guest-physical address of the last nested page fault."""
        return self.walker.nested_fault_gpa

    def load_pdptes(self, cr3: int) -> bool:
        """Load the PDPTE registers of VMX from the table at `cr3`. Return False for a fault, which is
        described as that of an access.
        """
        vector = self.walker.load_pdptes(cr3, self.maxphyaddr)
        if vector:
            self.fault_vector, self.fault_gva, self.fault_error_code = vector, 0, self.walker.error_code
        return not vector

    def access(self, gva: u64, kind: u32) -> u64:
        """Return the physical address of an access of that kind (READ, WRITE, FETCH) at the current CPL, or
        `FAULT`.

        After a fault `fault_vector`, `fault_gva` and `fault_error_code` describe it: #PF, or #GP with error
        code 0 for an address that is not canonical (32-bit modes: above 4 GiB), or a nested page fault
        (`NESTED_FAULT`) at `fault_gpa`. Raises MachineCheck if the tables lead outside memory.
        """
        return self.translate(gva, kind & 3 | self.user << 2 | self.eflags_ac << 3)

    def implicit_access(self, gva: u64, kind: u32) -> u64:
        """Return the same for an access that the processor makes by itself (IDT, GDT, TSS, stack of an
        event's delivery).

        It has supervisor rights at any CPL, and EFLAGS.AC does not lift SMAP for it (AMD APM vol. 2, 5.6.6).
        """
        return self.translate(gva, kind & 3)

    def run(self, gvas: Sequence[int], kinds: Sequence[int], start: u64) -> u64:
        """Make the accesses from index `start` on. Return the index of the first that faults, or `len(gvas)`.

        Buffers of format 'Q' and 'B'; an element of `kinds` is a kind, plus 4 for an access at CPL 3
        (whatever `user` is).
        """
        i: u64 = start
        n: u64 = len(gvas)
        while i < n:
            if self.translate(gvas[i], kinds[i] & 7 | self.eflags_ac << 3) == FAULT:
                break
            i += 1
        return i

    def translate(self, gva: u64, mode: u32) -> u64:
        """Return the physical address of an access of `mode` (see Walker), or `FAULT`."""
        if (gva + self.virtual_half & MASK64) >> self.virtual_bits:
            self.fault_vector = GP_VECTOR
            self.fault_gva = gva
            self.fault_error_code = 0
            return FAULT
        hpa: u64 = FAULT
        entry: u64 = 0
        if self.tlb.enabled:
            need: u64 = self.walker.need[mode]
            deny: u64 = self.walker.deny[mode]
            entry = self.tlb.l1_4k.lookup(gva, self.pcid, need, deny)
            if entry:
                self.tlb.l1_hits += 1
                hpa = entry & ADDR | gva & 0xFFF
            else:
                hpa = self.tlb.lookup_beyond(gva, self.pcid, need, deny)
        if hpa == FAULT:
            entry = self.walker.translate(self.root, gva, self.pcid, mode)
            if not entry:
                self.fault_vector = PF_VECTOR if self.walker.nested_fault_gpa == FAULT else NESTED_FAULT
                self.fault_gva = gva
                self.fault_error_code = self.walker.error_code
                return FAULT
            if self.tlb.enabled:
                self.tlb.insert(gva, self.pcid, entry, self.walker.level)
            offset: u64 = gva & (1 << 3 + 9 * self.walker.level) - 1
            hpa = entry & ADDR | offset
        if hpa >= self.limit:
            self.walker.machine_check(hpa)
        return hpa

    def flush_all(self) -> int:
        """Drop all cached translations, global ones and those of all PCIDs."""
        self.flushes += 1
        self.tlb.flush_all()
        self.walker.flush_all()
        self.nested.flush_all()
        if self.ept.levels:
            self.ept.flush_all()
        return 0

    def flush_current(self) -> int:
        """Drop the current PCID's translations, except global ones (MOV to CR3)."""
        self.flushes += 1
        self.tlb.flush_nonglobal(self.pcid)
        self.walker.flush_pcid(self.pcid)
        return 0

    def flush_gva(self, gva: u64) -> int:
        """Drop the translations of one address, global ones too, and the PCID's upper levels (INVLPG)."""
        self.page_flushes += 1
        self.flushed_page = gva
        self.tlb.flush_page(gva, self.pcid)
        self.walker.flush_pcid(self.pcid)
        return 0

    def flush_frames(self, hpa: u64, size: u64) -> int:
        """Drop the translations to physical addresses [hpa, hpa + size), and all upper levels.

        No instruction does this; hypervisors offer it to the hypervisors that run on them.
        """
        self.flushes += 1
        self.tlb.flush_frames(hpa, size)
        self.walker.flush_all()
        self.nested.flush_all()
        return 0

    def counters(self) -> dict[str, int]:
        """Return counts since the start: hits in each TLB level, walks, loads of table entries, entries given
        A or D.
        """
        return {
            "l1_hits": self.tlb.l1_hits,
            "l2_hits": self.tlb.l2_hits,
            "walks": self.walker.walks,
            "loads": self.walker.loads,
            "ad_sets": self.walker.ad_sets,
        }
