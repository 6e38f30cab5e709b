"""Sizes of memory as people write them."""

import re

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
"""Bytes in a unit."""

_SIZE = re.compile(r"(\d{1,20})([KMGT]?)(?:i?B)?", re.IGNORECASE)


def size_of(text: str) -> int | None:
    """Return the bytes of a size such as 4096, 64M or 2GiB; None if the text is not a size."""
    match = _SIZE.fullmatch(text.strip())
    return int(match[1]) * UNITS[match[2].upper()] if match else None
