"""MMIO: SPTEs for addresses that no memslot backs, and the vCPU's record of the last such access.

An MMIO SPTE is not MMU-present. In the legacy format it has P and a reserved bit set, so the processor faults
with RSVD and KVM can emulate the access without a walk; in EPT the processor reports it as misconfigured,
which says nothing about the access. It carries the memslot generation, 8 bits at 10:3 (since 7.3 7 bits at
9:3) and 11 at 62:52, so that a change of the slots makes it stale; the generation is 0 in designs where such
a change zaps all MMIO SPTEs (mmio_walk.py). (make_mmio_spte, check_mmio_spte, vcpu_cache_mmio_info, 6.12.111
and 7.3.4.)

On a processor vulnerable to L1TF five bits of the frame are moved up and ones stand in their place: an entry
that is not present then names no line of the L1 cache. Other SPTEs that are not present, empty or frozen,
have no frame; access-tracked ones keep theirs, for which KVM relies on flushing the L1 cache.
"""

from cython import uint as u32, ulonglong as u64

from ..bits import (
    BY_WALK,
    DEFECT_MMIO_CACHE_STALE,
    GEN_UPDATE_IN_PROGRESS,
    L1TF_BITS_MOVED,
    MMIO_GVA_ANY,
)
from ..state.vcpu import Vcpu
from ..state.vm import Kvm
from .spte import mmu_spte_set


def is_mmio_spte(kvm: Kvm, spte: u64) -> bool:
    """Return whether an SPTE is an MMIO SPTE."""
    return spte & kvm.shadow_mmio_mask == kvm.shadow_mmio_value


def make_mmio_spte(kvm: Kvm, gfn: u64, access: u32) -> u64:
    """Return an MMIO SPTE of the current generation; it keeps U and W of `access`, with EPT nothing of it."""
    gen: u64 = mmio_generation(kvm)
    low: u32 = kvm.mmio_gen_low_bits
    one: u64 = 1
    moved: u64 = kvm.shadow_nonpresent_or_rsvd_mask
    spte: u64 = ((gen & ((one << low) - 1)) << 3) | ((gen >> low) << 52)
    spte |= gfn << 12 | moved | ((gfn << 12) & moved) << L1TF_BITS_MOVED
    return spte | kvm.shadow_mmio_value | (access & kvm.shadow_mmio_access_mask)


def get_mmio_spte_gfn(kvm: Kvm, spte: u64) -> u64:
    """Return the frame in an MMIO SPTE: bits below the host's MAXPHYADDR, or below those of its cache."""
    moved: u64 = (spte >> L1TF_BITS_MOVED) & kvm.shadow_nonpresent_or_rsvd_mask
    return ((spte & kvm.shadow_mmio_gfn_mask) | moved) >> 12


def get_mmio_spte_access(kvm: Kvm, spte: u64) -> u32:
    """Return the ACC_* that the guest's tables grant, U and W only; 0 with EPT."""
    return spte & kvm.shadow_mmio_access_mask


def mmio_generation_of(spte: u64, low: u32) -> u64:
    """Return the memslot generation in an MMIO SPTE that has `low` bits of it from bit 3 on."""
    one: u64 = 1
    return ((spte >> 3) & ((one << low) - 1)) | (((spte >> 52) & 0x7FF) << low)


def get_mmio_spte_generation(kvm: Kvm, spte: u64) -> u64:
    """Return the memslot generation in which the SPTE was made, as far as it keeps it."""
    return mmio_generation_of(spte, kvm.mmio_gen_low_bits)


def mmio_generation(kvm: Kvm) -> u64:
    """Return the bits of the current memslot generation that an MMIO SPTE keeps."""
    if kvm.design.mmio_invalidation == BY_WALK:
        return 0
    return kvm.memslots_generation & kvm.mmio_generation_mask


def mark_mmio_spte(kvm: Kvm, sptep: u64, gfn: u64, access: u32) -> None:
    """Store an MMIO SPTE of the current generation at sptep."""
    spte: u64 = make_mmio_spte(kvm, gfn, access)
    if kvm.tracing:
        kvm.tracer.mark_mmio_spte(sptep, gfn, spte & 7, get_mmio_spte_generation(kvm, spte))
    mmu_spte_set(kvm, sptep, spte)


def check_mmio_spte(kvm: Kvm, spte: u64) -> bool:
    """Return whether an MMIO SPTE is of the current generation; False while the memslots are
    being changed.
    """
    if kvm.memslots_generation & GEN_UPDATE_IN_PROGRESS:
        return False
    if kvm.design.mmio_invalidation == BY_WALK:
        return True
    kvm_gen: u64 = mmio_generation(kvm)
    spte_gen: u64 = get_mmio_spte_generation(kvm, spte)
    if kvm.tracing:
        kvm.tracer.check_mmio_spte(spte, kvm_gen, spte_gen)
    return kvm_gen == spte_gen


def vcpu_cache_mmio_info(vcpu: Vcpu, gva: u64, gfn: u64, access: u32) -> None:
    """Record an MMIO access, so that the next one to its page needs no walk; not while the memslots are being
    changed.
    """
    if vcpu.kvm.memslots_generation & GEN_UPDATE_IN_PROGRESS:
        return
    vcpu.mmio_gva = 0 if vcpu.mmu_is_nested() else gva & ~0xFFF
    vcpu.mmio_access = access
    vcpu.mmio_gfn = gfn
    vcpu.mmio_gen = vcpu.kvm.memslots_generation


def vcpu_clear_mmio_info(vcpu: Vcpu, gva: u64) -> None:
    """Clear the record if it is of gva's page, or whatever it is of if gva is MMIO_GVA_ANY."""
    if gva == MMIO_GVA_ANY or vcpu.mmio_gva == gva & ~0xFFF:
        vcpu.mmio_gva = 0


def _is_current(vcpu: Vcpu) -> bool:
    """Return whether the record is of the current memslot generation."""
    kvm: Kvm = vcpu.kvm
    return vcpu.mmio_gen == kvm.memslots_generation or kvm.design.defect == DEFECT_MMIO_CACHE_STALE


def vcpu_match_mmio_gva(vcpu: Vcpu, gva: u64) -> bool:
    """Return whether the record is of gva's page and of the current memslot generation."""
    return vcpu.mmio_gva != 0 and vcpu.mmio_gva == gva & ~0xFFF and _is_current(vcpu)


def vcpu_match_mmio_gpa(vcpu: Vcpu, gpa: u64) -> bool:
    """Return whether the record is of gpa's frame and of the current memslot generation."""
    return vcpu.mmio_gfn != 0 and vcpu.mmio_gfn == gpa >> 12 and _is_current(vcpu)


def mmio_info_in_cache(vcpu: Vcpu, addr: u64) -> bool:
    """Return whether a fault at addr (a gpa for a direct MMU) is in the page of the last MMIO access.

    False while L2 runs: its addresses are neither gvas nor gpas of L1.
    """
    if vcpu.mmu_is_nested():
        return False
    if vcpu.mmu.direct():
        return vcpu_match_mmio_gpa(vcpu, addr)
    return vcpu_match_mmio_gva(vcpu, addr)
