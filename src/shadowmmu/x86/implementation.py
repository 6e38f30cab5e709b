"""How processors differ in what their page walk shows."""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Implementation:
    """A kind of processor.

    Attributes:
        pdpte_accessed: The walker sets Accessed in PAE PDPTEs, where the manual reserves the bit.
        rsvd_without_p: A fault for reserved bits reports RSVD but not P.
        nonleaf_bit8: Bit 8 may be set in entries of levels 4 and 5, where AMD's manual reserves it.
        pcid: The processor has process-context identifiers.
        wide_cr0: MOV to CR0 ignores bits 63:32 of the value, where the manual has #GP.
        efer: Bits of EFER that the processor has; VMRUN fails if the guest's EFER has another.
        bad_cr3_fails_entry: A guest's MOV to CR3 with reserved bits is VMEXIT_INVALID, where the manual has
            #GP.
        implicit_obeys_ac: EFLAGS.AC lifts SMAP also for implicit accesses below CPL 3, where by the manual it
            does for the accesses of instructions only.
        rmw_reads_first: An instruction that reads and writes memory makes a read access and then a write
            access, where by the manual it makes one write access.
        accessed_at_end: Accessed is set in the tables on the way only once the walk allows the access; else
            as the walk reaches each, also of one that ends in a page fault. The manuals leave that open.
        mov_cr0_loads_pdptes: Every MOV to CR0 loads the PDPTE registers with PAE paging, where by the manual
            one does that changes CD, NW or PG.
        ept_advanced_info: The qualification of an EPT violation has the rights of the linear address
            (advanced VM-exit information, bits 9 to 11).
    """

    pdpte_accessed: bool
    rsvd_without_p: bool
    nonleaf_bit8: bool
    pcid: bool
    wide_cr0: bool
    efer: int
    bad_cr3_fails_entry: bool = False
    implicit_obeys_ac: bool = False
    rmw_reads_first: bool = False
    accessed_at_end: bool = False
    mov_cr0_loads_pdptes: bool = False
    ept_advanced_info: bool = False


MANUAL: Final = Implementation(
    pdpte_accessed=False, rsvd_without_p=False, nonleaf_bit8=False, pcid=True, wide_cr0=False, efer=0x7D01
)
"""The processor of AMD's manual."""
TCG: Final = Implementation(
    pdpte_accessed=True, rsvd_without_p=True, nonleaf_bit8=True, pcid=False, wide_cr0=True, efer=0x1D01,
    bad_cr3_fails_entry=True, implicit_obeys_ac=True, rmw_reads_first=True,
)  # fmt: skip
"""QEMU 7.2's emulated processor, on which real KVM was recorded."""
INTEL: Final = replace(
    MANUAL, nonleaf_bit8=True, efer=0xD01, accessed_at_end=True, mov_cr0_loads_pdptes=True,
    ept_advanced_info=True,
)  # fmt: skip
"""A processor with VMX, on which real kvm_intel was recorded (Bochs 3.0, tigerlake)."""
