"""The fields of a class: from the section `Attributes:` of its docstring, and from texts below its fields."""

from __future__ import annotations

import ast
import inspect
import re
from itertools import pairwise
from textwrap import dedent

_FIELD = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n {8,}.*)*)", re.MULTILINE)


def attributes(kind: type) -> dict[str, str]:
    """Return what is said of each field, by name, in the order of the source; several may share a text."""
    section = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    listed = {
        name: " ".join(match[2].split())
        for match in _FIELD.finditer(section)
        for name in match[1].split(", ")
    }
    return {**listed, **_below_fields(kind)}


def _below_fields(kind: type) -> dict[str, str]:
    """Return the texts that stand below fields of the class."""
    (definition,) = ast.parse(dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def summary(kind: type) -> str:
    """Return the docstring before the section `Attributes:`."""
    return (inspect.getdoc(kind) or "").partition("Attributes:\n")[0].strip()
