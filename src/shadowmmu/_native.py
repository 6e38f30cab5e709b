"""Whether the hot modules run compiled or interpreted: one decision per process, never a mixture."""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

PACKAGE = __name__.rpartition(".")[0]
NEVER_COMPILED = frozenset({"bits"})
"""Modules of constants: Python reads the .py, C reads the .pxd."""


def is_set(variable: str) -> bool:
    """True if the environment variable has a value other than the empty string and 0."""
    return os.environ.get(variable, "") not in ("", "0")


def hot_modules(package: Path) -> list[Path]:
    """The .py files below the folder `package` that are compiled: those with a .pxd beside them."""
    return [
        source
        for pxd in sorted(package.rglob("*.pxd"))
        if pxd.stem not in NEVER_COMPILED and (source := pxd.with_suffix(".py")).exists()
    ]


def choose_mode() -> bool:
    """Return True if the compiled modules are used, else make all imports of this package read its .py files.

    Raises ImportError if SHADOWMMU_REQUIRE_NATIVE is set and the modules are not compiled or not wanted.
    """
    missing = [
        source
        for source in hot_modules(Path(__file__).parent)
        if not any(source.with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES)
    ]
    asked = is_set("SHADOWMMU_INTERPRETED")
    if not missing and not asked:
        return True
    if is_set("SHADOWMMU_REQUIRE_NATIVE"):
        reason = "SHADOWMMU_INTERPRETED is set" if asked else f"{missing[0].name} is not compiled"
        raise ImportError(f"shadowmmu: SHADOWMMU_REQUIRE_NATIVE is set, but {reason}")
    if not asked and sys.stderr:
        sys.stderr.write(
            "shadowmmu: not compiled, runs interpreted, about 80 times slower "
            "(install with a C compiler, or set SHADOWMMU_INTERPRETED=1 to silence this line)\n"
        )
    sys.meta_path.insert(0, _FromSource())
    return False


class _FromSource:
    """A meta-path finder that serves this package's modules from their .py files only."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or not name.startswith(f"{PACKAGE}."):
            return None
        return FileFinder(path[0], (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name, target)
