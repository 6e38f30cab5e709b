"""The fields of a class, from the section `Attributes:` of its docstring."""

from __future__ import annotations

import inspect
import re

_FIELD = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n {8,}.*)*)", re.MULTILINE)


def attributes(kind: type) -> dict[str, str]:
    """Return what the docstring says of each field, by name, in its order; several may share a text."""
    section = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    return {
        name: " ".join(match[2].split())
        for match in _FIELD.finditer(section)
        for name in match[1].split(", ")
    }


def summary(kind: type) -> str:
    """Return the docstring before that section."""
    return (inspect.getdoc(kind) or "").partition("Attributes:\n")[0].strip()
