"""The bug museum: historic defects of KVM's MMU that a switch brings back, for the checks to find.

Each is one mechanism left out, at the level of this model. Titles of fixes are those of public commits; where
a story is older than its fix, or was never one commit, `fix` begins with "about".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from .exhibits import EXHIBITS, Exhibit

__all__ = ["EXHIBITS", "Exhibit", "UnknownExhibit", "exhibit_named", "results"]


class UnknownExhibit(LookupError):
    """No such defect; the text names the nearest."""


def exhibit_named(name: str) -> Exhibit:
    """Return the exhibit of that name. Raises UnknownExhibit."""
    for exhibit in EXHIBITS:
        if exhibit.name == name:
            return exhibit
    near = get_close_matches(name, [exhibit.name for exhibit in EXHIBITS], 1)
    hint = f"; did you mean {near[0]!r}?" if near else "; see `shadowmmu museum`"
    raise UnknownExhibit(f"no defect {name!r}{hint}")


@cache
def results() -> Mapping[str, Mapping[str, Any]]:
    """Return what the last search found, by name: the output of `shadowmmu museum --run --json` as it is
    kept.
    """
    text = files(__package__).joinpath("results.json").read_text(encoding="utf-8")
    return {entry["name"]: entry for entry in json.loads(text)}
