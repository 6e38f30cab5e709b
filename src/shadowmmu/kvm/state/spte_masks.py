"""The bits of an SPTE in each format of the processor: the shadow_*_mask variables (mmu/spte.c, 6.12.111).

kvm/spte/spte.py says what the software bits are for. Both formats share 1 W, 7 huge, 11 MMU-present and 51:12
frame. EPT's own: 0 R, 2 X, 5:3 memory type, 6 ignore PAT, 8 Accessed, 9 Dirty, 53:52 A/D type, 54 and 56
saved R and X of an access-tracked SPTE, 57 host-writable, 58 MMU-writable, 63 suppress #VE.
"""

from dataclasses import dataclass

from ...x86.bits import (
    ACC_U,
    ACC_W,
    ADDR,
    EPT_A,
    EPT_D,
    EPT_IPAT,
    EPT_R,
    EPT_RWX,
    EPT_WB,
    EPT_X,
    NX,
    A,
    D,
    P,
    U,
    W,
)
from ..bits import (
    EPT_SPTE_HOST_WRITABLE,
    EPT_SPTE_MMU_WRITABLE,
    FROZEN_BITS,
    L1TF_BITS_MOVED,
    SPTE_HOST_WRITABLE,
    SPTE_MMIO_VALUE,
    SPTE_MMU_PRESENT,
    SPTE_MMU_WRITABLE,
    SPTE_TDP_AD_DISABLED,
    SPTE_XU,
)
from ..design.design import Design

SHADOW_MMIO_BIT = 51
"""The bit of an MMIO SPTE that the processor reserves, so that it faults: only with less than 52 physical
bits.
"""
MOST_L1TF_BITS = 52 - L1TF_BITS_MOVED - 1
"""Most bits of a physical address that the cache of a processor uses that is vulnerable to L1TF."""
EPT_MISCONFIG_WX_VALUE = W | EPT_X
"""Writable and executable, not readable: the processor reports such an entry as misconfigured."""


def frozen_bits(design: Design) -> int:
    """Return what a frozen SPTE of the TDP MMU has besides the bits of an empty one (FROZEN_SPTE)."""
    return FROZEN_BITS & ~(SPTE_XU if design.spte_bit_10_is_xu else 0)


def mmio_gen_low_bits(design: Design) -> int:
    """Return how many bits of the generation an MMIO SPTE has from bit 3 on (MMIO_SPTE_GEN_LOW_BITS)."""
    return 7 if design.spte_bit_10_is_xu else 8


@dataclass(frozen=True, slots=True)
class SpteMasks:
    """One format of SPTEs; the fields have the kernel's names without `shadow_` and `_mask`.

    No memory type is per SPTE: only L1's own tables could ask for others, and they exist in the legacy
    format.

    Attributes:
        present: Bits of every present SPTE: P; with EPT suppress #VE, and R if execute-only entries do not
            exist.
        user: U; with EPT R.
        x: Bits that allow execution: EPT's X, else 0.
        nx: Bits that forbid execution: NX, with EPT 0.
        accessed: The Accessed bit, 0 if unused.
        dirty: The Dirty bit, 0 if unused.
        acc_track: Bits cleared to make the next access fault: EPT's R, W and X, else 0.
        host_writable: The HOST_WRITABLE bit.
        mmu_writable: The MMU_WRITABLE bit.
        mmio_value: Bits of every MMIO SPTE (kvm_arch.shadow_mmio_value).
        mmio: Bits to compare with mmio_value.
        mmio_access: Bits of an MMIO SPTE that hold the guest's access, 0 if it is not stored.
        ad_type: Bits 53:52 of every present SPTE: 0, or SPTE_TDP_AD_DISABLED.
        leaf_type: Memory type of every leaf SPTE with EPT, else 0.
    """

    present: int
    user: int
    x: int
    nx: int
    accessed: int
    dirty: int
    acc_track: int
    host_writable: int
    mmu_writable: int
    mmio_value: int
    mmio: int
    mmio_access: int
    ad_type: int = 0
    leaf_type: int = 0

    @property
    def leaf_bits(self) -> int:
        """Return the bits of every leaf SPTE."""
        return SPTE_MMU_PRESENT | self.present | self.ad_type | self.leaf_type

    @property
    def nonleaf_bits(self) -> int:
        """Return the bits of every SPTE that points to a table: all rights, Accessed."""
        rights = W | self.user | self.x
        return SPTE_MMU_PRESENT | self.present | self.ad_type | rights | self.accessed

    @property
    def young(self) -> int:
        """Return the bits of which a present SPTE has one if it was accessed (is_accessed_spte)."""
        return self.accessed or self.acc_track

    @property
    def written(self) -> int:
        """Return the bit of a present SPTE that may have been written through (is_dirty_spte)."""
        return self.dirty or W

    @property
    def flush(self) -> int:
        """Return the bits whose loss needs a TLB flush: Accessed and Dirty.

        Without Accessed, R stands for all three rights: an SPTE of a direct MMU has it unless it is
        access-tracked.
        """
        return (self.accessed or EPT_R) | self.written


LEGACY_MASKS = SpteMasks(
    present=P,
    user=U,
    x=0,
    nx=NX,
    accessed=A,
    dirty=D,
    acc_track=0,
    host_writable=SPTE_HOST_WRITABLE,
    mmu_writable=SPTE_MMU_WRITABLE,
    mmio_value=SPTE_MMIO_VALUE,
    mmio=SPTE_MMIO_VALUE,
    mmio_access=ACC_W | ACC_U,
)
"""Masks of shadow paging and of NPT, whose format is that of the host's own tables
(kvm_mmu_reset_all_pte_masks).
"""


def mmio_value_is_reserved(host_maxphyaddr: int, *, ept: bool) -> bool:
    """Return whether the processor reports an access through an MMIO SPTE as such
    (kvm_mmu_reset_all_pte_masks).

    In the legacy format bit 51 must be reserved: no host whose physical addresses have all 52 bits. EPT's
    misconfiguration always works.
    """
    return ept or host_maxphyaddr <= SHADOW_MMIO_BIT


@dataclass(frozen=True, slots=True)
class MmioFrame:
    """Where an MMIO SPTE has its frame.

    On a processor vulnerable to L1TF the upper bits of what its cache looks up are all ones, so that an SPTE
    that is not present names no line of the cache; the bits that were there are moved up.

    Attributes:
        lower: Bits in their own place (shadow_nonpresent_or_rsvd_lower_gfn_mask).
        moved: Bits that stand L1TF_BITS_MOVED higher and are ones in their own place; 0 without L1TF
            (shadow_nonpresent_or_rsvd_mask).
    """

    lower: int
    moved: int = 0

    def gfn(self, spte: int) -> int:
        """Return the frame that an MMIO SPTE says (get_mmio_spte_gfn)."""
        return (spte & self.lower | spte >> L1TF_BITS_MOVED & self.moved) >> 12


def mmio_frame(host_maxphyaddr: int, l1tf: int) -> MmioFrame:
    """Return where MMIO SPTEs have their frame (kvm_mmu_reset_all_pte_masks).

    `l1tf` is the bits of a physical address that the processor's L1 cache uses if it is vulnerable to L1TF
    (x86_cache_bits), else 0. If the guest's MAXPHYADDR is larger than the host's, bits above are lost.
    """
    if not l1tf:
        return MmioFrame(ADDR & ((1 << host_maxphyaddr) - 1))
    low = l1tf - L1TF_BITS_MOVED
    return MmioFrame(ADDR & ((1 << low) - 1), (1 << l1tf) - (1 << low))


def ept_masks(*, has_ad_bits: bool, has_exec_only: bool, suppress_ve: int, ignore_pat: bool) -> SpteMasks:
    """Return the masks of EPT (kvm_mmu_set_ept_masks).

    `suppress_ve`: bit 63, which suppresses #VE, in kernels whose empty SPTEs have it too, else 0.
    `ignore_pat`: the guest's PAT is ignored (vmx_get_mt_mask; all memory here is write-back).
    """
    return SpteMasks(
        present=suppress_ve | (0 if has_exec_only else EPT_R),
        user=EPT_R,
        x=EPT_X,
        nx=0,
        accessed=EPT_A if has_ad_bits else 0,
        dirty=EPT_D if has_ad_bits else 0,
        acc_track=EPT_RWX,
        host_writable=EPT_SPTE_HOST_WRITABLE,
        mmu_writable=EPT_SPTE_MMU_WRITABLE,
        mmio_value=EPT_MISCONFIG_WX_VALUE,
        mmio=EPT_RWX | suppress_ve,
        mmio_access=0,
        ad_type=0 if has_ad_bits else SPTE_TDP_AD_DISABLED,
        leaf_type=EPT_WB | (EPT_IPAT if ignore_pat else 0),
    )
