"""Where processors differ from each other in what their page walk shows."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Implementation:
    """A kind of processor.

    pdpte_accessed  the walker sets Accessed in PAE PDPTEs, where the manual reserves the bit
    rsvd_without_p  a fault for reserved bits reports RSVD but not P
    """

    pdpte_accessed: bool
    rsvd_without_p: bool


MANUAL: Final = Implementation(pdpte_accessed=False, rsvd_without_p=False)
"""What AMD's manual says."""
TCG: Final = Implementation(pdpte_accessed=True, rsvd_without_p=True)
"""QEMU 7.2's emulated processor, on which real KVM was recorded."""
