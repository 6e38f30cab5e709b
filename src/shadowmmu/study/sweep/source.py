"""Which model it is: a digest of the sources that a measurement depends on."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

__all__ = ["source_digest"]

_PACKAGE = Path(__file__).parents[2]
_ROOMS = ("x86", "host", "kvm", "guest", "trace", "vm", "study")
_SUFFIXES = (".py", ".pxd", ".toml", ".parquet")
_ONLY_SHOW = (
    *("interval.py", "named.py", "page.py", "plot.py", "results.py", "stored.py", "study.py", "table.py"),
    "words.py",
)
_ONLY_ASK = ("studies", "sweep")
"""Files and folders of `study` that no measurement depends on."""


@cache
def source_digest() -> str:
    """Return a digest of the model's source: the same source gives the same counters."""
    digest = sha256()
    for path in sorted(_PACKAGE.joinpath(room) for room in _ROOMS):
        for file in sorted(path.rglob("*")):
            if file.suffix in _SUFFIXES and not _is_apart(file.relative_to(_PACKAGE)):
                digest.update(file.relative_to(_PACKAGE).as_posix().encode() + b"\0")
                digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


def _is_apart(path: Path) -> bool:
    """Return whether no measurement depends on a file; a generated .pxd need not be there."""
    room, *rest = path.parts
    generated = path.suffix == ".pxd" and path.stem in ("bits", "vmx")
    return generated or (room == "study" and (rest[0] in _ONLY_ASK or rest[-1] in _ONLY_SHOW))
