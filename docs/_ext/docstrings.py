"""Docstrings as the sources write them, for autodoc: lists in two columns become definitions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

_ROW = re.compile(r"^(?P<term>[\w`]+(?:, [\w`]+)*)(?: {2,}(?P<text>\S.*))?$")
_DEEP = re.compile(r"^ {6,}\S")


def _columns(lines: list[str]) -> bool:
    """Whether a paragraph is a list of `term   what it is`, with more lines below the second column."""
    rows = [line for line in lines if not _DEEP.match(line)]
    matches = [_ROW.match(line) for line in rows]
    return all(matches) and any(match and match["text"] for match in matches)


def _defined(lines: list[str]) -> Iterator[str]:
    for line in lines:
        row = None if _DEEP.match(line) else _ROW.match(line)
        if row is None:
            yield f"    {line.strip()}"
            continue
        yield from ("", f"``{row['term']}``")
        if row["text"]:
            yield f"    {row['text']}"
    yield ""


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    lines[:] = [
        line
        for paragraph in paragraphs
        for line in [*(_defined(paragraph) if paragraph and _columns(paragraph) else paragraph), ""]
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter the handler."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
