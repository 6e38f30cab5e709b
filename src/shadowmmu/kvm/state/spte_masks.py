"""The bits of an SPTE by the processor's format: the shadow_*_mask variables (mmu/spte.c, 6.12.111).

Bits that both formats share are constants: 1 W, 7 huge, 11 MMU-present, 51:12 frame. EPT's own: 0 R, 2 X, 5:3
memory type, 6 ignore PAT, 8 Accessed, 9 Dirty, 53:52 whether those are used, 54 and 56 R and X of an SPTE
that is tracked for its next access, 57 host-writable, 58 MMU-writable, 63 suppress #VE.
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
    SPTE_HOST_WRITABLE,
    SPTE_MMIO_VALUE,
    SPTE_MMU_PRESENT,
    SPTE_MMU_WRITABLE,
    SPTE_TDP_AD_DISABLED,
)

SHADOW_MMIO_BIT = 51
"""The bit of an MMIO SPTE that faults because it is reserved: only below 52 bits of physical address."""
EPT_MISCONFIG_WX_VALUE = W | EPT_X
"""Writable and executable, not readable: the processor reports such an entry as misconfigured."""


@dataclass(frozen=True, slots=True)
class SpteMasks:
    """One format. Names as in the kernel without `shadow_` and `_mask`; `mmio_value` is kvm's.

    `ad_type` is what bits 53:52 of every present SPTE say, `leaf_type` the memory type of a leaf. No type is
    per SPTE: tables of L1, which could ask for others, exist in the legacy format only.
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
        """What every leaf SPTE has."""
        return SPTE_MMU_PRESENT | self.present | self.ad_type | self.leaf_type

    @property
    def nonleaf_bits(self) -> int:
        """What an SPTE has that points to a table: all rights, Accessed."""
        rights = W | self.user | self.x
        return SPTE_MMU_PRESENT | self.present | self.ad_type | rights | self.accessed

    @property
    def young(self) -> int:
        """A present SPTE with one of these bits was accessed (is_accessed_spte)."""
        return self.accessed or self.acc_track

    @property
    def written(self) -> int:
        """A present SPTE with this bit may have been written through (is_dirty_spte)."""
        return self.dirty or W

    @property
    def flush(self) -> int:
        """A present SPTE that loses one of these bits is a reason to flush: it loses Accessed or Dirty.

        Without Accessed it is R for all three rights: a direct MMU's SPTE has it unless it is tracked.
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
"""Shadow paging, and NPT, whose format is that of the host's own tables (kvm_mmu_reset_all_pte_masks)."""


def mmio_value_is_reserved(host_maxphyaddr: int, *, ept: bool) -> bool:
    """Return whether MMIO SPTEs are told apart by the processor (kvm_mmu_reset_all_pte_masks).

    EPT's are misconfigured whatever the width of addresses.
    """
    return ept or host_maxphyaddr <= SHADOW_MMIO_BIT


def mmio_gfn_mask(host_maxphyaddr: int) -> int:
    """Return the bits of an MMIO SPTE that are read as its frame (shadow_nonpresent_or_rsvd_lower_gfn_mask).

    A guest whose MAXPHYADDR is larger than the host's loses the bits above. Processors without L1TF only.
    """
    return ADDR & ((1 << host_maxphyaddr) - 1)


def ept_masks(*, has_ad_bits: bool, has_exec_only: bool, suppress_ve: int, ignore_pat: bool) -> SpteMasks:
    """EPT (kvm_mmu_set_ept_masks).

    `suppress_ve`: the bit of present SPTEs against #VE, which kernels have that keep it in empty ones too.
    `ignore_pat`: the guest's PAT does not count (vmx_get_mt_mask; all memory here is write-back).
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
