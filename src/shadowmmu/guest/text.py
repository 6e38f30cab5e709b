"""Files of text that people give, and how messages quote what is in them: printable, and never at length."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["first_invisible", "printable", "read_file", "read_head", "shown"]

MOST_BYTES = 1 << 30
"""Longer inputs are refused: the pipe that never ends, for example."""
_LONGEST_WORD = 60
_LONGEST_TEXT = 200
_QUOTED = re.compile(r"(['`])([^'`]+)(\1)")


def read_file(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """Return the contents of a file. Raises OSError, with the path, also if it has more bytes than `most`."""
    data = read_head(path, most + 1)
    if len(data) > most:
        raise OSError(27, f"cannot read: more than {most >> 20} MiB", str(path))
    return data


def read_head(path: Path, most: int) -> bytes:
    """Return the first bytes of a file, up to `most`. Raises OSError, with the path."""
    with path.open("rb") as file:
        try:
            return file.read(most)
        except OSError as error:
            raise OSError(error.errno, f"cannot read: {os.strerror(error.errno or 0)}", str(path)) from None


def first_invisible(text: str) -> str | None:
    """Return the first character that cannot be seen, as U+001B, or None; tabs and spaces are fine."""
    if text.isascii() and text.isprintable():
        return None
    found = next((char for char in text if not char.isprintable() and char != "\t"), None)
    return None if found is None else f"U+{ord(found):04X}"


def printable(text: str) -> str:
    """Return a text in which control characters are escaped, so that no terminal obeys them."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def shown(text: str, most: int = _LONGEST_TEXT) -> str:
    """Return part of a message: printable, its quoted words and all of it shortened in the middle."""
    text = _QUOTED.sub(lambda match: match[1] + _shortened(match[2], _LONGEST_WORD) + match[3], text)
    return printable(_shortened(text, most))


def _shortened(text: str, most: int) -> str:
    half = most // 2 - 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"
