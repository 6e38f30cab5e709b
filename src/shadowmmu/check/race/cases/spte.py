"""SPTEs of the programs: words such as "pfn1 MW W", which a diagram can show; EMPTY maps nothing.

W writable, MW MMU-writable, A Accessed, D Dirty.
"""

from __future__ import annotations

__all__ = ["EMPTY", "FROZEN", "has", "put", "take"]

EMPTY = "-"
FROZEN = "FROZEN"


def has(spte: str, word: str) -> bool:
    """Return whether the SPTE has a bit."""
    return word in spte.split()


def put(spte: str, *words: str) -> str:
    """Return the SPTE with these bits."""
    return " ".join([*spte.split(), *(word for word in words if not has(spte, word))])


def take(spte: str, *words: str) -> str:
    """Return the SPTE without these bits."""
    return " ".join(word for word in spte.split() if word not in words)
