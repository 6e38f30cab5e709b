"""The bits of an SPTE in each format of the processor: the shadow_*_mask variables (mmu/spte.c, 6.12.111).

kvm/spte/spte.py says what the software bits are for. Both formats share 1 W, 7 huge, 11 MMU-present and 51:12
frame. EPT's own: 0 R, 2 X, 5:3 memory type, 6 ignore PAT, 8 Accessed, 9 Dirty, 10 (since 7.3) X for user
addresses, 63 suppress #VE, and software bits above the frame (EptSoftwareBits).
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
    EPT_XU,
    NX,
    A,
    D,
    P,
    U,
    W,
)
from ..bits import (
    FROZEN_BITS,
    L1TF_BITS_MOVED,
    SPTE_HOST_WRITABLE,
    SPTE_MMIO_VALUE,
    SPTE_MMU_PRESENT,
    SPTE_MMU_WRITABLE,
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


@dataclass(frozen=True, slots=True)
class EptSoftwareBits:
    """Where SPTEs of EPT keep what the processor ignores (the switch `ept_software_bits`).

    Attributes:
        host_writable: The HOST_WRITABLE bit (EPT_SPTE_HOST_WRITABLE).
        mmu_writable: The MMU_WRITABLE bit (EPT_SPTE_MMU_WRITABLE).
        ad_type_shift: The lower one of the two bits of the A/D type (SPTE_TDP_AD_SHIFT).
        saved: Rights that an access-tracked SPTE keeps (SHADOW_ACC_TRACK_SAVED_BITS_MASK).
        saved_shift: How much higher it has them (SHADOW_ACC_TRACK_SAVED_BITS_SHIFT).
    """

    host_writable: int
    mmu_writable: int
    ad_type_shift: int
    saved: int
    saved_shift: int

    @property
    def ad_disabled(self) -> int:
        """Return the A/D type of an SPTE whose Accessed and Dirty the processor does not set
        (SPTE_TDP_AD_DISABLED).
        """
        return 1 << self.ad_type_shift


EPT_SOFTWARE_BITS_6 = EptSoftwareBits(
    host_writable=1 << 57, mmu_writable=1 << 58, ad_type_shift=52, saved=EPT_R | EPT_X, saved_shift=54
)
EPT_SOFTWARE_BITS_7 = EptSoftwareBits(
    host_writable=1 << 53,
    mmu_writable=1 << 55,
    ad_type_shift=60,
    saved=EPT_R | EPT_X | EPT_XU,
    saved_shift=52,
)


def ept_software_bits(design: Design) -> EptSoftwareBits:
    """Return where SPTEs of EPT keep their software bits."""
    return EPT_SOFTWARE_BITS_7 if design.ept_software_bits else EPT_SOFTWARE_BITS_6


def frozen_bits(design: Design) -> int:
    """Return what a frozen SPTE of the TDP MMU has besides the bits of an empty one (FROZEN_SPTE)."""
    return FROZEN_BITS & ~(EPT_XU if design.spte_bit_10_is_xu else 0)


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
        x: Bits that allow execution: EPT's X, since 7.3 also X for user addresses, else 0.
        nx: Bits that forbid execution: NX, with EPT 0.
        accessed: The Accessed bit, 0 if unused.
        dirty: The Dirty bit, 0 if unused.
        acc_track: Bits cleared to make the next access fault: EPT's rights, else 0.
        host_writable: The HOST_WRITABLE bit.
        mmu_writable: The MMU_WRITABLE bit.
        mmio_value: Bits of every MMIO SPTE (kvm_arch.shadow_mmio_value).
        mmio: Bits to compare with mmio_value.
        mmio_access: Bits of an MMIO SPTE that hold the guest's access, 0 if it is not stored.
        ad_enabled: The processor sets Accessed and Dirty (kvm_ad_enabled).
        ad_type: The A/D type of every present SPTE: 0 if ad_enabled.
        leaf_type: Memory type of every leaf SPTE with EPT, else 0.
        saved: Rights that an access-tracked SPTE keeps for the next access.
        saved_shift: How much higher it has them.
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
    ad_enabled: bool = True
    ad_type: int = 0
    leaf_type: int = 0
    saved: int = 0
    saved_shift: int = 0

    @property
    def leaf_bits(self) -> int:
        """Return the bits of every leaf SPTE."""
        return SPTE_MMU_PRESENT | self.present | self.ad_type | self.leaf_type

    @property
    def nonleaf_bits(self) -> int:
        """Return the bits of every SPTE that points to a table: all rights, Accessed if the CPU sets it."""
        rights = W | self.user | self.x | (self.accessed if self.ad_enabled else 0)
        return SPTE_MMU_PRESENT | self.present | self.ad_type | rights

    @property
    def young(self) -> int:
        """Return the bits of which a present SPTE has one if it was accessed (is_accessed_spte)."""
        return self.accessed or self.acc_track

    @property
    def written(self) -> int:
        """Return the bit of a present SPTE that may have been written through (is_dirty_spte)."""
        return self.dirty if self.ad_enabled else W

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


def ept_masks(design: Design, *, has_ad_bits: bool, has_exec_only: bool, ignore_pat: bool) -> SpteMasks:
    """Return the masks of EPT (kvm_mmu_set_ept_masks).

    Bit 63 suppresses #VE in kernels whose empty SPTEs have it too. Without `has_ad_bits` Accessed and Dirty
    are 0, or bits that only KVM sets (the switch `ept_software_ad`). `ignore_pat`: the guest's PAT is ignored
    (vmx_get_mt_mask; all memory here is write-back).
    """
    suppress_ve = design.empty_spte
    software = ept_software_bits(design)
    has_ad_masks = has_ad_bits or design.ept_software_ad
    user_x = EPT_XU if design.spte_bit_10_is_xu else 0
    return SpteMasks(
        present=suppress_ve | (0 if has_exec_only else EPT_R),
        user=EPT_R,
        x=EPT_X | user_x,
        nx=0,
        accessed=EPT_A if has_ad_masks else 0,
        dirty=EPT_D if has_ad_masks else 0,
        acc_track=EPT_RWX | user_x,
        host_writable=software.host_writable,
        mmu_writable=software.mmu_writable,
        mmio_value=EPT_MISCONFIG_WX_VALUE,
        mmio=EPT_RWX | suppress_ve,
        mmio_access=0,
        ad_enabled=has_ad_bits,
        ad_type=0 if has_ad_bits else software.ad_disabled,
        leaf_type=EPT_WB | (EPT_IPAT if ignore_pat else 0),
        saved=software.saved,
        saved_shift=software.saved_shift,
    )
