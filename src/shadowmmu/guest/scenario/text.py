"""Files of text that people give, and how messages quote what is in them: printable, and never at length."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["first_invisible", "open_file", "printable", "read_file", "read_head", "shown"]

MOST_BYTES = 1 << 30
"""Longer inputs are refused: the pipe that never ends, for example."""
_OPEN_FILE = re.compile(r"/proc/\d+(?:/task/\d+)?/fd/(\d+)")
_MOST_LINKS = 40
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
    """Return the first bytes of a file, up to `most`. Raises OSError, with the path.

    A pipe that is open is not opened again, which would wait for somebody to write to it.
    """
    number = None if path.is_file() else open_file(path)
    with path.open("rb") if number is None else os.fdopen(os.dup(number), "rb") as file:
        try:
            return file.read(most)
        except OSError as error:
            raise OSError(error.errno, f"cannot read: {os.strerror(error.errno or 0)}", str(path)) from None


def open_file(path: Path) -> int | None:
    """Return the number of the open file that a name stands for (/dev/stdin, /proc/self/fd/1), or None."""
    name = os.path.abspath(path)
    for _ in range(_MOST_LINKS):
        name = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        if match := _OPEN_FILE.fullmatch(name):
            return int(match[1]) if name.startswith(f"/proc/{os.getpid()}/") else None
        if not os.path.islink(name):
            return None
        name = os.path.join(os.path.dirname(name), os.readlink(name))
    return None


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
