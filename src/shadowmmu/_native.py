"""Whether the hot modules run compiled or interpreted: one decision per process, never a mixture."""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

PACKAGE = __name__.rpartition(".")[0]
NEVER_COMPILED = frozenset({"bits", "vmx"})
"""Modules of constants (_sources.CONSTANTS): Python reads the .py, C reads the .pxd."""


def is_set(variable: str) -> bool:
    """Return True if the environment variable has a value other than the empty string and 0."""
    return os.environ.get(variable, "") not in ("", "0")


def hot_modules(package: Path) -> list[Path]:
    """Return the .py files below the folder `package` that are compiled: those with a .pxd beside them."""
    return [
        source
        for pxd in sorted(package.rglob("*.pxd"))
        if pxd.stem not in NEVER_COMPILED and (source := pxd.with_suffix(".py")).exists()
    ]


def choose_mode() -> bool:
    """Return True if the compiled modules are used, else make all imports of this package read its .py files.

    Raises ImportError if SHADOWMMU_REQUIRE_NATIVE is set and the modules are not compiled, not compiled from
    the sources that are here, or not wanted.
    """
    asked = is_set("SHADOWMMU_INTERPRETED")
    obstacle, remedy = ("SHADOWMMU_INTERPRETED is set", "") if asked else _obstacle(Path(__file__).parent)
    if not obstacle:
        return True
    if is_set("SHADOWMMU_REQUIRE_NATIVE"):
        raise ImportError(f"shadowmmu: SHADOWMMU_REQUIRE_NATIVE is set, but {obstacle}")
    if not asked and sys.stderr:
        sys.stderr.write(
            f"shadowmmu: {obstacle}, runs interpreted, about 80 times slower "
            f"({remedy}, or set SHADOWMMU_INTERPRETED=1 to silence this line)\n"
        )
    sys.meta_path.insert(0, _FromSource())
    return False


def _obstacle(package: Path) -> tuple[str, str]:
    """Return why the extensions cannot be used, and what helps; two empty strings if they can.

    Only in a checkout, where sources are edited, are they compared with the extensions.
    """
    hot = hot_modules(package)
    for source in hot:
        if not any(source.with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES):
            return "not compiled", "install with a C compiler"
    if not (package.parents[1] / "setup.py").exists():
        return "", ""
    from ._sources import why_stale

    reason = why_stale(package, hot)
    return reason, "run make build" if reason else ""


class _FromSource:
    """A meta-path finder that serves this package's modules from their .py files only."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or not name.startswith(f"{PACKAGE}."):
            return None
        return FileFinder(path[0], (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name, target)
