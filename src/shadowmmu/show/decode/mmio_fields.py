"""MMIO SPTEs: addresses without memory, with the memslot generation (make_mmio_spte, 6.12.111)."""

from __future__ import annotations

from shadowmmu.kvm.bits import L1TF_BITS_MOVED
from shadowmmu.kvm.spte.mmio import mmio_generation_of
from shadowmmu.kvm.state.spte_masks import MmioFrame, SpteMasks
from shadowmmu.x86.bits import ADDR, EPT_W, EPT_X, U, W

from .record import Field, field, flag

__all__ = ["mmio_fields", "mmio_sentences", "mmio_title"]

_GEN_HIGH = 0x7FF << 52
_RESERVED = 1 << 51
_L1TF = "The processor is vulnerable to L1TF: it may load speculatively through an entry that only faults."


def mmio_title(word: int, gfn: int, low_bits: int) -> str:
    """Return what an MMIO SPTE is, in a phrase; `low_bits` of its generation are at bit 3."""
    return f"MMIO SPTE of gfn {gfn:#x}, memslot generation {mmio_generation_of(word, low_bits):#x}"


def mmio_fields(word: int, masks: SpteMasks, frame: MmioFrame, low_bits: int) -> list[Field]:
    """Return the bits of an MMIO SPTE, whose frame is where `frame` says; `low_bits` of the generation begin
    at bit 3.
    """
    generation = mmio_generation_of(word, low_bits)
    fields = []
    if masks.mmio_access:
        fields += [
            field(word, 1, "P", "present, so that the processor looks at the reserved bit"),
            flag(word, W, "W", "the guest's tables grant writes", "the guest's tables grant no writes"),
            flag(word, U, "U", "the guest's tables grant user accesses", "kernel only by the guest's tables"),
        ]
        bits = ADDR & ~_RESERVED
        fields.append(field(word, _RESERVED, "MMIO", "a reserved bit: every access faults with RSVD"))
    else:
        fields.append(
            field(
                word, EPT_W | EPT_X | 1, "WX", "writable but not readable: misconfigured, every access exits"
            )
        )
        bits = ADDR
    return [
        *fields,
        field(word, ((1 << low_bits) - 1) << 3, "generation, low", f"of generation {generation:#x}"),
        *_frame_fields(word, frame, bits),
        field(word, _GEN_HIGH, "generation, high", f"of generation {generation:#x}"),
    ]


def _frame_fields(word: int, frame: MmioFrame, bits: int) -> list[Field]:
    where = f"gfn {frame.gfn(word):#x}, where no memslot is"
    if not frame.moved:
        return [field(word, bits, "frame", where)]
    return [
        field(word, frame.lower, "frame, low", f"of {where}"),
        field(word, frame.moved, "L1TF", "ones: no line of the L1 cache has such an address"),
        field(word, frame.moved << L1TF_BITS_MOVED, "frame, high", "what the ones displaced"),
    ]


def mmio_sentences(masks: SpteMasks, frame: MmioFrame) -> list[str]:
    """Return what follows from an SPTE being MMIO."""
    how = "fault with RSVD" if masks.mmio_access else "EPT misconfiguration"
    return [
        f"An access exits ({how}) and is emulated without a walk of the guest's tables.",
        "It is stale, and replaced at the next access, once the memslots' generation is another "
        "(check_mmio_spte).",
        *([_L1TF] if frame.moved else []),
    ]
