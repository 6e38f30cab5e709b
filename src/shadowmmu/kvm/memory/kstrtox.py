"""How the kernel reads numbers and truth values from text (lib/kstrtox.c)."""

import errno
import re

from .memory_region import RegionError

_NUMBER = re.compile(r"\+?(0[xX][0-9a-fA-F]+|[0-9]+)", re.ASCII)


def kstrtobool(text: str) -> bool:
    """y, t, 1, on or n, f, 0, off, in either case, whatever follows. Raises RegionError(EINVAL)."""
    word = text.lower()
    if word[:1] in ("y", "t", "1") or word[:2] == "on":
        return True
    if word[:1] in ("n", "f", "0") or word[:2] == "of":
        return False
    raise RegionError(errno.EINVAL, f"{text} is not a truth value")


def kstrtouint(text: str) -> int:
    """A number of 32 bits: decimal, 0x hexadecimal or 0 octal. Raises RegionError(EINVAL, ERANGE)."""
    match = _NUMBER.fullmatch(text)
    digits = match[1] if match else ""
    octal = digits[:1] == "0" and digits[:2].lower() != "0x"
    if not digits or (octal and re.search("[89]", digits)):
        raise RegionError(errno.EINVAL, f"{text} is not a number")
    value = int(digits[:80], 8 if octal else 0)
    if value >= 1 << 32:
        raise RegionError(errno.ERANGE, f"{text} has more than 32 bits")
    return value
