"""All race cases, by name."""

from __future__ import annotations

from collections.abc import Iterable

from .case import Case, CaseError
from .cases import ALL

__all__ = ["cases", "find"]


def cases() -> dict[str, type[Case]]:
    """Return all cases by name, in the order of the protocol's description."""
    return {case.name: case for case in ALL}


def find(names: Iterable[str]) -> list[type[Case]]:
    """Return the cases of these names; a name without its letter means all that begin so. Raise CaseError."""
    known = cases()
    found: list[type[Case]] = []
    for name in names:
        wanted = name.upper().replace("R-C", "R-c")
        same = [
            case
            for key, case in known.items()
            if key.upper() == wanted.upper()
            or (key.upper().startswith(wanted) and key[len(wanted) :].isalpha())
        ]
        if not same:
            raise CaseError(f"no race case {name!r}; `shadowmmu race` lists them")
        found += [case for case in same if case not in found]
    return found
