"""What an SPTE is, and what follows: empty, frozen, MMIO, a table's or a page's (mmu/spte.h, 6.12.111)."""

from __future__ import annotations

from dataclasses import dataclass

from shadowmmu.guest.scenario.host_processor import HostProcessor
from shadowmmu.kvm.bits import SPTE_MMU_PRESENT
from shadowmmu.kvm.design.design import Design
from shadowmmu.kvm.state.spte_masks import (
    LEGACY_MASKS,
    SHADOW_MMIO_BIT,
    MmioFrame,
    SpteMasks,
    ept_masks,
    ept_software_bits,
    frozen_bits,
    mmio_frame,
    mmio_gen_low_bits,
)
from shadowmmu.kvm.tracepoints.mmu import SetSpte
from shadowmmu.x86.bits import ADDR, EPT_R, EPT_RWX, NX, PS, A, P

from .leaf_sentences import leaf_sentences, leaf_summary
from .mmio_fields import mmio_fields, mmio_sentences, mmio_title
from .record import Decoded, Field, field, rest
from .spte_fields import ept_fields, legacy_fields
from .words import SpteText

__all__ = ["decode_ept", "decode_spte"]

_WIDEST = HostProcessor(maxphyaddr=52)
_UNUSED = "KVM sets no such bit here"
_SIZES = {1: "4 KiB", 2: "2 MiB", 3: "1 GiB"}


@dataclass(frozen=True, slots=True)
class _Spte:
    """An SPTE with what is known of its place."""

    kind: str
    word: int
    target: str
    masks: SpteMasks
    design: Design
    level: int | None
    host: HostProcessor

    @property
    def ept(self) -> bool:
        return self.kind == "ept"

    @property
    def mmio_frame(self) -> MmioFrame:
        bits = self.host.maxphyaddr if self.ept else min(self.host.maxphyaddr, SHADOW_MMIO_BIT)
        return mmio_frame(bits, self.host.l1tf)

    def fields(self, *, leaf: bool) -> list[Field]:
        if self.ept:
            return ept_fields(
                self.word,
                self.masks,
                ept_software_bits(self.design),
                leaf=leaf,
                target=self.target,
                suppress_ve=self.design.empty_spte,
            )
        return legacy_fields(self.word, leaf=leaf, target=self.target)

    def decoded(
        self, title: str, fields: list[Field], printed: str, implies: list[str], short: str = ""
    ) -> Decoded:
        fields = fields + rest(self.word, fields, _UNUSED)
        ordered = tuple(sorted(fields, key=lambda f: f.low))
        return Decoded(self.kind, self.word, title, ordered, printed, tuple(implies), short)


def decode_spte(
    text: SpteText, *, level: int | None = None, design: Design | None = None, host: HostProcessor = _WIDEST
) -> Decoded:
    """Return what an SPTE of shadow paging or NPT says; `level` is that of its table, if known.

    `host` says where an MMIO SPTE keeps its frame.
    """
    design = design or Design()
    return _decoded(_Spte("spte", _word(text, design), text.target, LEGACY_MASKS, design, level, host))


def decode_ept(
    text: SpteText, *, level: int | None = None, design: Design | None = None, host: HostProcessor = _WIDEST
) -> Decoded:
    """Return what an SPTE of EPT says; arguments as those of `decode_spte`."""
    design = design or Design()
    word = _word(text, design)
    masks = ept_masks(
        design,
        has_ad_bits=not word & ept_software_bits(design).ad_disabled,
        has_exec_only=True,
        ignore_pat=True,
    )
    return _decoded(_Spte("ept", word, text.target, masks, design, level, host))


def _word(text: SpteText, design: Design) -> int:
    return design.empty_spte | frozen_bits(design) if text.frozen else text.word


def _decoded(spte: _Spte) -> Decoded:
    word, masks = spte.word, spte.masks
    if word in (0, NX):
        return _empty(spte)
    if word & ~NX == frozen_bits(spte.design):
        return _frozen(spte)
    if not word & SPTE_MMU_PRESENT:
        if word & masks.mmio == masks.mmio_value:
            frame, low = spte.mmio_frame, mmio_gen_low_bits(spte.design)
            title = mmio_title(word, frame.gfn(word), low)
            fields = mmio_fields(word, masks, frame, low)
            return spte.decoded(title, fields, "", mmio_sentences(masks, frame))
        return _unknown_to_kvm(spte)
    if not spte.ept and spte.level in (None, 3) and word & ~(ADDR | A) == SPTE_MMU_PRESENT | P:
        return _pae_pdpte(spte)
    if _is_link(spte):
        return _link(spte)
    return _leaf(spte)


def _is_link(spte: _Spte) -> bool:
    """Return whether it points to a table: it has all rights, and the bits of leaf SPTEs are clear."""
    if spte.level == 1 or spte.word & PS:
        return False
    of_leaves = spte.masks.host_writable | spte.masks.mmu_writable | spte.masks.leaf_type
    rights = spte.masks.nonleaf_bits & ~spte.masks.accessed & ~spte.design.empty_spte
    return spte.word & rights == rights and not spte.word & of_leaves


def _empty(spte: _Spte) -> Decoded:
    word = spte.word
    fields = [field(word, NX, "none63", "the bit that empty SPTEs of this kernel have")] if word else []
    if word == spte.design.empty_spte:
        said = ["It maps nothing: an access faults, and KVM looks at the guest's tables and the memslots."]
    else:
        said = [f"This kernel's empty SPTE is {spte.design.empty_spte:#x}, but this one maps nothing either."]
    return spte.decoded("empty SPTE", fields, "", said)


def _frozen(spte: _Spte) -> Decoded:
    word = spte.word
    fields = [field(word, 0xFFF, "frozen", "the value of a frozen SPTE")]
    if word & NX:
        fields.append(field(word, NX, "none63", "the bit that empty SPTEs of this kernel have"))
    said = [
        "Another CPU is taking out what was here, in the TDP MMU; whoever meets it lets the guest try again.",
        "An access faults, for it is present neither to the processor nor to KVM.",
    ]
    return spte.decoded("frozen SPTE", fields, "", said)


def _unknown_to_kvm(spte: _Spte) -> Decoded:
    word = spte.word
    if not spte.ept and word & ~(ADDR | A) == P:
        return _pae_pdpte(spte)
    used = word & (EPT_RWX if spte.ept else P)
    said = [
        "The processor would use it, but KVM does not take it for present: no SPTE of KVM is like that."
        if used
        else "It maps nothing, neither to the processor nor to KVM, yet it is not this kernel's empty SPTE."
    ]
    return spte.decoded("no SPTE of KVM", spte.fields(leaf=True), "", said)


def _pae_pdpte(spte: _Spte) -> Decoded:
    said = ["The processor reserves the bits of rights there, so it has none; rights come from below."]
    if not spte.word & SPTE_MMU_PRESENT:
        said.append("It is in pae_root, memory of the vCPU's MMU and not of a shadow page.")
    return spte.decoded(
        "entry of a PAE root: one of four page directories", spte.fields(leaf=False), "", said
    )


def _link(spte: _Spte) -> Decoded:
    where = spte.target or "a shadow page"
    said = ["It grants everything; what is allowed is decided by the SPTEs below."]
    if spte.masks.ad_enabled and not spte.word & spte.masks.accessed:
        said.append("The processor has not walked through it since it was made.")
    title = f"non-leaf SPTE{_of_level(spte.level)}: points to {where}, a table"
    return spte.decoded(title, spte.fields(leaf=False), "", said)


def _leaf(spte: _Spte) -> Decoded:
    word = spte.word
    level = spte.level or (2 if word & PS else 1)
    printed = SetSpte(0, word, 0, level, spte.masks.x).permissions
    if not word & PS:
        size = (
            "4 KiB"
            if spte.level in (None, 1)
            else f"a page of level {spte.level} without PS, which is wrong,"
        )
    elif spte.level is None:
        size = "a huge page (2 MiB at level 2, 1 GiB at level 3)"
    else:
        size = _SIZES.get(spte.level, f"a page of level {spte.level}, which is wrong,")
    tracked = not spte.masks.ad_enabled and not word & spte.masks.acc_track
    what = "access-tracked leaf SPTE" if tracked else "leaf SPTE"
    title = f"{what}{_of_level(spte.level)}: maps {size}" + (f" of {spte.target}" if spte.target else "")
    readable = bool(word & EPT_R) if spte.ept else bool(word & P)
    said = leaf_sentences(word, spte.masks, readable=readable, tracked=tracked)
    short = leaf_summary(word, spte.masks, printed, tracked=tracked)
    return spte.decoded(title, spte.fields(leaf=True), f"({printed})", said, short)


def _of_level(level: int | None) -> str:
    return "" if level is None else f" of level {level}"
