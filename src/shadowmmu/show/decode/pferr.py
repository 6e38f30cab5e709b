"""Error codes of page faults, as KVM handles them (PFERR_* in kvm_host.h, 6.12.111)."""

from __future__ import annotations

from shadowmmu.kvm.tracepoints.reasons import pferr_flags
from shadowmmu.x86.bits import (
    PFERR_F,
    PFERR_GUEST_FINAL,
    PFERR_GUEST_PAGE,
    PFERR_P,
    PFERR_PK,
    PFERR_RSVD,
    PFERR_U,
    PFERR_W,
)

from .record import Decoded, Field, flag, rest

__all__ = ["decode_pferr"]


def decode_pferr(word: int) -> Decoded:
    """Return what an error code of a page fault, or of a nested page fault, says."""
    fields = [
        flag(word, PFERR_P, "P", "a translation was there, but did not allow it", "nothing was mapped"),
        flag(word, PFERR_W, "W", "a write", "no write"),
        flag(word, PFERR_U, "U", "of user code", "of the kernel"),
        flag(word, PFERR_RSVD, "RSVD", "a reserved bit was set in an entry", "no reserved bit"),
        flag(word, PFERR_F, "F", "an instruction fetch", "no fetch, or neither NX nor SMEP are on"),
        flag(word, PFERR_PK, "PK", "a protection key forbade it", "no protection key"),
        flag(word, PFERR_GUEST_FINAL, "GUEST_FINAL", "nested: the address of the page itself", "not so"),
        flag(
            word, PFERR_GUEST_PAGE, "GUEST_PAGE", "nested: the address of one of the guest's tables", "not so"
        ),
    ]
    fields += rest(word, fields, "of no meaning to the MMU")
    nested = bool(word & (PFERR_GUEST_FINAL | PFERR_GUEST_PAGE))
    access = "write" if word & PFERR_W else "fetch" if word & PFERR_F else "read"
    who = "user" if word & PFERR_U else "kernel"
    title = f"{'nested ' if nested else ''}page fault of a {who} {access}"
    ordered: tuple[Field, ...] = tuple(sorted(fields, key=lambda f: f.low))
    return Decoded("pferr", word, title, ordered, pferr_flags(word), tuple(_sentences(word)))


def _sentences(word: int) -> list[str]:
    said = []
    if word & PFERR_RSVD:
        said.append(
            "KVM looks for an MMIO SPTE first (handle_mmio_page_fault), since its reserved bit causes just "
            "this; if there is none, the reserved bit is the guest's."
        )
    elif word & PFERR_P:
        said.append(
            "The translation lacked a right: write protection, copy-on-write, NX, or a stale TLB entry."
        )
        if word & PFERR_W:
            said.append("Candidate for fast_page_fault, if the MMU is direct and the SPTE is MMU-writable.")
    else:
        said.append("KVM walks the guest's tables, then maps the page, emulates MMIO, or injects the #PF.")
    if word & PFERR_GUEST_PAGE:
        said.append("The processor met it while it walked the guest's tables: the access counts as a write.")
        if word & PFERR_W and word & PFERR_P:
            said.append("KVM may unprotect the table: a write to a table that it shadows for a nested guest.")
    return said
