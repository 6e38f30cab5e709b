"""What a decoded word consists of: its bits by name, what KVM prints for it, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Decoded", "Field", "field", "flag", "rest"]


@dataclass(frozen=True, slots=True)
class Field:
    """Some neighbouring bits of a word."""

    name: str
    """KVM's own word for them, or the manual's."""
    high: int
    low: int
    value: int
    """What they hold, shifted down to bit 0."""
    meaning: str
    """What this value says, in a few words."""

    @property
    def bits(self) -> str:
        """The position, `10` or `6:5`."""
        return str(self.low) if self.high == self.low else f"{self.high}:{self.low}"


@dataclass(frozen=True, slots=True)
class Decoded:
    """A word with its meaning. The fields do not overlap, and hold every bit that is set."""

    kind: str
    """What the word was taken for: role, cpu-role, spte, gpte, ept, pferr, exit."""
    word: int
    title: str
    """What it is, in a phrase."""
    fields: tuple[Field, ...]
    """From the lowest bit upwards."""
    printed: str
    """What KVM's tracepoints print for it; empty if none does."""
    implies: tuple[str, ...]
    """What follows from it, one sentence each."""
    short: str = ""
    """An entry's rights and other flags in a few letters, to stand beside it in a list; empty for other
    words.
    """

    def value_of(self, name: str) -> int:
        """Return the value of a field. Raises KeyError if the word has none of that name."""
        for held in self.fields:
            if held.name == name:
                return held.value
        raise KeyError(name)

    def encoded(self) -> int:
        """Return the word that the fields make up; it is `word`."""
        return sum(held.value << held.low for held in self.fields)

    def as_json(self) -> dict[str, Any]:
        """Return plain data for JSON; numbers of bits are decimal, words hexadecimal texts."""
        return {
            "kind": self.kind,
            "word": f"{self.word:#x}",
            "title": self.title,
            "fields": [
                {"name": f.name, "bits": f.bits, "value": f"{f.value:#x}", "meaning": f.meaning}
                for f in self.fields
            ],
            "printed": self.printed,
            "implies": list(self.implies),
        }


def field(word: int, mask: int, name: str, meaning: str) -> Field:
    """Return the field of the neighbouring bits of `mask`."""
    low = (mask & -mask).bit_length() - 1
    return Field(name, mask.bit_length() - 1, low, (word & mask) >> low, meaning)


def flag(word: int, mask: int, name: str, if_set: str, if_clear: str) -> Field:
    """Return the field of one bit, with what it means as it is."""
    return field(word, mask, name, if_set if word & mask else if_clear)


def rest(word: int, fields: list[Field], meaning: str, bits: int = 64) -> list[Field]:
    """Return the fields of the bits of `word` that are set and in none of `fields`, each run as one."""
    left = word
    for held in fields:
        left &= ~(((1 << (held.high - held.low + 1)) - 1) << held.low)
    found = []
    position = 0
    while position < bits:
        if not left >> position & 1:
            position += 1
            continue
        end = position
        while end + 1 < bits and left >> end + 1 & 1:
            end += 1
        found.append(Field("unused", end, position, (1 << (end - position + 1)) - 1, meaning))
        position = end + 1
    return found
