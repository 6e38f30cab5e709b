"""How the kernel reads numbers and truth values from text (lib/kstrtox.c)."""

import errno
import re

from .memory_region import RegionError

_NUMBER = re.compile(r"\+?(0[xX][0-9a-fA-F]+|[0-9]+)", re.ASCII)


def kstrtobool(text: str) -> bool:
    """Return the truth value: y, t, 1, on or n, f, 0, off, in either case, whatever follows.

    Raises RegionError(EINVAL) for any other text.
    """
    word = text.lower()
    if word[:1] in ("y", "t", "1") or word[:2] == "on":
        return True
    if word[:1] in ("n", "f", "0") or word[:2] == "of":
        return False
    raise RegionError(errno.EINVAL, f"{text} must be a truth value: y, t, 1, on, n, f, 0 or off")


def kstrtouint(text: str) -> int:
    """Return the number, at most 32 bits: decimal, hexadecimal with 0x or octal with 0.

    Raises RegionError(EINVAL, ERANGE).
    """
    match = _NUMBER.fullmatch(text)
    digits = match[1] if match else ""
    octal = digits[:1] == "0" and digits[:2].lower() != "0x"
    if not digits or (octal and re.search("[89]", digits)):
        raise RegionError(errno.EINVAL, f"{text} must be a number")
    value = int(digits[:80], 8 if octal else 0)
    if value >= 1 << 32:
        raise RegionError(errno.ERANGE, f"{text} must have at most 32 bits")
    return value
