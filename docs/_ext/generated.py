"""Pages from the tables of the code, and links between the paragraphs of the specification.

A source file with a line `% generated: NAME` gets in its place what `pages.NAME.page()` returns, Markdown;
with `% generated: NAME WORD` it is that of `page("WORD")`.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from paragraphs import linked

_GENERATED = re.compile(r"^% generated: (\w+)(?: (\S+))?$", re.MULTILINE)


def _fill(app: Sphinx, document: str, source: list[str]) -> None:
    text = source[0]
    if document.startswith("spec/"):
        text = linked(text, document.removeprefix("spec/"))
    source[0] = _GENERATED.sub(_made, text)


def _made(match: re.Match[str]) -> str:
    words = [match[2]] if match[2] else []
    made: str = import_module(f"pages.{match[1]}").page(*words)
    return made


def _outdated(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Read documents with generated parts anew: the code may have changed."""
    return [name for name in env.found_docs if _GENERATED.search(Path(env.doc2path(name)).read_text())]


def setup(app: Sphinx) -> dict[str, bool]:
    """Enter the handlers."""
    app.connect("source-read", _fill)
    app.connect("env-get-outdated", _outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
