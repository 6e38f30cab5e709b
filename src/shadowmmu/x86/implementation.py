"""Where processors differ from each other in what their page walk shows."""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Implementation:
    """A kind of processor.

    pdpte_accessed  the walker sets Accessed in PAE PDPTEs, where the manual reserves the bit
    rsvd_without_p  a fault for reserved bits reports RSVD but not P
    nonleaf_bit8    bit 8 may be set in entries of levels 4 and 5, where AMD's manual reserves it
    pcid            it has process-context identifiers
    wide_cr0        MOV to CR0 ignores bits 63:32 of the value, where the manual has #GP
    efer            bits of EFER that it has; VMRUN fails if the guest's EFER has another
    bad_cr3_fails_entry
                    MOV to CR3 of a guest with reserved bits is VMEXIT_INVALID, where the manual has #GP
    implicit_obeys_ac
                    what the processor reads for itself below CPL 3 obeys EFLAGS.AC, which by the manual is
                    for the accesses of instructions only
    """

    pdpte_accessed: bool
    rsvd_without_p: bool
    nonleaf_bit8: bool
    pcid: bool
    wide_cr0: bool
    efer: int
    bad_cr3_fails_entry: bool = False
    implicit_obeys_ac: bool = False


MANUAL: Final = Implementation(
    pdpte_accessed=False, rsvd_without_p=False, nonleaf_bit8=False, pcid=True, wide_cr0=False, efer=0x7D01
)
"""What AMD's manual says."""
TCG: Final = Implementation(
    pdpte_accessed=True, rsvd_without_p=True, nonleaf_bit8=True, pcid=False, wide_cr0=True, efer=0x1D01,
    bad_cr3_fails_entry=True, implicit_obeys_ac=True,
)  # fmt: skip
"""QEMU 7.2's emulated processor, on which real KVM was recorded."""
TCG_INTEL: Final = replace(TCG, pcid=True, bad_cr3_fails_entry=False, implicit_obeys_ac=False)
"""The same one as Intel's, which have PCIDs."""
