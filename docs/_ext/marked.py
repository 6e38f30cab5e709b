"""Texts of the code as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"([\\*_\[\]<>{}#$~])")


def prose(text: str) -> str:
    """Return a text for a paragraph: what is in backticks as code, all else as it stands."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(part if n % 2 else _SPECIAL.sub(r"\\\1", part) for n, part in enumerate(parts))


def code(text: str) -> str:
    """Return a text as code within a line."""
    return f"``{text}``" if "`" in text else f"`{text}`"


def sentence(text: str) -> str:
    """Return a paragraph that begins with a capital, unless with a name, and ends with a full stop."""
    if re.match(r"[a-z]+(?:[ ,;:]|$)", text):
        text = text[0].upper() + text[1:]
    return prose(text) + ("" if text.endswith((".", ":", "]")) else ".")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def fence(text: str, language: str = "text") -> str:
    """Return a block of code."""
    return f"```{language}\n{text.rstrip()}\n```"


def definitions(items: Iterable[tuple[str, str]]) -> str:
    """Return a list of terms with what they mean, both Markdown."""
    return "\n\n".join(f"{term}\n: {meaning}" for term, meaning in items)
