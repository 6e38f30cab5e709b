"""Words as people paste them: with or without 0x, and SPTEs as recordings and `run` print them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shadowmmu.guest.scenario.text import shown

__all__ = ["SpteText", "WordError", "parse_spte", "parse_word"]

_HEX = re.compile(r"(?:0[xX])?([0-9a-fA-F]+)")
_SPTE = re.compile(r"(?P<target>S\d+|gpa:[0-9a-f]+|zero|pfn\?[0-9a-f]+|\?[0-9a-f]+)?\|(?P<rest>[0-9a-f]+)")
_WORDS = {"none": 0, "none63": 1 << 63}
_MMIO = "mmio:"


class WordError(ValueError):
    """A text that cannot be a word of this kind; the message says what it must be."""


@dataclass(frozen=True, slots=True)
class SpteText:
    """An SPTE as it was written."""

    word: int
    """Its value; the bits of the frame are 0 if the text names what they point to."""
    target: str
    """What it points to, `S7` or `gpa:806000`; empty if the text does not name it."""
    frozen: bool = False
    """The text is `frozen`; which word that is depends on the kernel."""


def parse_word(text: str, bits: int, what: str) -> int:
    """Return a hexadecimal word of at most so many bits. Raises WordError."""
    match = _HEX.fullmatch(text.strip().replace("_", ""))
    if match is None:
        raise WordError(f"the {what} must be hexadecimal, 0x3713 or 3713, not {shown(repr(text))}")
    word = int(match[1], 16)
    if word >> bits:
        raise WordError(f"{shown(repr(text))} has more than {bits} bits; a {what} has {bits}")
    return word


def parse_spte(text: str) -> SpteText:
    """Return an SPTE from a word or from a text as recordings have it (trace.names). Raises WordError.

    `a65` and `|ee7` are an SPTE's bits without those of the frame, `S7|827` points to a shadow page,
    `gpa:806000|e67` to the page at a guest address, `mmio:...` is a whole word.
    """
    stripped = text.strip()
    if stripped == "frozen":
        return SpteText(0, "", frozen=True)
    if stripped in _WORDS:
        return SpteText(_WORDS[stripped], "")
    if stripped.startswith(_MMIO):
        return SpteText(parse_word(stripped[len(_MMIO) :], 64, "SPTE"), "")
    match = _SPTE.fullmatch(stripped)
    if match is not None:
        return SpteText(parse_word(match["rest"], 64, "SPTE"), match["target"] or "")
    return SpteText(parse_word(stripped, 64, "SPTE"), "")
