"""What extensions are compiled from: the C view of constants, and whether anything is newer than they are.

setup.py runs this file by itself, before the package can be imported.
"""

import re
import runpy
from collections.abc import Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_CIMPORT = re.compile(r"^from\s+(\.*)(\S*)\s+cimport\b", re.MULTILINE)


CONSTANTS = ("*/bits.py", "x86/vmx.py")
"""Modules of constants, never compiled: Python reads the .py, C the .pxd that is written beside it."""


def constants(package: Path) -> list[Path]:
    """Return the modules of constants below the folder `package`."""
    return sorted(source for pattern in CONSTANTS for source in package.glob(pattern))


def constants_pxd(source: Path) -> str:
    """Return the C view of a module of constants: each name as an unsigned 64-bit constant, but for tables.

    Raises ValueError if a value is not such a number.
    """
    prefix = f"SHADOWMMU_{source.parent.name.upper()}_{source.stem.upper()}"
    macros, names = [], []
    for name, value in runpy.run_path(str(source)).items():
        if not name.isupper() or isinstance(value, dict):
            continue
        if not isinstance(value, int) or not 0 <= value < 1 << 64:
            raise ValueError(f"{source}: {name} = {value!r} must be an unsigned 64-bit number")
        macros.append(f"    #define {prefix}_{name} {value:#x}ULL")
        names.append(f'    const u64 {name} "{prefix}_{name}"')
    return "\n".join(
        (
            f"# Written by setup.py from {source.name}: the same names with the same values, for C.",
            "from shadowmmu.x86.types cimport *",
            "",
            "cdef extern from *:",
            '    """',
            *macros,
            '    """',
            *names,
            "",
        )
    )


def write_constants(package: Path) -> None:
    """Write the .pxd of constants where its text has changed: what cimports it is compiled anew."""
    for source in constants(package):
        pxd, text = source.with_suffix(".pxd"), constants_pxd(source)
        if not pxd.exists() or pxd.read_text() != text:
            pxd.write_text(text)


def cimported(package: Path, pxd: Path) -> Iterator[Path]:
    """Yield the .pxd files of the package that a .pxd file cimports."""
    for dots, module in _CIMPORT.findall(pxd.read_text()):
        folder = pxd.parents[len(dots) - 1] if dots else package.parent
        path = folder.joinpath(*module.split(".")).with_suffix(".pxd")
        if path.is_relative_to(package):
            yield path


def why_stale(package: Path, hot_modules: Sequence[Path]) -> str:
    """Return which file is newer than an extension that is compiled from it, in words; empty if none is.

    An extension is compiled from its .py, its .pxd, and every .pxd that is cimported, directly or not.
    """
    for source in constants(package):
        pxd = source.with_suffix(".pxd")
        if not pxd.exists():
            return f"{pxd.relative_to(package)} is missing"
        if _changed(source) > _changed(pxd) and pxd.read_text() != constants_pxd(source):
            return f"{source.relative_to(package)} is newer than {pxd.name}"
    needs = {pxd: tuple(cimported(package, pxd)) for pxd in package.rglob("*.pxd")}
    for source in hot_modules:
        files, waiting = {source}, [source.with_suffix(".pxd")]
        while waiting:
            pxd = waiting.pop()
            if pxd not in files:
                files.add(pxd)
                waiting += needs.get(pxd, ())
        newest = max(files, key=_changed)
        for extension in map(source.with_suffix, EXTENSION_SUFFIXES):
            if extension.exists() and _changed(extension) < _changed(newest):
                return f"{newest.relative_to(package)} is newer than {extension.relative_to(package)}"
    return ""


def _changed(path: Path) -> float:
    """Return when a file was last written; infinity if it is missing."""
    return path.stat().st_mtime if path.exists() else float("inf")
